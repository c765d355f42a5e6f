"""Before an hour of training: a recipe's exports, made and verified with the untrained model, and thrown away."""

import tempfile
from pathlib import Path
from typing import Any

from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.exporting import exporter
from kerastune.progress import Progress
from kerastune.recipe import Recipe, export_name
from kerastune.training import train
from kerastune.verifying.artifact import Artifact


def rehearse(
    recipe: Recipe, made: train.Plan, progress: Progress | None = None
) -> tuple[list[dict[str, Any]], KerastuneError | None]:
    """Exports the planned model before it is trained, as its run will be: what cannot work fails now.

    The head is drawn at random, so the conversion, `max_size_mb` and `max_latency_ms` are judged, but not
    `max_accuracy_drop`; under `quantize = "auto"` the first that keeps the others is made.

    Args:
        made: the plan; the head of its model is drawn anew.

    Returns:
        One row an export: name, format, quantize, passed, problems and, where they were measured, size_bytes,
        converter_peak_mb, latency_ms (median of one image here) and max_error (largest difference of a probability
        from Keras); and the error that `export` would raise, if there is one.

    Raises:
        VerificationError: the model does not survive being saved.
    """
    progress, failure = progress or Progress(), None
    wanted = [one.model_copy(update={"max_accuracy_drop": 1.0}) for one in recipe.exports]
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        of = train.untrained(recipe, made, Path(scratch), progress)
        try:
            exporter.export(of, wanted, progress=progress)
        except (VerificationError, ConverterError) as error:
            failure = error
        refused = {one["name"]: one["error"] for one in of.failures}
        rows = []
        for one in recipe.exports:
            name, (format, quantize) = export_name(one), one.resolved
            row = {"name": name, "format": format, "quantize": quantize}
            folder = of.exports / name
            if folder.is_dir():
                rows.append({**row, **_figures(Artifact(folder))})
            else:
                problem = refused.get(name) or (failure.message if failure else "")
                rows.append({**row, **dict.fromkeys(_FIGURES), "passed": False, "problems": [problem]})
    return rows, failure


_FIGURES = ("size_bytes", "converter_peak_mb", "latency_ms", "max_error")


def _figures(of: Artifact) -> dict[str, Any]:
    report = of.report or {}
    return {
        "quantize": of.manifest["quantize"],
        "size_bytes": report["size_bytes"],
        "converter_peak_mb": report["converter_peak_mb"],
        "latency_ms": report["latency_ms"]["median"],
        "max_error": report["validation"]["max_error"],
        "passed": report["passed"],
        "problems": report["problems"],
    }

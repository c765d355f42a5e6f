"""Before an hour of training: a recipe's exports, made and verified with the untrained model, and thrown away."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from kerastune import data, run, tasks
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.exporting import exporter
from kerastune.progress import Progress
from kerastune.recipe import Recipe, export_name
from kerastune.training import train
from kerastune.training.batches import Batches
from kerastune.training.loop import Position
from kerastune.training.plan import Plan
from kerastune.verifying.artifact import Artifact

_FEW = 64  # examples of a split


def rehearse(
    recipe: Recipe, made: Plan, progress: Progress | None = None
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
        of = untrained(made, Path(scratch), progress)
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


def untrained(made: Plan, folder: Path, progress: Progress) -> run.Run:
    """A run of the planned model before it is trained, to try its exports with.

    Its head is drawn anew so that outputs vary, and it scores only a few validation and test examples.
    """
    recipe, model = made.recipe, made.task
    few = [data.few(split, _FEW) for split in (made.splits.validation, made.splits.test)]
    splits = replace(made.splits, validation=few[0], test=few[1])
    kind = tasks.get(recipe.task)
    kind.building.vary(model, kind.feeding.example(recipe, model, splits.validation, len(splits.validation)))
    loaded, _ = train.save(Batches(recipe, model, splits), folder)
    predictions, metrics = train.score(recipe, loaded, splits, progress)
    record = train.record_of(
        replace(made, audits=()),
        train.facts_of(made),
        Position(),
        status="complete",
        model={},
        metrics=metrics,
        saving=(),
        seconds={},
    )
    run.write(folder, recipe, record, [], predictions)
    return run.Run(folder, [splits])


_FIGURES = ("size_bytes", "converter_peak_mb", "latency_ms", "max_error")


def _figures(of: Artifact) -> dict[str, Any]:
    report = of.report
    assert report and report.validation and report.own.latency_ms  # it was verified beside its run as it was made
    return {
        "quantize": of.manifest.quantize,
        "size_bytes": report.size_bytes,
        "converter_peak_mb": report.converter_peak_mb,
        "latency_ms": report.own.latency_ms.median,
        "max_error": report.validation.outputs.max_error,
        "passed": report.passed,
        "problems": list(report.problems),
    }

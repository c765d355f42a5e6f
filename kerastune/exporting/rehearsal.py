"""Tries a recipe's exports with the untrained model before an hour of training, and discards them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kerastune import data, files, run, tasks
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.exporting import exporter
from kerastune.progress import Progress
from kerastune.recipe import Recipe, export_name
from kerastune.tasks.learnt.statistics import fewest
from kerastune.training import train
from kerastune.training.batches import Batches
from kerastune.training.facts import facts_of
from kerastune.training.plan import Plan
from kerastune.training.position import Position
from kerastune.verifying.artifact import Artifact

_FEW = 64  # examples of a split


def rehearse(
    recipe: Recipe, made: Plan, progress: Progress | None = None
) -> tuple[list[dict[str, Any]], KerastuneError | None]:
    """Exports the planned model before training, so that failures show now.

    The head is random, so the conversion, `max_size_mb` and `max_latency_ms` are judged, but not `max_accuracy_drop`;
    `quantize = "auto"` takes the first candidate within the other limits.

    Args:
        made: the plan; its model gets a random head.

    Returns:
        One row per export: name, format, quantize, passed, problems and, if measured, size_bytes, converter_peak_mb,
        latency_ms (median for one image here) and max_error (largest difference of a probability from Keras); and the
        error that `export` would raise, or None.

    Raises:
        VerificationError: the model does not survive being saved.
    """
    progress, failure = progress or Progress(), None
    wanted = [one.model_copy(update={"max_accuracy_drop": 1.0}) for one in recipe.exports]
    with files.scratch() as scratch:
        of = untrained(made, scratch, progress)
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


def warnings(recipe: Recipe, made: Plan) -> list[str]:
    """What the validation split is too small to judge of what the recipe asks."""
    count, plural = len(made.splits.validation), made.splits.validation.modality.plural
    found = []
    for one in recipe.exports:
        quantize, allowed = one.resolved[1], one.max_accuracy_drop
        least = fewest(allowed)
        if quantize != "none" and allowed < 1 and least is not None and count < least:
            found.append(
                f"{export_name(one)}: {count:,} validation {plural} are too few to tell whether more than "
                f"max_accuracy_drop = {allowed:g} is lost: one of them is {1 / count:.4f}, and it takes {least:,} to "
                "call a model the same that loses none. Unless it is worse beyond doubt, it is exported with a "
                "warning; a larger data.validation_fraction, or more data, would tell."
            )
    return found


def untrained(made: Plan, folder: Path, progress: Progress) -> run.Run:
    """Makes a run of the planned, untrained model to try its exports.

    Its head is random, so that outputs vary, and it scores only a few validation and test examples.
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
        facts_of(made),
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
    assert report and report.validation and report.own.latency_ms  # it was verified with its run
    return {
        "quantize": of.manifest.quantize,
        "size_bytes": report.size_bytes,
        "converter_peak_mb": report.converter_peak_mb,
        "latency_ms": report.own.latency_ms.median,
        "max_error": report.validation.outputs.max_error,
        "passed": report.passed,
        "problems": list(report.problems),
    }

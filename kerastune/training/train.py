"""Turns a recipe into a run: plans, trains, resumes after a kill, saves and scores."""

import dataclasses
import datetime
import functools
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kerastune import assets, child, environment, files, run, tasks, unfinished
from kerastune.data import KNOWN, Splits, ragged
from kerastune.errors import VerificationError
from kerastune.progress import Progress, shown_by_default
from kerastune.recipe import Recipe
from kerastune.records import (
    DataRecord,
    Decision,
    Generations,
    Machine,
    Resumption,
    RunRecord,
    differences,
    from_json,
    to_json,
)
from kerastune.tasks.learnt import statistics
from kerastune.training import calibrating, checkpoint, following, memory, saving
from kerastune.training.batches import Batches
from kerastune.training.facts import facts_of, refuse_changes
from kerastune.training.loop import Training
from kerastune.training.plan import Plan, plan
from kerastune.training.position import Position
from kerastune.workers.group import Group


@shown_by_default
def fine_tune(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    force: bool = False,
    job: Literal["train", "run"] = "train",
    like: run.Run | None = None,
    group: Group | None = None,
    progress: Progress | None = None,
) -> run.Run:
    """Trains what the recipe asks for and writes a run folder.

    The same recipe, data, versions and machine give the same bits, but for what `auto` decides by timing. With `like`
    they do so however busy the machine is.

    While it trains there is `<out>.partial`, with checkpoints: `resume` goes on from them after a kill.

    Args:
        out: the run folder; default runs/<recipe>-<time>.
        force: replace `out` if it exists, and discard an unfinished training of it.
        job: what the caller does with the run, for whoever resumes it: "train", or "run" for exports too.
        like: a run of the same recipe, whose decisions are taken over instead of made again. What else differs from
            it is said, and recorded.
        group: the workers that train together, of which this process is the chief; the others `follow`. By default
            it trains alone, or plays the workers that `like` had.
        progress: is told what happens; by default, a terminal or a notebook shows it, and nothing else does.

    Returns:
        The run. After Ctrl-C it holds the best weights so far and the checkpoints, with `status` "interrupted" and
        no metrics.

    Raises:
        RecipeError, DataError, AssetError: with what to mend.
        VerificationError: a frozen weight moved, or the saved model is not the trained one.
        ConverterError: the disk is full; the last checkpoint is intact.
    """
    progress = progress or Progress()
    group = group or Group(like.record.workers if like else 1)
    started = datetime.datetime.now().astimezone()
    folder = files.absolute(out or run.default_folder(recipe))
    with unfinished.work_folder(folder, force) as work, memory.told():  # before an hour of work
        stopwatch = _Stopwatch()
        following.refuse_joint(recipe, group)
        made = plan(recipe, progress, _decided(like))
        recipe = made.recipe
        facts = {**facts_of(made, job, group.count), "started": started.isoformat(timespec="seconds")}
        following.lead(group, made, facts)
        if like:
            facts["like"] = str(like.folder)
            _tell_differences(like, recipe, facts, progress)
        facts["before"] = _before(recipe, made, progress)
        stopwatch.lap("prepare")
        unfinished.begin(work, recipe)
        return _train(Training(made, work, facts, progress, group), made, folder, stopwatch, force)


@shown_by_default
def resume(folder: str | Path, progress: Progress | None = None, *, group: Group | None = None) -> run.Run:
    """Resumes a killed or interrupted training, with bit-identical results.

    Args:
        group: as of `fine_tune`. By default it goes on alone, and plays the workers that the training had.

    Raises:
        KerastuneError: there is nothing to resume, it is still running, or the recipe, the data, the pretrained
            weights or the versions are others now; the message lists what differs.
    """
    progress = progress or Progress()
    folder = files.absolute(str(folder).removesuffix(run.PARTIAL))
    if made_before := unfinished.concluded(folder):
        return made_before
    with unfinished.resumed(folder) as work, memory.told():
        then, arrays = checkpoint.read(work / run.CHECKPOINTS)
        then = {"workers": 1, **then}  # from before there were several
        recipe = run.recipe_of(work)
        group = group or Group(then["workers"])
        asked = {"recipe": recipe.model_dump(mode="json"), "versions": environment.versions(), "workers": group.count}
        refuse_changes(then, asked, folder)
        stopwatch = _Stopwatch()
        at = from_json(Position, then["at"])
        made = plan(recipe, progress, at.decisions)
        now = facts_of(made, workers=group.count)
        refuse_changes(then, now, folder)
        following.lead(group, made, now, at, arrays, work / run.CHECKPOINTS)
        stopwatch.lap("prepare")
        time_now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        again = Resumption(time_now, at.phase, at.epoch, at.step, now["machine"]["cpu"])
        training = Training(made, work, {**then, "resumed": [*then["resumed"], to_json(again)]}, progress, group)
        training.go_on_from(at, arrays)
        progress.say(f"Going on with {folder.name} in phase {at.phase}, epoch {at.epoch}, step {at.step}")
        return _train(training, made, folder, stopwatch, force=True)


def _decided(like: run.Run | None) -> list[Decision]:
    """Returns the decisions of an earlier run; each reason names that run."""
    if not like:
        return []
    return [dataclasses.replace(one, why=f"as in {like.folder.name}: {one.why}") for one in like.record.decisions]


def _tell_differences(like: run.Run, recipe: Recipe, facts: Mapping[str, Any], progress: Progress) -> None:
    """Reports differences from the repeated run that may change the bits."""
    then = {
        "recipe": like.recipe.model_dump(mode="json"),
        "data": {"fingerprint": like.record.data.fingerprint},
        "preset_sha256": like.record.preset_sha256,
        "versions": like.record.versions,
        "machine": {"cpu": like.record.machine.cpu, "gpus": list(like.record.machine.gpus)},
    }
    now = {
        key: {name: facts[key][name] for name in value} if isinstance(value, dict) else facts[key]
        for key, value in then.items()
    }
    for line in differences(then, {key: now[key] for key in then}):
        progress.say(f"Not like {like.folder.name}, so the bits may differ: {line}")


def _train(training: Training, made: Plan, folder: Path, stopwatch: "_Stopwatch", force: bool) -> run.Run:
    """Finishes training, and turns the work folder into a run."""
    recipe, progress, work = training.recipe, training.progress, training.work
    # Tokenises all texts, so it comes first: TensorFlow drops a SentencePiece model when training sets its seed.
    described = training.kind.building.describe(recipe, made.task, made.splits)
    for warning in described.get("warnings", ()):
        progress.say(f"warning: {warning}")
    try:
        interrupted = training.run()
    except VerificationError:
        shutil.rmtree(work)  # its weights are not to be gone on with
        raise
    if training.facts["job"] == "run" and recipe.exports and not interrupted:
        child.preload()  # for the exports, while this process saves and scores
    stopwatch.laps["train"] = round(training.at.seconds, 1)
    stopwatch.skip()  # the training counts its own, those of the processes before it included
    heat = None if interrupted else calibrating.calibrate(recipe, made.task, made.splits, progress)
    loaded, notes = save(made.batches, work)
    stopwatch.lap("save")
    predictions: dict[str, Any] = {}
    metrics = None
    if not interrupted:
        predictions, metrics = score(recipe, loaded, made.splits, progress)
        described |= _calibration(recipe, heat, made.splits, predictions, progress)
        stopwatch.lap("evaluate")
    record = record_of(
        made,
        training.facts,
        training.at,
        status="interrupted" if interrupted else "complete",
        model=described,
        metrics=metrics,
        saving=tuple(notes),
        seconds=stopwatch.laps,
    )
    run.write(work, recipe, record, training.at.history, predictions)
    unfinished.finish(work, folder, force)
    return run.Run(folder, [made.splits])


def _calibration(
    recipe: Recipe, heat: float | None, splits: Splits, predictions: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Returns the "calibration" by a temperature and the "decision" at a threshold, for run.json, if asked for."""
    said = {name: ragged.unpacked(predictions, f"{name}/predictions/") for name in ("validation", "test")}
    found: dict[str, Any] = {}
    if heat:
        errors = {name: calibrating.errors(recipe, heat, splits.parts[name], each) for name, each in said.items()}
        found["calibration"] = {"temperature": round(heat, 4), **errors}
        progress.say(
            f"Calibrated by the temperature {heat:.3f}: expected calibration error on the test split "
            "{before:.4f} before, {after:.4f} after".format(**errors["test"])
        )
    if decision := calibrating.decision(recipe, splits, said):
        found["decision"] = decision
        rates = {name: decision["test"][name]["value"] for name in ("sensitivity", "specificity")}
        words = ", ".join(f"{name} {'–' if value is None else f'{value:.4f}'}" for name, value in rates.items())
        progress.say(f"Decides for {decision['label']} from {decision['threshold']:.4f} on: test {words}")
    return found


def record_of(made: Plan, facts: Mapping[str, Any], at: Position, **found: Any) -> RunRecord:
    """Returns the record of a training at a position.

    Args:
        facts: a checkpoint's.
        found: the record's other fields: status, model, metrics, saving, seconds.
    """
    recipe, splits = made.recipe, made.splits
    ran = [*at.ran, *([None] * len(made.audits))]
    return RunRecord(
        job=facts["job"],
        workers=facts["workers"],
        name=recipe.name,
        like=facts.get("like"),
        task=recipe.task,
        preset=recipe.preset,
        preset_sha256=facts["preset_sha256"],
        recipe_sha256=recipe.sha256(),
        labels=tuple(splits.labels),
        target=recipe.data.target,
        metric=tasks.device(recipe.task).learnt(recipe).metric.name,
        seed=recipe.seed,
        backbone=type(made.task.backbone).__name__,
        parameters=made.task.count_params(),
        before=facts["before"].get("metrics"),
        generations=_generations(recipe, made, facts["before"], at.said),
        data=DataRecord(splits.fingerprint, made.counts, tuple(splits.notes), tuple(splits.skipped)),
        phases=tuple(dataclasses.replace(audit, ran=each) for audit, each in zip(made.audits, ran, strict=False)),
        decisions=tuple(at.decisions),
        started=facts["started"],
        resumed=tuple(from_json(Resumption, again) for again in facts["resumed"]),
        versions=facts["versions"],
        machine=from_json(Machine, facts["machine"]),
        **found,
    )


# --- saving and scoring ------------------------------------------------------------------------------------


def save(batches: Batches, folder: Path) -> tuple[Any, list[str]]:
    """Saves a model, proves that it loads unchanged, and returns it in float32, with notes.

    Raises:
        VerificationError: as `saving.save`.
    """
    building, recipe, task = tasks.get(batches.recipe.task).building, batches.recipe, batches.task
    precision = task.backbone.dtype_policy.name
    building.write_beside(task, folder)
    loaded, notes = saving.save(task, folder, lambda path: building.load(str(path), recipe, precision), batches.example)
    return (loaded if precision == "float32" else building.load(str(folder), recipe, "float32")), notes


def _natural(recipe: Recipe, splits: Splits) -> Any:
    """Returns a truth in which labels are as common as they are; `data.per_label` evens them out in training."""
    return (splits.validation if recipe.data.per_label else splits.train).labels


def score(
    recipe: Recipe, task: Any, splits: Splits, progress: Progress
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the saved model's predictions and metrics on the validation and test splits.

    Known labels have metrics alone: their examples are searched for among those of training, as in a catalogue.

    A metric's "baseline" is what the best guess without a model would reach.
    """
    kind, learnt = tasks.get(recipe.task), tasks.device(recipe.task).learnt(recipe)
    predictions: dict[str, Any] = {}
    metrics: dict[str, dict[str, Any]] = {}

    def predicted(name: str) -> Any:
        split = splits.parts[name]
        told = functools.partial(progress.advance, f"scoring {name}", total=len(split))
        return kind.predict(recipe, task, split, recipe.train.batch_size, told)

    for name in ("validation", "test"):
        split, found = splits.parts[name], predicted(name)
        stored = {"ids": np.array(split.ids), "digests": np.array(split.digests), "truth": split.labels}
        predictions |= ragged.packed(stored, f"{name}/")
        predictions |= ragged.packed(found, f"{name}/predictions/")
        metrics[name] = learnt.metrics(splits.labels, split.labels, found)
        guess = statistics.beside_guess(learnt, splits.labels, _natural(recipe, splits), split.labels, found)
        if guess:
            metrics[name]["baseline"] = guess
    told = functools.partial(progress.advance, "scoring other data")
    metrics |= kind.beside(recipe, task, told)
    if splits.known and learnt.among:
        found, seen = predicted(KNOWN), predicted("train")
        metrics[KNOWN] = learnt.among(splits.known.labels, found, splits.train.labels, seen)
    return predictions, metrics


def _before(recipe: Recipe, made: Plan, progress: Progress) -> dict[str, Any]:
    """Returns metrics and sampled answers before training, if the preset can already do the task."""
    kind = tasks.get(recipe.task)
    if not kind.learning.starts:
        return {}
    _, metrics = score(recipe, made.task, made.splits, progress)
    return {"metrics": metrics, "texts": kind.learning.samples(recipe, made.task, made.splits)}


def _generations(
    recipe: Recipe, made: Plan, before: dict[str, Any], epochs: Mapping[str, Sequence[str]]
) -> Generations | None:
    """Returns a generating model's answers to the sampled prompts."""
    if not (asked := tasks.get(recipe.task).learning.sampled(recipe, made.splits)):
        return None
    said = {name: tuple(texts) for name, texts in epochs.items()}
    return Generations(tuple(map(tuple, asked)), tuple(before.get("texts", ())), said)


@shown_by_default
def evaluate(of: run.Run, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Scores a run's model again on its validation and test splits, and updates the run.

    Raises:
        DataError: the data cannot be read, or are not those the run was made with.
    """
    progress = progress or Progress()
    environment.prepare_gpus()
    with run.changing(of.folder, "evaluating"):
        splits = of.splits(progress)
        with assets.reading(str(of.folder)):
            task = tasks.get(of.recipe.task).building.load(str(of.folder), of.recipe, "float32")
        predictions, metrics = score(of.recipe, task, splits, progress)
        run.replace_scores(of.folder, dataclasses.replace(of.record, metrics=metrics), predictions)
    return metrics


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def skip(self) -> None:
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 1)
        self._last = now

"""From a recipe to a run: plan, train, go on after a kill, save, score."""

import datetime
import functools
import hashlib
import math
import shutil
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from kerastune import assets, data, environment, files, run, tasks
from kerastune.data import Split, Splits, ragged
from kerastune.errors import KerastuneError, RecipeError, VerificationError
from kerastune.progress import Progress
from kerastune.recipe import Phase, Recipe
from kerastune.tasks.wanted import refusals
from kerastune.training import checkpoint, lora, phases, saving
from kerastune.training.batches import Batches
from kerastune.training.loop import Training, without_xla
from kerastune.training.prefix import cache, cutting, features

Decision = dict[str, Any]
_TIMED_ROWS, _TIMED_PRODUCTS = 512, 10
_WORTH_ROUNDING = 1.3  # how much faster matrix products must be, for a policy of less precision


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first step: the data, the model, and who will train when."""

    splits: Splits
    task: Any
    audits: tuple[dict[str, Any], ...]
    decisions: tuple[Decision, ...]
    moving: frozenset[str]  # keys (`lora.key`) of the weights that some phase may move
    memory_mb: int

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Examples by label in each split."""
        parts = {name: getattr(self.splits, name) for name in ("train", "validation", "test")}
        return {name: part.truth.counts(self.splits.labels, part.labels) for name, part in parts.items()}


def plan(recipe: Recipe, progress: Progress | None = None, decided: Sequence[Decision] = ()) -> Plan:
    """Reads and checks all the data, builds the model, and applies every phase's freezing once.

    Args:
        decided: what a training that is gone on with has decided; its precision holds.

    Raises:
        DataError, AssetError, RecipeError: with what to mend.
    """
    progress = progress or Progress()
    preset = assets.resolve_preset(recipe.preset)  # first: it is the cheapest to get wrong
    splits = data.load(recipe.data, progress.advance)
    progress.say(f"Loading {recipe.preset}")
    kind = tasks.get(recipe.task)

    def build(precision: str) -> Any:
        keras.utils.set_random_seed(recipe.seed)
        return kind.building.build(recipe, preset, len(splits.labels), precision)

    decisions = [one for one in decided if one["key"] == "train.precision"]
    if recipe.train.precision != "auto":
        task = build(recipe.train.precision)
    elif decisions:
        task = build(decisions[0]["got"])
    else:
        trains_more = any(phase.unfreeze != "head" for phase in recipe.phases)
        task, decision = _in_best_precision(build, kind.building.largest_product if trains_more else None)
        decisions = [decision]
    kind.building.prepare(recipe, task, splits)
    if recipe.train.xla is True and (bad := without_xla(task)):
        raise RecipeError(f"train.xla = true, but these layers have no XLA: {', '.join(bad)}.", 'Use xla = "auto".')
    if refused := refusals(recipe, recipe.exports, type(task.backbone).__name__):
        raise RecipeError("\n".join(refused) + ".", "Choose another quantize or target in [[exports]].")
    batches = Batches(recipe, task, splits)
    audits, moving = [], frozenset[str]()
    for number, phase in enumerate(recipe.phases, start=1):
        audits.append(phases.freeze(task, phase))
        moving |= _moving(task, phase)
        decisions.append({"phase": number, **_cache(batches, number)})
        lora.merge(task)
    return Plan(splits, task, tuple(audits), tuple(decisions), moving, _memory_mb(recipe, task, splits))


def _moving(task: Any, phase: Phase) -> frozenset[str]:
    """Keys of all weights of the layers in which something moves: merging moves an adapted layer's kernel, too."""
    keys = {id(weight): lora.key(name).rstrip("ab") for name, weight in lora.weights(task).items()}

    def moves(layer: Any, own: list[Any]) -> bool:
        statistics = isinstance(layer, keras.layers.BatchNormalization) and phase.batch_norm == "recalibrate"
        return statistics or any(weight.trainable for weight in own)

    owned = [(layer, layer._trainable_variables + layer._non_trainable_variables) for layer in task._flatten_layers()]
    return frozenset(keys[id(weight)] for layer, own in owned if moves(layer, own) for weight in own)


def fine_tune(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    force: bool = False,
    job: str = "train",
    progress: Progress | None = None,
) -> run.Run:
    """Trains what the recipe asks for and writes a run folder.

    While it trains there is `<out>.partial`, with checkpoints: `resume` goes on from them after a kill.

    Args:
        out: the run folder; default runs/<recipe>-<time>.
        force: replace `out` if it exists, and discard an unfinished training of it.
        job: what the caller does with the run, for whoever resumes it: "train", or "run" for exports too.
        progress: is told what happens; silent by default.

    Returns:
        The run. After Ctrl-C it holds the best weights so far and the checkpoints, with `status` "interrupted" and
        no metrics.

    Raises:
        RecipeError, DataError, AssetError: with what to mend.
        VerificationError: a frozen weight moved, or the saved model is not the trained one.
        ConverterError: the disk is full; the last checkpoint is intact.
    """
    progress = progress or Progress()
    started = datetime.datetime.now().astimezone()
    folder = files.absolute(out or Path("runs") / f"{recipe.name}-{started:%Y%m%d-%H%M%S}")
    files.refuse_existing(folder, force)  # before an hour of training, not after
    run.refuse_unfinished(folder, force)
    stopwatch = _Stopwatch()
    made = plan(recipe, progress)
    facts = {**_facts(recipe, made), "started": started.isoformat(timespec="seconds"), "job": job, "resumed": []}
    facts["before"] = _before(recipe, made, progress)
    stopwatch.lap("prepare")
    with run.work_folder(folder, recipe) as work:
        training = Training(recipe, made.splits, made.task, made.decisions, made.moving, work, facts, progress)
        return _train(training, made, folder, stopwatch, force)


def resume(folder: str | Path, progress: Progress | None = None) -> run.Run:
    """Goes on with a training that was killed or interrupted, to the bits that it would have reached.

    Raises:
        KerastuneError: there is nothing to resume, it is still running, or the recipe, the data, the pretrained
            weights or the versions are others now; the message lists what differs.
    """
    progress = progress or Progress()
    folder = files.absolute(str(folder).removesuffix(run.PARTIAL))
    with run.unfinished(folder) as work:
        then, arrays = checkpoint.read(work / run.CHECKPOINTS)
        recipe = run.recipe_of(work)
        _refuse_changes(then, {"recipe": recipe.model_dump(mode="json"), "versions": environment.versions()}, folder)
        stopwatch = _Stopwatch()
        made = plan(recipe, progress, then["at"]["decisions"])
        now = _facts(recipe, made)
        _refuse_changes(then, now, folder)
        stopwatch.lap("prepare")
        at = {key: then["at"][key] for key in ("phase", "epoch", "step")}
        again = {"at": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), **at, **now["machine"]}
        facts = {**then, "resumed": [*then["resumed"], again]}
        training = Training(recipe, made.splits, made.task, made.decisions, made.moving, work, facts, progress)
        training.go_on_from(then["at"], arrays)
        progress.say(f"Going on with {folder.name} in phase {at['phase']}, epoch {at['epoch']}, step {at['step']}")
        return _train(training, made, folder, stopwatch, force=True)


_UNCHANGED = ("recipe", "data", "preset_sha256", "versions")


def _facts(recipe: Recipe, made: Plan) -> dict[str, Any]:
    """What decides the bits, and may not change before a run is resumed; and the machine, which is only recorded."""
    weights = hashlib.sha256()
    for weight in made.task.backbone.weights:
        weights.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"fingerprint": made.splits.fingerprint, **made.counts},
        "preset_sha256": weights.hexdigest(),
        "versions": environment.versions(),
        "machine": {**environment.machine(), "gpus": [d.name for d in tf.config.list_physical_devices("GPU")]},
    }


def _refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    changes = [line for key in _UNCHANGED if key in now for line in checkpoint.differences(then[key], now[key], key)]
    if changes:
        listed = "\n".join(f"  {line}" for line in changes)
        raise KerastuneError(
            f"{folder} cannot be resumed to the same bits; these changed since its last checkpoint:\n{listed}",
            "Put them back as they were, or train again from the start: kerastune run RECIPE -o DIR --force",
        )


def _train(training: Training, made: Plan, folder: Path, stopwatch: "_Stopwatch", force: bool) -> run.Run:
    """Trains what is left, and turns the work folder into a run."""
    recipe, progress, work = training.recipe, training.progress, training.work
    # First, which tokenises all texts: TensorFlow drops a SentencePiece model when training sets its seed.
    described = training.kind.building.describe(recipe, made.task, made.splits)
    try:
        interrupted = training.run()
    except VerificationError:
        shutil.rmtree(work)  # its weights are not to be gone on with
        raise
    stopwatch.laps["train"] = round(training.at.seconds, 1)
    stopwatch.skip()  # the training counts its own, those of the processes before it included
    facts = training.facts
    ran = [*training.at.ran, *([{}] * len(made.audits))]
    audits = [{**audit, **more} for audit, more in zip(made.audits, ran, strict=False)]
    record: dict[str, Any] = {
        "status": "interrupted" if interrupted else "complete",
        "job": facts["job"],
        "name": recipe.name,
        "task": recipe.task,
        "preset": recipe.preset,
        "preset_sha256": facts["preset_sha256"],
        "recipe_sha256": recipe.sha256(),
        "labels": list(made.splits.labels),
        **described,
        "target": recipe.data.target,
        "metric": training.metric,
        "seed": recipe.seed,
        "backbone": type(made.task.backbone).__name__,
        "parameters": made.task.count_params(),
        **_said(recipe, made, facts["before"], training.at.said),
        "data": {
            "fingerprint": made.splits.fingerprint,
            "counts": made.counts,
            "notes": list(made.splits.notes),
            "skipped": list(made.splits.skipped),
        },
        "phases": audits,
        "decisions": training.at.decisions,
        "started": facts["started"],
        "resumed": facts["resumed"],
        "versions": facts["versions"],
        "machine": facts["machine"],
    }
    loaded, record["saving"] = _save(recipe, made, work)
    stopwatch.lap("save")
    predictions: dict[str, Any] = {}
    if not interrupted:
        predictions, record["metrics"] = _evaluate(recipe, loaded, made.splits, progress)
        stopwatch.lap("evaluate")
    run.write(work, recipe, {**record, "seconds": stopwatch.laps}, training.at.history, predictions)
    run.finish(work, folder, force, keep_checkpoints=interrupted)
    return run.Run(folder, [made.splits])


# --- decisions ---------------------------------------------------------------------------------------------


def _in_best_precision(
    build: Callable[[str], Any], largest_product: Callable[[Any], Any] | None
) -> tuple[Any, Decision]:
    """The model in the dtype policy that is faster here, and the decision.

    Args:
        largest_product: the contract's; None where only a head trains: the rest runs once, and a head on features of 3
            digits learns less.
    """
    task = None
    if capabilities := _capabilities():
        got, why = _on_gpus(capabilities)
    else:
        got, why = "float32", "there is no GPU, and a CPU is timed only where more of a text model than its head trains"
        if largest_product:
            task = build("float32")
            if (weight := largest_product(task)) is not None:
                got, why = _on_cpu(weight)
    if task is None or got != "float32":
        task = None  # the first is gone before there is a second
        task = build(got)
    return task, {"key": "train.precision", "asked": "auto", "got": got, "why": why}


def _on_gpus(capabilities: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """A dtype policy for GPUs of these compute capabilities, and the reason."""
    if min(capabilities) >= (8, 0):
        return "mixed_bfloat16", "every GPU computes in bfloat16 (compute capability 8.0 or newer)"
    return "float32", f"a GPU of compute capability {'.'.join(map(str, min(capabilities)))} has no bfloat16"


def _on_cpu(largest: Any) -> tuple[str, str]:
    """A dtype policy for a model that spends its time in matrix products, and the reason: the largest one is timed.

    bfloat16 is 1.5 times as fast or more with AVX512-BF16 or AMX, and three times as slow without.
    """
    kernel = tf.reshape(tf.convert_to_tensor(largest), [largest.shape[0], -1])
    x = tf.random.stateless_normal([_TIMED_ROWS, kernel.shape[0]], seed=(0, 0))

    # A mixed policy casts the weights in every step.
    product = tf.function(lambda x, kernel, dtype: tf.matmul(tf.cast(x, dtype), tf.cast(kernel, dtype)))
    seconds = {tf.float32: math.inf, tf.bfloat16: math.inf}
    for dtype in [*seconds] * 2:  # twice: what comes first in a process is slower
        product(x, kernel, dtype)  # traces
        # The process's own time: what else runs on the machine must not turn the decision.
        run_once = functools.partial(product, x, kernel, dtype)
        took = timeit.repeat(run_once, timer=time.process_time, number=1, repeat=_TIMED_PRODUCTS)
        seconds[dtype] = min(seconds[dtype], *took)
    gain = seconds[tf.float32] / seconds[tf.bfloat16]
    why = f"there is no GPU, and a matrix product takes {gain:.2f} times as long in float32 as in bfloat16 on this CPU"
    return ("mixed_bfloat16" if gain >= _WORTH_ROUNDING else "float32"), why


def _capabilities() -> list[tuple[int, int]]:
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]


def _cache(batches: Batches, number: int) -> Decision:
    """Whether and where a phase, as it is frozen now, keeps the outputs of its frozen layers."""
    recipe = batches.recipe
    phase, settings = recipe.phases[number - 1], recipe.train
    if not phase.epochs:
        return {"key": "train.cache", "asked": settings.cache, "got": "off", "why": "the phase has no epochs"}
    cut, where = cutting.cut(batches.task, batches.example, batches.bucketed)
    if cut and (fault := cutting.prove(cut, batches.example)):
        cut, where = None, fault
    got, why = cache.decide(
        settings.cache,
        bytes_needed=features.count(batches) * cut.bytes_per_example if cut else 0,
        epochs=phase.epochs,
        memory_available=psutil.virtual_memory().available,
        disk_available=cache.room(),
        changes=recipe.augments and not settings.cache_views,
        cut_reason=None if cut else where,
        is_stored=cut is not None and bool(features.stored(features.keys(batches, number, cut), settings.cache_views)),
    )
    found = {"key": "train.cache", "asked": settings.cache, "got": got, "why": f"{why}; {where}" if cut else why}
    return {**found, "after": list(cut.after), "bytes_per_example": cut.bytes_per_example} if cut else found


# --- saving and scoring ------------------------------------------------------------------------------------


def _save(recipe: Recipe, made: Plan, folder: Path) -> tuple[Any, list[str]]:
    """Saves the model, proves that what comes back is it, and returns it in float32, with notes."""
    kind, task = tasks.get(recipe.task), made.task
    precision = task.backbone.dtype_policy.name
    example = kind.feeding.example(recipe, task, made.splits.validation, recipe.train.batch_size)
    kind.building.write_beside(task, folder)
    load = kind.building.load
    loaded, notes = saving.save(task, folder, lambda path: load(str(path), recipe, precision), example)
    return (loaded if precision == "float32" else load(str(folder), recipe, "float32")), notes


def _evaluate(
    recipe: Recipe, task: Any, splits: Splits, progress: Progress
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The saved model's scores and metrics on the validation and test splits."""
    kind, learnt = tasks.get(recipe.task), tasks.device(recipe.task).learnt(recipe)
    predictions: dict[str, Any] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for name in ("validation", "test"):
        split: Split = getattr(splits, name)
        found = kind.predict(
            recipe,
            task,
            split,
            recipe.train.batch_size,
            lambda done, s=split, t=name: progress.advance(f"scoring {t}", done, len(s)),
        )
        stored = {"ids": np.array(split.ids), "digests": np.array(split.digests), "truth": split.labels}
        predictions |= {f"{name}/{key}": value for key, value in stored.items()}
        predictions |= ragged.packed(found, f"{name}/predictions/")
        metrics[name] = learnt.metrics(splits.labels, split.labels, found)
    return predictions, metrics


def _before(recipe: Recipe, made: Plan, progress: Progress) -> dict[str, Any]:
    """What a preset is worth, and says, before it is trained, where it can do its task already."""
    kind = tasks.get(recipe.task)
    if not kind.learning.starts:
        return {}
    _, metrics = _evaluate(recipe, made.task, made.splits, progress)
    return {"metrics": metrics, "texts": kind.learning.samples(recipe, made.task, made.splits)}


def _said(
    recipe: Recipe, made: Plan, before: dict[str, Any], epochs: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """What run.json says of the time before training, and of what a model that generates said to some prompts."""
    kind = tasks.get(recipe.task)
    found = {"before": before["metrics"]} if before else {}
    if asked := kind.learning.sampled(recipe, made.splits):
        found["generations"] = {"conversations": asked, "before": before["texts"], "epochs": dict(epochs)}
    return found


def evaluate(of: run.Run, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Scores a run's model anew on its recipe's validation and test splits, and records that in the run.

    Raises:
        DataError: the data cannot be read, or are not those the run was made with.
    """
    progress = progress or Progress()
    splits = of.splits(progress)
    task = tasks.get(of.recipe.task).building.load(str(of.folder), of.recipe, "float32")
    predictions, metrics = _evaluate(of.recipe, task, splits, progress)
    run.write(of.folder, of.recipe, {**of.record, "metrics": metrics}, of.history, predictions)
    return metrics


_FEW = 64


def untrained(recipe: Recipe, made: Plan, folder: Path, progress: Progress) -> run.Run:
    """A run of the planned model before it is trained, to try its exports with.

    Its last layer is drawn anew so that scores vary, and it scores only a few validation and test images.
    """
    few = [data.few(split, _FEW) for split in (made.splits.validation, made.splits.test)]
    splits = replace(made.splits, validation=few[0], test=few[1])
    kind = tasks.get(recipe.task)
    example = kind.feeding.example(recipe, made.task, splits.validation, len(splits.validation))
    kind.building.vary(made.task, example)
    loaded, _ = _save(recipe, replace(made, splits=splits), folder)
    predictions, metrics = _evaluate(recipe, loaded, splits, progress)
    record = {
        "labels": list(splits.labels),
        "backbone": type(made.task.backbone).__name__,
        "recipe_sha256": recipe.sha256(),
        "metric": tasks.device(recipe.task).learnt(recipe).metric.name,
        "metrics": metrics,
    }
    run.write(folder, recipe, record, [], predictions)
    return run.Run(folder, [splits])


# --- estimates ---------------------------------------------------------------------------------------------


def _memory_mb(recipe: Recipe, task: keras.Model, splits: Splits) -> int:
    """An upper estimate of the model's memory in the largest phase, in MB: weights, gradients, two optimizer
    slots, and every tensor of a forward pass kept for the backward one. The libraries add about 1 GB."""
    example = tasks.get(recipe.task).feeding.example(recipe, task, splits.train, 1)
    rows = recipe.train.batch_size * len(keras.tree.flatten(example)[0])  # of one example, several where it has sides
    specs = keras.tree.map_structure(lambda x: tf.TensorSpec([rows, *x.shape[1:]], x.dtype), example)
    graph = tf.function(lambda x: task(x, training=False)).get_concrete_function(specs).graph
    activations: int = sum(
        out.dtype.size * (out.shape.num_elements() or 0)
        for op in graph.get_operations()
        if op.type not in ("Const", "ReadVariableOp", "Placeholder", "Identity")
        for out in op.outputs
        if out.dtype.is_floating and out.shape.is_fully_defined()
    )
    weights: int = sum(math.prod(w.shape) * 4 for w in task.weights)
    return round((activations + 4 * weights) / 1e6)


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

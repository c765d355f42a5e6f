"""The loop over phases: from a recipe to a run."""

import datetime
import math
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from kerastune import assets, data, phases, run
from kerastune.data import Split, Splits
from kerastune.errors import RecipeError, VerificationError
from kerastune.progress import Progress
from kerastune.recipe import Phase, Recipe
from kerastune.tasks import TASKS

Decision = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first step: the data, the model, and who will train when."""

    splits: Splits
    task: Any
    audits: tuple[dict[str, Any], ...]
    decisions: tuple[Decision, ...]
    memory_mb: int

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        return {name: _counts(self.splits, getattr(self.splits, name)) for name in ("train", "validation", "test")}


def _counts(splits: Splits, split: Split) -> dict[str, int]:
    found = Counter(split.labels.tolist())
    return {label: found[i] for i, label in enumerate(splits.labels)}


def plan(recipe: Recipe, progress: Progress | None = None) -> Plan:
    """Reads and checks all the data, builds the model, and applies every phase's freezing once.

    Raises:
        DataError, AssetError, RecipeError: with what to mend.
    """
    progress = progress or Progress()
    preset = assets.resolve_preset(recipe.preset)  # first: it is the cheapest to get wrong
    splits = data.load(recipe.data, progress.advance)
    keras.utils.set_random_seed(recipe.seed)
    progress.say(f"Loading {recipe.preset}")
    precision, decisions = _precision(recipe)
    task = TASKS[recipe.task].build(preset, len(splits.labels), recipe.data.image_size, precision)
    audits = tuple(phases.freeze(task, phase) for phase in recipe.phases)
    _compile(recipe, recipe.phases[-1], task, steps=1)  # says now that XLA cannot be had
    decisions.append(_xla_decision(recipe, task))
    return Plan(splits, task, audits, tuple(decisions), _memory_mb(recipe, task))


def fine_tune(
    recipe: Recipe, out: str | Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> run.Run:
    """Trains what the recipe asks for and writes a run folder.

    Args:
        out: the run folder; default runs/<recipe>-<time>.
        force: replace `out` if it exists.
        progress: is told what happens; silent by default.

    Returns:
        The run. After Ctrl-C it holds the best weights so far, with `status` "interrupted" and no metrics.

    Raises:
        RecipeError, DataError, AssetError: with what to mend.
        VerificationError: a frozen weight moved, or the saved model is not the trained one.
    """
    progress = progress or Progress()
    started = datetime.datetime.now().astimezone()
    stopwatch = _Stopwatch()
    folder = run.absolute(out or Path("runs") / f"{recipe.name}-{started:%Y%m%d-%H%M%S}")
    run.refuse_existing(folder, force)  # before an hour of training, not after
    made = plan(recipe, progress)
    stopwatch.lap("prepare")
    history, interrupted = _train(recipe, made, progress)
    stopwatch.lap("train")
    record: dict[str, Any] = {
        "status": "interrupted" if interrupted else "complete",
        "name": recipe.name,
        "task": recipe.task,
        "preset": recipe.preset,
        "recipe_sha256": recipe.sha256(),
        "labels": list(made.splits.labels),
        "image_size": list(made.task.preprocessor.image_converter.image_size),
        "seed": recipe.seed,
        "parameters": made.task.count_params(),
        "data": {
            "fingerprint": made.splits.fingerprint,
            "counts": made.counts,
            "notes": list(made.splits.notes),
            "skipped": list(made.splits.skipped),
        },
        "phases": list(made.audits),
        "decisions": list(made.decisions),
        "started": started.isoformat(timespec="seconds"),
        "versions": run.versions(),
        "machine": {**run.machine(), "gpus": [d.name for d in tf.config.list_physical_devices("GPU")]},
    }
    with run.whole_folder(folder, force) as partial:
        saved = _save(recipe, made, partial)
        stopwatch.lap("save")
        predictions: dict[str, Any] = {}
        if not interrupted:
            predictions, record["metrics"] = _evaluate(recipe, saved, made.splits, progress)
            stopwatch.lap("evaluate")
        run.write(partial, recipe, {**record, "seconds": stopwatch.laps}, history, predictions)
    return run.Run(folder, [made.splits])


# --- training ----------------------------------------------------------------------------------------------


def _train(recipe: Recipe, made: Plan, progress: Progress) -> tuple[list[dict[str, float]], bool]:
    """Trains all phases. Returns the history and whether Ctrl-C ended it; adds to the plan's audits what really ran."""
    task_kind, task, splits = TASKS[recipe.task], made.task, made.splits
    preprocessor, task.preprocessor = task.preprocessor, None  # its Task.fit would preprocess a second time
    history: list[dict[str, float]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
            best = _Best(Path(scratch) / "best.weights.h5", task)
            for number, (phase, audit) in enumerate(zip(recipe.phases, made.audits, strict=True), start=1):
                task.preprocessor = preprocessor
                feeds = {
                    "train": task_kind.batches(
                        task, splits.train, recipe.train.batch_size, recipe.augment, recipe.seed + number
                    ),
                    "validation": task_kind.batches(task, splits.validation, recipe.train.batch_size),
                }
                task.preprocessor = None
                title = f"phase {number}/{len(recipe.phases)} ({phase.unfreeze})"
                try:
                    _train_phase(recipe, phase, audit, made, feeds, best, history, (number, title), progress)
                except KeyboardInterrupt:
                    progress.say(f"Interrupted in {title}: keeping {best.describe()}.")
                    best.restore()
                    return history, True
            if best.found is not None:
                progress.say(f"Keeping {best.describe()}.")
            return history, False
    finally:
        task.preprocessor = preprocessor


def _train_phase(
    recipe: Recipe,
    phase: Phase,
    audit: dict[str, Any],
    made: Plan,
    feeds: dict[str, tf.data.Dataset],
    best: "_Best",
    history: list[dict[str, float]],
    number_and_title: tuple[int, str],
    progress: Progress,
) -> None:
    task = made.task
    number, title = number_and_title
    steps = math.ceil(len(made.splits.train) / recipe.train.batch_size)
    started = time.perf_counter()
    phases.freeze(task, phase)
    _compile(recipe, phase, task, steps * phase.epochs)
    before = phases.frozen_hashes(task)
    if phase.epochs:
        show = _Show(history, number, title, steps, phase.epochs, progress)
        stop = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=recipe.train.early_stopping)
        task.fit(
            feeds["train"],
            validation_data=feeds["validation"],
            epochs=phase.epochs,
            class_weight=_class_weights(recipe, made.splits),
            callbacks=[show, best, *([stop] if recipe.train.early_stopping else [])],
            shuffle=False,  # the feed is shuffled
            verbose=0,
        )
    audit["frozen_sha256"] = phases.prove_frozen(before, phases.frozen_hashes(task))
    audit["frozen_weights"] = len(before)
    audit["epochs_run"] = sum(row["phase"] == number for row in history)
    audit["xla"] = task.jit_compile
    audit["precision"] = task.backbone.dtype_policy.name
    audit["seconds"] = round(time.perf_counter() - started, 1)
    best.restore()
    audit["best"] = best.found


def _compile(recipe: Recipe, phase: Phase, task: keras.Model, steps: int) -> None:
    """Compiles for a phase. XLA that was asked for and cannot be had is an error, where Keras only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model doesn't support `jit_compile=True`")
        task.compile(
            optimizer=phases.optimizer(phase, task, steps),
            loss=TASKS[recipe.task].loss(),
            metrics=[TASKS[recipe.task].metric()],
            jit_compile=recipe.train.xla,
        )
    if recipe.train.xla is True and not task.jit_compile:
        bad = sorted({type(layer).__name__ for layer in task._flatten_layers() if not layer.supports_jit})
        why = f"layers without XLA support: {', '.join(bad)}" if bad else "TF op determinism is enabled"
        raise RecipeError(f"train.xla = true, but Keras would not use it here ({why}).", 'Use xla = "auto".')


def _precision(recipe: Recipe) -> tuple[str, list[Decision]]:
    asked = recipe.train.precision
    if asked != "auto":
        return asked, []
    return "float32", [
        {"key": "train.precision", "asked": "auto", "got": "float32", "why": "Keras's own default policy"}
    ]


def _xla_decision(recipe: Recipe, task: keras.Model) -> Decision:
    asked = recipe.train.xla
    gpus = len(tf.config.list_physical_devices("GPU"))
    why = "as asked" if asked != "auto" else f"Keras's own choice with {gpus} GPUs"
    return {"key": "train.xla", "asked": asked, "got": task.jit_compile, "why": why}


def _class_weights(recipe: Recipe, splits: Splits) -> dict[int, float] | None:
    if recipe.train.class_weights == "none":
        return None
    present = np.unique(splits.train.labels)
    weights = compute_class_weight("balanced", classes=present, y=splits.train.labels)
    return dict(zip(present.tolist(), weights.tolist(), strict=True))


class _Best(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the best validation accuracy over all phases; of equals, those of the lowest loss."""

    def __init__(self, path: Path, task: keras.Model) -> None:
        super().__init__()
        self.path, self.task = path, task
        self.found: dict[str, float] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if self.found is None or run.rank(logs) > run.rank(self.found):
            # Beside the last best ones, which a Ctrl-C in the middle must not cost. Without the optimizer: a later
            # phase restores these weights under another one.
            partial = self.path.with_name(f"partial-{self.path.name}")
            keras.saving.save_weights(self.task, partial, objects_to_skip=[self.task.optimizer])
            partial.replace(self.path)
            self.found = {
                "val_accuracy": logs["val_accuracy"],
                "val_loss": logs["val_loss"],
                "epoch": epoch + 1,
            }

    def restore(self) -> None:
        if self.found is not None:
            keras.saving.load_weights(self.task, self.path, objects_to_skip=[self.task.optimizer])

    def describe(self) -> str:
        if self.found is None:
            return "the weights as they are (no epoch was finished)"
        return "the best epoch's weights (validation accuracy {val_accuracy:.4f}, loss {val_loss:.4f})".format(
            **self.found
        )


class _Show(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the progress object, and fills the history."""

    def __init__(
        self,
        history: list[dict[str, float]],
        number: int,
        title: str,
        steps: int,
        epochs: int,
        progress: Progress,
    ) -> None:
        super().__init__()
        self.history, self.number, self.title = history, number, title
        self.steps, self.epochs, self.progress = steps, epochs, progress
        self.epoch, self.started = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epoch, self.started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        detail = f"loss {logs.get('loss', math.nan):.4f}  accuracy {logs.get('accuracy', math.nan):.4f}"
        self.progress.advance(f"{self.title}, epoch {self.epoch + 1}/{self.epochs}", batch + 1, self.steps, detail)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        seconds = time.perf_counter() - self.started
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        self.history.append(
            {
                "phase": self.number,
                "epoch": epoch + 1,
                **row,
                "learning_rate": rate,
                "seconds": round(seconds, 2),
            }
        )
        self.progress.say(
            f"{self.title}, epoch {epoch + 1}/{self.epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
            f"validation loss {row['val_loss']:.4f}, validation accuracy {row['val_accuracy']:.4f} ({seconds:.0f} s)"
        )


# --- saving and scoring ------------------------------------------------------------------------------------


def _save(recipe: Recipe, made: Plan, folder: Path) -> Any:
    """Saves the model as a preset, loads it back and compares. Returns the loaded model, in float32.

    Upstream loses settings on the way for some presets (KerasHub 0.32: EfficientNet's `num_features`), so a
    model is saved only when what comes back predicts the same.
    """
    task_kind, task = TASKS[recipe.task], made.task
    task.compile()  # a fresh optimizer: the trained one's state would be saved too, and warn when it is loaded
    task.save_to_preset(str(folder))
    precision = task.backbone.dtype_policy.name
    try:
        loaded = task_kind.load(str(folder), precision)
    except ValueError as error:
        raise VerificationError(
            f"The tuned model was saved, but KerasHub cannot load it back: {error}",
            "The preset's settings do not survive KerasHub's save_to_preset; use another preset.",
        ) from error
    x, _ = next(iter(task_kind.batches(task, made.splits.validation, recipe.train.batch_size)))
    trained, restored = (np.asarray(model(x, training=False), np.float32) for model in (task, loaded))
    if not np.array_equal(trained, restored):
        raise VerificationError(
            "The saved model predicts something else than the trained one "
            f"(largest difference {np.nanmax(np.abs(trained - restored)):.3g} in the logits).",
            "The preset's settings do not survive KerasHub's save_to_preset; use another preset.",
        )
    return loaded if precision == "float32" else task_kind.load(str(folder), "float32")


def _evaluate(
    recipe: Recipe, task: Any, splits: Splits, progress: Progress
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The saved model's scores and metrics on the validation and test splits."""
    task_kind = TASKS[recipe.task]
    predictions: dict[str, Any] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for name in ("validation", "test"):
        split: Split = getattr(splits, name)
        scores = task_kind.scores(
            task,
            split,
            recipe.train.batch_size,
            lambda n, s=split, t=name: progress.advance(f"scoring {t}", n, len(s)),
        )
        stored = {"ids": np.array(split.ids), "digests": np.array(split.digests), "labels": split.labels}
        predictions |= {f"{name}_{key}": value for key, value in {**stored, "scores": scores}.items()}
        metrics[name] = task_kind.metrics(splits.labels, split.labels, scores)
    return predictions, metrics


def evaluate(of: run.Run, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Scores a run's model anew on its recipe's validation and test splits, and records that in the run.

    Raises:
        DataError: the data cannot be read, or are not those the run was made with.
    """
    progress = progress or Progress()
    splits = of.splits(progress)
    task = TASKS[of.recipe.task].load(str(of.folder))
    predictions, metrics = _evaluate(of.recipe, task, splits, progress)
    run.write(of.folder, of.recipe, {**of.record, "metrics": metrics}, of.history, predictions)
    return metrics


# --- estimates ---------------------------------------------------------------------------------------------


def _memory_mb(recipe: Recipe, task: keras.Model) -> int:
    """An upper estimate of the model's memory in the largest phase, in MB: weights, gradients, two optimizer
    slots, and every tensor of a forward pass kept for the backward one. The libraries add about 1 GB."""
    height, width = task.preprocessor.image_converter.image_size
    spec = tf.TensorSpec([recipe.train.batch_size, height, width, 3], tf.float32)
    graph = tf.function(lambda x: task(x, training=False)).get_concrete_function(spec).graph
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

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 1)
        self._last = now

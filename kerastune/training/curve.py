"""The learning curve of a recipe: what each further example is worth, and what the pretrained weights are.

The preset runs once over all examples, and so does the same architecture with random weights. On these features, a
linear model learns from 8, 16, 32, … examples of each label, drawn as `data.per_label` draws them. So a curve takes
minutes whatever the recipe trains; a recipe that trains more than the head mostly ends above it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kerastune import files, tasks
from kerastune.data import Split
from kerastune.data.rules import draw_key
from kerastune.errors import KerastuneError, RecipeError
from kerastune.progress import Progress
from kerastune.recipe import Recipe
from kerastune.records import CURVE, Curve, CurvePoint, Weights, curve_means
from kerastune.tasks import losses
from kerastune.tasks.contract import Targets
from kerastune.training.plan import Plan, plan
from kerastune.training.prefix.forward import specs

Floats = npt.NDArray[np.float32]

WEIGHTS: tuple[Weights, ...] = ("pretrained", "random")
SMALLEST, SEEDS = 8, (0, 1, 2)
_POINTS, _KEY = "points.jsonl", "key.json"
_ALPHAS = np.logspace(-1, 5, 13)  # penalties of the linear model, chosen by leaving one example out
_LAST = 3  # sizes that the value of twice the examples is estimated from


def measure(recipe: Recipe, out: Path, *, force: bool = False, progress: Progress | None = None) -> Curve:
    """Measures the curve and writes it to `out`/curve.json; after a kill, goes on with what is there.

    `data.per_label` is left out.

    Raises:
        RecipeError: the examples do not have one label each.
        KerastuneError: `out` holds the curve of another recipe, or of other data, and `force` is not set.
    """
    progress = progress or Progress()
    if recipe.data.target != "label":
        raise RecipeError("A learning curve needs one label for each example.", "Use a recipe that classifies.")
    if recipe.data.per_label:
        progress.say(f"data.per_label = {recipe.data.per_label} is left out: a curve draws from all examples.")
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"per_label": None})})
    made = plan(recipe, progress)
    _claim(out, {"recipe": made.recipe.sha256(), "data": made.splits.fingerprint}, force)
    known = {(p.weights, p.per_label, p.seed): p for p in _stored(out)}
    wanted = list(_wanted(made.splits.train))
    seconds: dict[str, float] = {}
    for weights in WEIGHTS:
        features, seconds[weights] = _features(made, weights, out, progress)
        for number, (per_label, seed) in enumerate(wanted):
            progress.advance(f"learning from few examples, {weights} weights", number, len(wanted))
            if (weights, per_label, seed) not in known:
                point = _point(made, features, weights, per_label, seed)
                known[weights, per_label, seed] = point
                with (out / _POINTS).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(point)) + "\n")
    points = tuple(known[weights, *one] for weights in WEIGHTS for one in wanted)
    test = len(made.splits.test)
    curve = Curve(recipe.name, recipe.preset, test, points, seconds, sentence(points, recipe.preset, test))
    files.write_json(out / CURVE, asdict(curve))
    return curve


def sentence(points: Sequence[CurvePoint], preset: str, test: int) -> str:
    """Returns what the curve says, to be pasted: the worth of twice the examples, and of the pretrained weights."""
    own, random = curve_means(points, "pretrained"), curve_means(points, "random")
    counts, accuracies = (np.array([row[i] for row in own[-_LAST:]]) for i in (1, 2))
    said = f"A linear head on {preset} reaches {own[-1][2]:.1%} of {test:,} test examples with all {own[-1][1]:,.0f}"
    if len(own) > 1:
        size, _, first, _ = own[0]
        slope = 100 * float(np.polyfit(np.log2(counts), accuracies, 1)[0])
        bring = f"bring about {slope:.1f} points more" if slope >= 0.1 else "hardly bring more"
        said += f", and {first:.1%} with {size} a label; twice the examples would {bring}"
    return f"{said}. The same network with random weights reaches {random[-1][2]:.1%} with all."


# --- points --------------------------------------------------------------------------------------------------


def _wanted(train: Split) -> Iterator[tuple[int | None, int]]:
    """Yields (examples a label, seed) of every point; all examples are one draw."""
    most, size = int(np.bincount(train.labels).max()), SMALLEST
    while size < most:
        yield from ((size, seed) for seed in SEEDS)
        size *= 2
    yield None, 0


def drawn(train: Split, per_label: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Returns the indices of the examples that `data.per_label` keeps, ascending; all for None."""
    if per_label is None:
        return np.arange(len(train))
    kept: list[int] = []
    for label in np.unique(train.labels):
        members = np.flatnonzero(train.labels == label)[::-1]
        place = {draw_key(train.digests[i], seed): int(i) for i in members}  # of copies, the first
        kept += [place[one] for one in sorted(place)[:per_label]]
    return np.sort(np.array(kept, np.int64))


def _point(made: Plan, features: dict[str, Floats], weights: Weights, per_label: int | None, seed: int) -> CurvePoint:
    splits, started = made.splits, time.perf_counter()
    chosen = drawn(splits.train, per_label, seed)
    linear = make_pipeline(StandardScaler(), RidgeClassifierCV(_ALPHAS))
    linear.fit(features["train"][chosen], splits.train.labels[chosen])
    accuracy = float(linear.score(features["test"], splits.test.labels))
    return CurvePoint(weights, per_label, seed, len(chosen), accuracy, round(time.perf_counter() - started, 3))


# --- features ------------------------------------------------------------------------------------------------


def _features(made: Plan, weights: Weights, out: Path, progress: Progress) -> tuple[dict[str, Floats], float]:
    """Returns what the head reads of every training and test example, and the seconds it took; kept in `out`."""
    path = out / f"features-{weights}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in ("train", "test")}, float(stored["seconds"])
    started = time.perf_counter()
    if weights == "random":
        _forget(made.task.backbone, made.recipe.seed)
    found = {name: _read(made, name, f"features, {weights} weights ({name})", progress) for name in ("train", "test")}
    seconds = round(time.perf_counter() - started, 1)
    with files.whole_file(path) as file:
        np.savez(file, allow_pickle=False, seconds=np.array(seconds), **found)
    return found, seconds


def _forget(backbone: Any, seed: int) -> None:
    """Gives a backbone the first values that its own initialisers draw."""
    keras.utils.set_random_seed(seed)
    new = type(backbone).from_config(backbone.get_config())
    for weight, fresh in zip(backbone.weights, new.weights, strict=True):
        weight.assign(fresh)


def _read(made: Plan, name: str, stage: str, progress: Progress) -> Floats:
    kind, split, task = tasks.get(made.recipe.task), made.splits.parts[name], made.task
    reach = losses.before_head(task)
    inputs = specs(made.batches.example, made.batches.bucketed)
    forward = tf.function(lambda x: tf.cast(reach(x, training=False), tf.float32), input_signature=[inputs])
    order = kind.feeding.order(made.recipe, task, split, made.recipe.train.batch_size, 1, None, 0)
    targets = Targets(split.labels, np.ones(len(split), np.float32))
    found, done = np.zeros((len(split), reach.output_shape[-1]), np.float32), 0
    for x, _, _, i in kind.feeding.batches(made.recipe, task, split, order, targets, None):
        found[i.numpy()] = forward(x).numpy()
        progress.advance(stage, done := done + len(i), len(split))
    return found


# --- the folder ----------------------------------------------------------------------------------------------


def _claim(out: Path, key: dict[str, str], force: bool) -> None:
    """Makes the folder, or goes on in it if it has the curve of the same recipe and data."""
    stored = out / _KEY
    if stored.is_file() and json.loads(stored.read_bytes()) == key:
        return
    if stored.is_file() and force:
        files.discard(out)
    if out.exists():
        raise KerastuneError(
            f"{out} is there already, and it is no curve of this recipe and these data.",
            "Choose another folder with -o, or replace a curve with --force.",
        )
    out.mkdir(parents=True)
    files.write_json(stored, key)


def _stored(out: Path) -> list[CurvePoint]:
    """Returns the points that are measured; a line that a kill cut off is measured again."""
    path = out / _POINTS
    if not path.is_file():
        return []
    *lines, torn = path.read_text("utf-8").split("\n")
    if torn:
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return [CurvePoint(**json.loads(line)) for line in lines]

"""The contract of what is learnt about an example: metrics, statistics, differences, and how an answer reads.

Imports no TensorFlow, so that verification, reports and `kerastune predict` on an artifact need none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kerastune.data.ragged import Array

Predictions: TypeAlias = Mapping[str, Array]
"""Named arrays, each with one row (or one list of rows) an example."""
Truth: TypeAlias = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Labels = tuple[str, ...]

ROUNDING = 1e-4
"""Largest difference of a probability between two float32 runtimes."""


@dataclass(frozen=True)
class Metric:
    """The figure that chooses the best epoch and judges an artifact.

    Attributes:
        name: its key in run.json: "accuracy".
        higher_is_better: False for error rates.
        share: whether it is a share of the examples, from 0 to 1, and so read as a percentage.
    """

    name: str
    higher_is_better: bool = True
    share: bool = True

    @property
    def words(self) -> str:
        """The name as people read it."""
        return self.name.replace("_", " ")

    def rank(self, epoch: Mapping[str, float]) -> tuple[float, float]:
        """The place of an epoch by its validation figures: the highest is kept, and the first of equals."""
        return -self.loss(0.0, epoch[f"val_{self.name}"]), -epoch["val_loss"]

    def loss(self, theirs: float, ours: float) -> float:
        """How much worse ours is than theirs; negative where it is better."""
        return theirs - ours if self.higher_is_better else ours - theirs


@dataclass(frozen=True)
class Mistake:
    """An example that the model is wrong about.

    Attributes:
        index: of the example in its split.
        truth, output: as people read them.
        probability: that the model gave its output, or None.
    """

    index: int
    truth: str
    output: str
    probability: float | None = None


@dataclass(frozen=True)
class Answer:
    """An output as people and machines read it."""

    lines: tuple[str, ...]
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """How two runtimes' predictions about the same examples differ.

    Attributes:
        distance: (ours, theirs) -> the error of each example, float64 [n]; NaN where it is no number.
        agree: (ours, theirs) -> whether both give each example the same answer, bool [n].
        lost: (ours, theirs) -> the share of what tells the examples apart in theirs that ours does not have; 0 is none.
        spread: predictions -> how far apart the examples are, in the unit of `distance`.
        scale: predictions -> what tolerances are relative to, in the unit of `distance`.
        alike: the word for what agrees: "labels".
        unit: the unit of `distance` in messages, or "".
    """

    distance: Callable[[Predictions, Predictions], Doubles]
    agree: Callable[[Predictions, Predictions], Bools]
    lost: Callable[[Predictions, Predictions], float]
    spread: Callable[[Predictions], float]
    scale: Callable[[Predictions], float]
    alike: str
    unit: str = ""


@dataclass(frozen=True)
class Shown:
    """What people see of predictions.

    Attributes:
        fragment: the file of `kerastune.tasks.learnt` with the report's section on the test split, in Jinja.
        heading: of that section.
        context: (labels, truth, predictions, test split or None) -> what the fragment reads.
        mistakes: (labels, truth, predictions) -> the wrong examples, the worst first.
        answer: (labels, predictions, index, how many labels) -> one prediction in words.
        beside: further figures that a report and a verification print, by their key in `metrics`.
        said: outputs and labels in the model's facts, from (labels, run record): "10 labels".
        note: what else a reader of the learning curves should know.
    """

    fragment: str
    heading: str
    context: Callable[[Labels, Truth, Predictions, Any], dict[str, Any]]
    mistakes: Callable[[Labels, Truth, Predictions], list[Mistake]]
    answer: Callable[[Labels, Predictions, int, int], Answer]
    said: Callable[[Labels, Mapping[str, Any]], str]
    beside: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Learnt:
    """A row of `LEARNT`.

    Attributes:
        name: the truth that data hold: "label", "labels", "number", "pairs", …
        metric: the figure that counts.
        metrics: (labels, truth, predictions) -> every figure, JSON-ready.
        per_example: (truth, predictions) -> sufficient statistics of each example, float64 [n, S].
        statistic: statistics of some examples -> the metric's value on them.
        labels: the names that a manifest lists in the order of the outputs, from those of the data.
    """

    name: str
    metric: Metric
    metrics: Callable[[Labels, Truth, Predictions], dict[str, Any]]
    per_example: Callable[[Truth, Predictions], Doubles]
    statistic: Callable[[Doubles], float]
    comparison: Comparison
    shown: Shown
    labels: Callable[[Labels], Labels] = field(default=lambda labels: labels)


def by_rows(
    rows: Callable[[Predictions], npt.NDArray[Any]],
    *,
    agree: Callable[[npt.NDArray[Any], npt.NDArray[Any]], Bools],
    scale: Callable[[npt.NDArray[Any]], float],
    alike: str,
    unit: str = "",
) -> Comparison:
    """The comparison of predictions that are one row of numbers an example, float [n, K]."""

    def distance(ours: Predictions, theirs: Predictions) -> Doubles:
        return np.asarray(np.abs(rows(ours).astype(np.float64) - rows(theirs)).max(-1, initial=0))

    def lost(ours: Predictions, theirs: Predictions) -> float:
        expected = rows(theirs).astype(np.float64)
        varies = np.square(expected - expected.mean(axis=0)).sum()
        return float(np.square(rows(ours) - expected).sum() / varies)

    return Comparison(
        distance,
        lambda ours, theirs: agree(rows(ours), rows(theirs)),
        lost,
        lambda predictions: float(np.ptp(rows(predictions), axis=0).max(initial=0)),
        lambda predictions: scale(rows(predictions)),
        alike,
        unit,
    )


def mean_of_first(per_example: Doubles) -> float:
    """The mean of the first statistic."""
    return float(per_example[:, 0].mean())


def ratio(per_example: Doubles) -> float:
    """The sum of the first statistic over that of the second."""
    return float(per_example[:, 0].sum() / max(per_example[:, 1].sum(), 1e-12))


def no_mistakes(labels: Labels, truth: Truth, predictions: Predictions) -> list[Mistake]:
    """None: nobody can count how right such an output is."""
    return []


def named(labels: Sequence[str], chosen: npt.NDArray[Any]) -> str:
    """The chosen labels in words."""
    return ", ".join(label for label, on in zip(labels, chosen, strict=True) if on) or "none"

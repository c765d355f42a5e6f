"""The contract of a kind of output: metrics, statistics, differences, and the wording of an answer.

Does not import TensorFlow, so that verification, reports and `kerastune predict` on an artifact do not need it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from kerastune.data.ragged import Array

Predictions: TypeAlias = Mapping[str, Array]
"""Named arrays, each with one row (or one list of rows) per example."""
Truth: TypeAlias = Any  # npt.NDArray or `Ragged`: one row, or one list of rows, for each example
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Labels = tuple[str, ...]

ROUNDING = 1e-4
"""Largest difference of a probability between two float32 runtimes."""


@dataclass(frozen=True)
class Metric:
    """The figure that selects the best epoch and judges an artifact.

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
        """Returns the name in words."""
        return self.name.replace("_", " ")

    def rank(self, epoch: Mapping[str, float]) -> tuple[float, float]:
        """Returns an epoch's sort key from its validation figures: the highest is kept, and the first among equals."""
        return -self.loss(0.0, epoch[f"val_{self.name}"]), -epoch["val_loss"]

    def loss(self, theirs: float, ours: float) -> float:
        """Returns how much worse ours is than theirs; negative if it is better."""
        return theirs - ours if self.higher_is_better else ours - theirs


@dataclass(frozen=True)
class Mistake:
    """An example with a wrong output.

    Attributes:
        index: the example's index in its split.
        truth, output: both in words.
        probability: the probability of the output, or None.
    """

    index: int
    truth: str
    output: str
    probability: float | None = None


@dataclass(frozen=True)
class Guess:
    """Predictions without a look at the examples, and the answer that they give, in words."""

    words: str
    predictions: Predictions


@dataclass(frozen=True)
class Answer:
    """An output for people and for machines."""

    lines: tuple[str, ...]
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Plot:
    """A curve for the report, between 0 and 1 in both directions.

    Attributes:
        words: what it shows, for those who do not see it.
        x, y: names of the axes.
        diagonal: whether the diagonal is what a perfect or a guessing model would give.
    """

    title: str
    words: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    diagonal: bool


@dataclass(frozen=True)
class Comparison:
    """How predictions of two runtimes on the same examples differ.

    Attributes:
        distance: (ours, theirs) -> the error of each example, float64 [n]; may be NaN.
        agree: (ours, theirs) -> whether both give each example the same answer, bool [n].
        lost: (ours, theirs) -> the share of the variance between examples in theirs that ours does not explain.
        spread: predictions -> how far apart the examples are, in the unit of `distance`.
        scale: predictions -> the reference for relative tolerances, in the unit of `distance`.
        alike: the word for equal answers: "labels".
        unit: the unit of `distance` in messages, or "".
        exact: whether a file must give every answer of Keras's, however it is quantised.
    """

    distance: Callable[[Predictions, Predictions], Doubles]
    agree: Callable[[Predictions, Predictions], Bools]
    lost: Callable[[Predictions, Predictions], float]
    spread: Callable[[Predictions], float]
    scale: Callable[[Predictions], float]
    alike: str
    unit: str = ""
    exact: bool = False


@dataclass(frozen=True)
class Shown:
    """How to show predictions to people.

    Attributes:
        fragment: Jinja file of `kerastune.tasks.learnt` with the report's section on the test split.
        heading: the section's heading.
        context: (labels, truth, predictions, test split or None) -> the fragment's context; "plots" are drawn.
        mistakes: (labels, truth, predictions) -> the wrong examples, worst first.
        answer: (labels, predictions, index, number of labels) -> one prediction in words.
        beside: additional figures in reports and verifications, by their key in `metrics`.
        said: (labels, run record) -> outputs and labels among the model's facts: "10 labels".
        note: a remark on the learning curves.
        validation: what the validation split was used for.
        drawn: (labels, predictions, index, picture) -> the picture with its output drawn on it, for `predict --draw`;
            None where there is nothing to draw.
        colored: colours of the labels, such as "#ff8000" -> the same, drawn in these; None where labels have none.
    """

    fragment: str
    heading: str
    context: Callable[[Labels, Truth, Predictions, Any], dict[str, Any]]
    mistakes: Callable[[Labels, Truth, Predictions], list[Mistake]]
    answer: Callable[[Labels, Predictions, int, int], Answer]
    said: Callable[[Labels, Mapping[str, Any]], str]
    beside: tuple[str, ...] = ()
    note: str = ""
    validation: str = "used to select the epoch"
    drawn: Callable[[Labels, Predictions, int, Any], Image.Image] | None = None
    colored: Callable[[tuple[str, ...]], "Shown"] | None = None


@dataclass(frozen=True)
class Learnt:
    """A row of `LEARNT`.

    Attributes:
        name: the kind of truth: "label", "labels", "number", "pairs", …
        metric: the figure to select and judge by.
        metrics: (labels, truth, predictions) -> every figure, JSON-ready.
        per_example: (truth, predictions) -> sufficient statistics of each example, float64 [n, S].
        statistic: statistics of some examples -> the metric's value on them.
        labels: the data's names -> the names in a manifest, in the order of the outputs.
        guess: (labels, truth of the training split, n) -> the best guess about n unseen examples: the baseline. None
            where there is none; the figures before training then take its place.
        among: (truth, predictions, truth and predictions of others) -> the figures of examples that are searched for
            among others; None if nothing is searched for.
    """

    name: str
    metric: Metric
    metrics: Callable[[Labels, Truth, Predictions], dict[str, Any]]
    per_example: Callable[[Truth, Predictions], Doubles]
    statistic: Callable[[Doubles], float]
    comparison: Comparison
    shown: Shown
    labels: Callable[[Labels], Labels] = field(default=lambda labels: labels)
    guess: Callable[[Labels, Truth, int], Guess] | None = None
    among: Callable[[Truth, Predictions, Truth, Predictions], dict[str, Any]] | None = None

    def in_colors(self, colors: tuple[str, ...]) -> "Learnt":
        """Returns the same, drawn in the data's own colours of its labels, if they have some."""
        return replace(self, shown=self.shown.colored(colors)) if colors and self.shown.colored else self


def by_rows(
    rows: Callable[[Predictions], npt.NDArray[Any]],
    *,
    agree: Callable[[npt.NDArray[Any], npt.NDArray[Any]], Bools],
    scale: Callable[[npt.NDArray[Any]], float],
    alike: str,
    unit: str = "",
) -> Comparison:
    """Returns the comparison of predictions with one row of numbers per example, float [n, K]."""

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
    """Returns the mean of the first statistic."""
    return float(per_example[:, 0].mean())


def ratio(per_example: Doubles) -> float:
    """Returns the sum of the first statistic divided by the sum of the second."""
    return float(per_example[:, 0].sum() / max(per_example[:, 1].sum(), 1e-12))


def no_mistakes(labels: Labels, truth: Truth, predictions: Predictions) -> list[Mistake]:
    """Returns none: such an output is not simply right or wrong."""
    return []


def named(labels: Sequence[str], chosen: npt.NDArray[Any]) -> str:
    """Returns the chosen labels in words."""
    return ", ".join(label for label, on in zip(labels, chosen, strict=True) if on) or "none"

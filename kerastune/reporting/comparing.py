"""Compares two runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastune import tasks
from kerastune.data import ragged
from kerastune.recipe import Recipe, export_name
from kerastune.records import differences
from kerastune.run import Run
from kerastune.tasks.learnt import Learnt, Predictions, statistics
from kerastune.tasks.learnt.contract import Truth
from kerastune.verifying import artifact

Figure = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


@dataclass(frozen=True)
class Figures:
    """A metric of both runs on a split.

    Attributes:
        difference: how much better B is, with its 95 % interval; None where the two were judged on different examples.
        verdict: how B compares: "better", "worse", "the same" (equal outputs for every example), "too few to tell" or
            "judged on other examples".
    """

    split: str
    metric: str
    a: Figure
    b: Figure
    difference: Figure | None
    verdict: str


@dataclass(frozen=True)
class Side:
    size_bytes: int
    metric: float | None


@dataclass(frozen=True)
class Files:
    """Artifacts of one name; None where a run has none."""

    name: str
    a: Side | None
    b: Side | None


@dataclass(frozen=True)
class Compared:
    """The comparison of two runs.

    Attributes:
        recipe: a line each: "train.batch_size: 8 in A, 16 in B".
    """

    runs: tuple[str, str]
    recipe: tuple[str, ...]
    metrics: tuple[Figures, ...]
    artifacts: tuple[Files, ...]


def compare(a: Run, b: Run) -> Compared:
    """Compares two runs.

    Raises:
        KerastuneError: one is no run, or was interrupted and has no metrics.
    """
    then, now = (_by_name(run.recipe) for run in (a, b))
    made = [{one.folder.name: one for one in artifact.inside(run.exports)} for run in (a, b)]
    names = sorted({name for found in made for name in found})
    return Compared(
        (str(a.folder), str(b.folder)),
        tuple(differences(then, now, words=("in A", "in B"))),
        tuple(_figures(a, b, split) for split in ("validation", "test")),
        tuple(Files(name, *(_side(found.get(name)) for found in made)) for name in names),
    )


def _by_name(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe with its phases by number, as in `-s phases.0…`, and its exports by name.

    Two recipes may have different ones.
    """
    document = recipe.model_dump(mode="json")
    phases, exports = document["phases"], document["exports"]
    names = map(export_name, recipe.exports)
    return document | {"phases": dict(enumerate(phases)), "exports": dict(zip(names, exports, strict=True))}


def _figures(a: Run, b: Run, split: str) -> Figures:
    learnt, other = (tasks.device(run.recipe.task).learnt(run.recipe) for run in (a, b))
    _, truth, theirs = a.predictions(split)
    _, others, ours = b.predictions(split)
    figures = _figure(learnt, truth, theirs), _figure(other, others, ours)
    digests, places = a.digests(split), b.digests(split)
    difference, verdict = None, "judged on other examples"
    if learnt is other and a.labels == b.labels and sorted(digests) == sorted(places):
        place = {digest: i for i, digest in enumerate(places)}
        ours = ragged.take(ours, [place[digest] for digest in digests])
        paired = statistics.paired(learnt, truth, ours, theirs, 0.0)
        if paired and paired.interval:
            low, high = paired.interval
            difference = -paired.drop, (-high, -low)
            verdict = "the same" if _are_equal(ours, theirs) else _verdict(low, high)
    return Figures(split, learnt.metric.words, *figures, difference, verdict)


def _figure(learnt: Learnt, truth: Truth, predictions: Predictions) -> Figure:
    each = learnt.per_example(truth, predictions)
    return learnt.statistic(each), statistics.interval(learnt, each)


def _are_equal(ours: Predictions, theirs: Predictions) -> bool:
    one, other = ragged.packed(ours), ragged.packed(theirs)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _verdict(low: float, high: float) -> str:
    return "better" if high < 0 else "worse" if low > 0 else "too few to tell"


def _side(of: artifact.Artifact | None) -> Side | None:
    if of is None or (report := of.report) is None:
        return None
    judged = report.validation
    return Side(report.size_bytes, judged.metric.value if judged and judged.metric else None)

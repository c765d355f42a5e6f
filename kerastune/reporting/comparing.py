"""Compares two runs."""

from dataclasses import dataclass

import numpy as np

from kerastune import tasks
from kerastune.data import ragged
from kerastune.records import differences
from kerastune.run import Run
from kerastune.tasks.learnt import statistics
from kerastune.verifying import artifact

Figure = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


@dataclass(frozen=True)
class Figures:
    """A metric of both runs on a split.

    Attributes:
        difference: how much better B is, with its 95 % interval; None where the two were judged on different examples.
        verdict: how B compares: "better", "worse", "the same", "too few to tell" or "judged on other examples".
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
    then, now = (run.recipe.model_dump(mode="json") for run in (a, b))
    names = sorted({one.folder.name for run in (a, b) for one in artifact.inside(run.exports)})
    return Compared(
        (str(a.folder), str(b.folder)),
        tuple(differences(then, now, words=("in A", "in B"))),
        tuple(found for split in ("validation", "test") for found in _figures(a, b, split)),
        tuple(Files(name, *(_side(run, name) for run in (a, b))) for name in names),
    )


def _figures(a: Run, b: Run, split: str) -> list[Figures]:
    learnt = [tasks.device(run.recipe.task).learnt(run.recipe) for run in (a, b)]
    found, digests = [], []
    for run, one in zip((a, b), learnt, strict=True):
        _, truth, predictions = run.predictions(split)
        each = one.per_example(truth, predictions)
        found.append((one.statistic(each), statistics.interval(one, each)))
        digests.append(run.digests(split))
    difference, verdict = None, "judged on other examples"
    alike = learnt[0] is learnt[1] and a.labels == b.labels
    if alike and sorted(digests[0]) == sorted(digests[1]):
        _, truth, theirs = a.predictions(split)
        place = {digest: i for i, digest in enumerate(digests[1])}
        ours = ragged.take(b.predictions(split)[2], [place[digest] for digest in digests[0]])
        paired = statistics.paired(learnt[0], np.asarray(truth), ours, theirs, 0.0)
        if paired and paired.interval:
            low, high = paired.interval
            difference = -paired.drop, (-high, -low)
            verdict = "better" if high < 0 else "worse" if low > 0 else "too few to tell"
            verdict = "the same" if paired.drop == low == high == 0 else verdict
    return [Figures(split, learnt[0].metric.words, found[0], found[1], difference, verdict)]


def _side(run: Run, name: str) -> Side | None:
    of = next((one for one in artifact.inside(run.exports) if one.folder.name == name), None)
    if of is None or of.report is None:
        return None
    judged = of.report.validation
    return Side(of.report.size_bytes, judged.metric.value if judged and judged.metric else None)

"""One paired comparison for every metric, and one rule for verdicts."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kerastune.errors import VerificationError
from kerastune.tasks.learnt import Learnt, Predictions
from kerastune.tasks.learnt.contract import Truth

Verdict = Literal["same", "worse", "too few to tell"]

_Doubles = npt.NDArray[np.float64]
_Z = 1.959964  # two-sided 95 %
_RESAMPLES = 999


@dataclass(frozen=True)
class Paired:
    """A metric of an artifact compared with Keras's on the same examples.

    Attributes:
        examples: number of judged examples; for a search, queries.
        value: the artifact's metric.
        keras: Keras's metric.
        drop: how much worse the artifact is; negative if it is better.
        interval: 95 % interval of the drop; None for a single example.
        p_value: p-value of no difference.
        verdict: "same" if the whole interval is at or below the allowed drop, "worse" if it is above, else "too few to
            tell".
        lost, won: number of examples that only Keras gets right, and only the artifact; None if examples are not
            simply right or wrong.
    """

    examples: int
    value: float
    keras: float
    drop: float
    interval: tuple[float, float] | None
    p_value: float
    verdict: Verdict
    lost: int | None = None
    won: int | None = None


def paired(learnt: Learnt, truth: Truth, ours: Predictions, theirs: Predictions, allowed: float) -> Paired | None:
    """Compares the metric of `ours` with that of `theirs`; None if no example can be judged.

    If examples are right or wrong, uses the adjusted Wald interval for paired proportions of Bonett & Price 2012 (J.
    Educ. Behav. Stat. 37, 479-488), which stays valid if the two rarely differ, and McNemar's exact test. Otherwise,
    uses a bootstrap over the examples with the expanded percentile interval of Hesterberg 2015 (Am. Stat. 69,
    371-386), which is as wide as Student's for few examples.

    Args:
        truth: ground truth, one row per example.
        allowed: the allowed drop of the metric.

    Raises:
        VerificationError: the metric is NaN.
    """
    mine, known = learnt.per_example(truth, ours), learnt.per_example(truth, theirs)  # [n, S]
    if not len(mine):
        return None
    value, keras = learnt.statistic(mine), learnt.statistic(known)
    drop = learnt.metric.loss(keras, value)
    if not math.isfinite(drop):
        raise VerificationError(f"The {learnt.metric.words} is not a number: {value}, in Keras {keras}.")
    lost: int | None = None
    won: int | None = None
    interval: tuple[float, float] | None
    if _is_right_or_wrong(mine, known):
        better, worse = (int((one > other).sum()) for one, other in ((mine, known), (known, mine)))
        lost, won = (worse, better) if learnt.metric.higher_is_better else (better, worse)
        interval, p_value = _of_proportions(lost, won, len(mine))
    else:
        interval, p_value = _of_bootstrap(learnt, mine, known)
    if interval:
        interval = min(interval[0], drop), max(interval[1], drop)
    is_same = np.array_equal(mine, known) and bool(learnt.comparison.agree(ours, theirs).all())
    verdict: Verdict = "same" if is_same else _verdict(interval, allowed)
    return Paired(len(mine), value, keras, drop, interval, p_value, verdict, lost, won)


def fewest(allowed: float) -> int | None:
    """The examples that it takes to call a model the same that loses none of them; None where nothing may be lost."""
    return math.ceil(_Z * math.sqrt(2) / allowed) - 2 if allowed else None


def _verdict(interval: tuple[float, float] | None, allowed: float) -> Verdict:
    low, high = interval or (-math.inf, math.inf)
    return "same" if high <= allowed else "worse" if low > allowed else "too few to tell"


def _is_right_or_wrong(*statistics: _Doubles) -> bool:
    return all(one.shape[1] == 1 and bool(np.isin(one, (0, 1)).all()) for one in statistics)


def _of_proportions(lost: int, won: int, n: int) -> tuple[tuple[float, float], float]:
    from scipy.stats import binomtest

    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    middle = p_lost - p_won
    half = _Z * math.sqrt((p_lost + p_won - middle**2) / (n + 2))
    p_value = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    return (max(middle - half, -1.0), min(middle + half, 1.0)), p_value


def _of_bootstrap(learnt: Learnt, mine: _Doubles, known: _Doubles) -> tuple[tuple[float, float] | None, float]:
    from scipy.stats import bootstrap, norm, t

    n = len(mine)
    if n < 2:
        return None, 1.0

    def drop(chosen: npt.NDArray[np.int64]) -> float:
        return learnt.metric.loss(learnt.statistic(known[chosen]), learnt.statistic(mine[chosen]))

    level = 1 - 2 * float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)))
    drawn = bootstrap(
        (np.arange(n),),
        drop,
        vectorized=False,
        n_resamples=_RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=0,
    )
    spread = drawn.bootstrap_distribution
    tail = 1 + min(int((spread >= 0).sum()), int((spread <= 0).sum()))
    low, high = map(float, drawn.confidence_interval)
    return (low, high), min(2 * tail / (_RESAMPLES + 1), 1.0)


def beside_guess(
    learnt: Learnt, labels: tuple[str, ...], known: Truth, truth: Truth, said: Predictions
) -> dict[str, Any] | None:
    """The metric of the best guess that needs no model, and whether predictions are better: 95 % of `paired`.

    None where no model can be better, as on good pictures alone.

    Args:
        known: the truth of the training split.
        truth, said: of the split that is judged.
    """
    if learnt.guess is None or not len(truth):
        return None
    guess = learnt.guess(labels, known, len(truth))
    found = paired(learnt, truth, said, guess.predictions, 0.0)
    if found is None or found.keras == (1.0 if learnt.metric.higher_is_better else 0.0):
        return None
    beaten = found.interval is not None and found.interval[1] < 0
    return {"answer": guess.words, learnt.metric.name: found.keras, "beaten": beaten}


def interval(learnt: Learnt, each: _Doubles) -> tuple[float, float]:
    """Returns the 95 % interval of a metric from its examples' statistics: Wilson's if each is right or wrong, else a
    bootstrap over the examples, widened to include the value itself.

    Args:
        each: `Learnt.per_example`, float64 [n, S].
    """
    from scipy.stats import binomtest, bootstrap

    if _is_right_or_wrong(each, each):
        found = binomtest(int(each.sum()), len(each)).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)
    value = learnt.statistic(each)
    if len(each) < 2:
        return value, value
    drawn = bootstrap(
        (np.arange(len(each)),),
        lambda some: learnt.statistic(each[some]),
        vectorized=False,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=0,
    ).confidence_interval
    return min(float(drawn.low), value), max(float(drawn.high), value)

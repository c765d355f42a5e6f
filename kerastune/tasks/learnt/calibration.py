"""How far probabilities can be trusted: calibration, and the curves and rates of a decision between two labels."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.tasks.learnt.contract import Doubles

_BINS = 15  # as Guo et al. 2017
_RANGE = (0.02, 50.0)  # of a temperature
_POINTS = 101  # of a curve in a report
_RESAMPLES = 499


def calibration_error(sure: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    """Returns the expected calibration error, 0 to 1: the mean distance of confidence and accuracy in 15 bins.

    Naeini et al. 2015; bins of equal width, weighted by their examples.

    Args:
        sure: the probability of each answer, float [n].
        right: whether it is right, bool [n].
    """
    return float(
        sum(count * abs(mean - share) for _, mean, share, count in reliability(sure, right)) / max(len(sure), 1)
    )


def reliability(sure: npt.NDArray[Any], right: npt.NDArray[Any]) -> list[tuple[int, float, float, int]]:
    """Returns (bin, mean confidence, share of right answers, count) of each bin with examples."""
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    there = [(int(i), bins == i) for i in np.unique(bins)]
    return [(i, float(sure[one].mean()), float(right[one].mean()), int(one.sum())) for i, one in there]


def heated(scores: npt.NDArray[Any], temperature: float, exclusive: bool) -> Doubles:
    """Returns the scores, [n, K], that logits divided by a temperature would give.

    Args:
        exclusive: whether the scores of an example sum to 1 (softmax); else each is for itself (sigmoid).
    """
    from scipy.special import expit, softmax

    logits = _logits(scores, exclusive) / temperature
    return np.asarray(softmax(logits, axis=-1) if exclusive else expit(logits), np.float64)


def temperature(scores: npt.NDArray[Any], truth: npt.NDArray[Any], exclusive: bool) -> float:
    """Returns the temperature with the least cross-entropy on some examples (Guo et al. 2017, arXiv:1706.04599).

    Args:
        scores: float [n, K].
        truth: int [n] if exclusive, else [n, K] of 0 and 1.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_expit, log_softmax

    logits = _logits(scores, exclusive)

    def loss(log_temperature: float) -> float:
        hot = logits / np.exp(log_temperature)
        if exclusive:
            return float(-log_softmax(hot, axis=-1)[np.arange(len(truth)), truth].mean())
        return float(-np.where(truth > 0.5, log_expit(hot), log_expit(-hot)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded").x))


def _logits(scores: npt.NDArray[Any], exclusive: bool) -> Doubles:
    p = np.clip(scores.astype(np.float64), 1e-30, 1)
    return np.asarray(np.log(p) if exclusive else np.log(p) - np.log(np.clip(1 - scores.astype(np.float64), 1e-30, 1)))


# --- two labels ----------------------------------------------------------------------------------------------


def rates(positive: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Returns the sensitivity and the specificity of a decision, each with its value, Wilson interval and count.

    Args:
        positive: whether each example is of the label, bool [n].
        called: whether the decision is for it, bool [n].
    """
    return {"sensitivity": _share(called[positive]), "specificity": _share(~called[~positive])}


def threshold(
    positive: npt.NDArray[np.bool_], score: npt.NDArray[Any], sensitivity: float | None, miss_cost: float | None
) -> float:
    """Returns the score from which on an example is called positive, halfway between two scores that occur.

    Args:
        positive: whether each example is of the label, bool [n]; some are.
        score: its probability, float [n].
        sensitivity: the least share of positive examples to find; the highest such threshold is taken.
        miss_cost: instead, the cost of a miss beside 1 for a false alarm; the least total is taken.
    """
    known = np.unique(score.astype(np.float64))
    borders = np.concatenate([[known[0] / 2], (known[1:] + known[:-1]) / 2, [(known[-1] + 1) / 2]])
    found = np.sort(score[positive].astype(np.float64))
    alarms = np.sort(score[~positive].astype(np.float64))
    misses = np.searchsorted(found, borders)  # scores below each border
    if sensitivity is not None:
        return float(borders[np.flatnonzero(len(found) - misses >= sensitivity * len(found) - 1e-9)[-1]])
    assert miss_cost is not None
    return float(borders[np.argmin(miss_cost * misses + len(alarms) - np.searchsorted(alarms, borders))])


def _share(right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    from scipy.stats import binomtest

    count, n = int(right.sum()), len(right)
    if not n:
        return {"value": None, "interval": None, "examples": 0}
    found = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return {"value": count / n, "interval": [float(found.low), float(found.high)], "examples": n}


def areas(positive: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> dict[str, Any]:
    """Returns the areas under the ROC and the precision-recall curve with 95 % bootstrap intervals; None of one label.

    Examples are drawn again within each label.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if positive.all() or not positive.any():
        return {"roc_auc": None, "average_precision": None}
    random = np.random.default_rng(0)
    parts = [np.flatnonzero(positive == side) for side in (True, False)]
    drawn = [np.concatenate([random.choice(part, len(part)) for part in parts]) for _ in range(_RESAMPLES)]
    found = {}
    for name, area in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        spread = [area(positive[some], score[some]) for some in drawn]
        low, high = np.quantile(spread, [0.025, 0.975])
        found[name] = {"value": float(area(positive, score)), "interval": [float(low), float(high)]}
    return found


def curves(positive: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> dict[str, list[tuple[float, float]]]:
    """Returns the points of the curves "roc" (1 - specificity, sensitivity) and "precision" (recall, precision)."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    if positive.all() or not positive.any():
        return {}
    wrong, right, _ = roc_curve(positive, score)
    precision, recall, _ = precision_recall_curve(positive, score)
    return {"roc": _thinned(wrong, right), "precision": _thinned(recall[::-1], precision[::-1])}


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[tuple[float, float]]:
    chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
    return [(float(x[i]), float(y[i])) for i in chosen]

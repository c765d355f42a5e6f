"""One number per example. The output "scores" and the truth are float32 [n, 1]."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.tasks.learnt.contract import (
    ROUNDING,
    Answer,
    Bools,
    Doubles,
    Guess,
    Labels,
    Learnt,
    Metric,
    Mistake,
    Predictions,
    Shown,
    Truth,
    by_rows,
)

_EPSILONS = 4  # allowed error of a sum, in float32 steps of the largest number
_ALIKE = 0.05  # fraction of the spread within which two numbers are the same answer


def numbers(predictions: Predictions) -> npt.NDArray[np.float32]:
    """Returns the number of each example, float32 [n, 1]."""
    return np.asarray(predictions["scores"])


def metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns R², mean squared error `loss`, mean absolute error and Spearman's rank correlation."""
    from scipy.stats import spearmanr

    found = numbers(predictions)
    error = found.astype(np.float64) - truth
    vary = np.ptp(found) and np.ptp(truth)
    return {
        "r2": r_squared(per_example(truth, predictions)),
        "loss": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
        "spearman": float(spearmanr(found[:, 0], truth[:, 0]).statistic) if vary else 0.0,
    }


def per_example(truth: Truth, predictions: Predictions) -> Doubles:
    """Returns the squared error and the true number, float64 [n, 2]."""
    known = truth[:, 0].astype(np.float64)
    error = numbers(predictions)[:, 0].astype(np.float64) - known
    return np.stack([error**2, known], 1)


def r_squared(found: Doubles) -> float:
    """Returns the explained share of the variance: 1 is perfect, 0 is as good as the mean."""
    # This order loses no digits for large numbers that vary little.
    known = found[:, 1] - found[:, 1].mean()
    return float(1 - found[:, 0].sum() / max(float((known**2).sum()), 1e-12))


def spread(expected: npt.NDArray[Any]) -> float:
    """Returns how far apart the numbers are; larger if float32 cannot hold their differences."""
    epsilon = float(np.finfo(np.float32).eps)
    rounding = _EPSILONS * epsilon * float(np.abs(expected).max(initial=0)) / ROUNDING
    return max(float(np.ptp(expected)), rounding)


def mistakes(labels: Labels, truth: Truth, predictions: Predictions) -> list[Mistake]:
    """Returns every example, largest error first."""
    found = numbers(predictions)
    order = np.argsort(-np.abs(found - truth)[:, 0], kind="stable")
    return [Mistake(int(i), f"{truth[i, 0]:.3g}", f"{found[i, 0]:.3g}") for i in order]


def answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns the number with the name of its column."""
    number = float(numbers(predictions)[index, 0])
    return Answer(
        (f"{number:.4f}  {labels[0]}",),
        {"labels": [{"label": labels[0], "probability": number}], "number": number},
    )


def _alike(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Bools:
    return np.asarray(np.abs(ours - theirs)[:, 0] <= _ALIKE * spread(theirs))


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return "one number"


def _mean(labels: Labels, known: Truth, n: int) -> Guess:
    """Always the mean."""
    mean = float(known.mean(dtype=np.float64))
    return Guess(f"always {mean:.4g}, the mean", {"scores": np.full((n, 1), mean, np.float32)})


NUMBER = Learnt(
    name="number",
    metric=Metric("r2", share=False),
    metrics=metrics,
    per_example=per_example,
    statistic=r_squared,
    comparison=by_rows(numbers, agree=_alike, scale=spread, alike="numbers (to 5 % of their spread)"),
    shown=Shown(
        "numbers.html.j2",
        "Mistakes",
        lambda labels, truth, predictions, test: {},
        mistakes,
        answer,
        _said,
        ("mae", "spearman"),
    ),
    guess=_mean,
)

"""Split-conformal thresholds: a false-alarm rate that holds whatever the scores are."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conformal:
    """A split-conformal threshold (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173).

    Attributes:
        threshold: scores above it are called defective.
        rate: the share of good pictures above it that is kept on average over draws of held-out ones.
        interval: 95 % interval of the share for these held-out ones.
        rank: how many held-out scores are at or below it.
    """

    threshold: float
    rate: float
    interval: tuple[float, float]
    rank: int


def fewest_for(rate: float) -> int:
    """Returns how many held-out good pictures keep a false-alarm rate."""
    return math.ceil(1 / rate - 1e-9) - 1


def conformal(scores: Doubles, rate: float) -> Conformal:
    """Returns the threshold above which at most a share of good pictures lies.

    It lies in the middle between two held-out scores, so that rounding changes no decision about them.

    Raises:
        ValueError: the held-out pictures are too few for the rate.
    """
    n, ranked = len(scores), np.sort(scores)
    rank = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if rank > n:
        raise ValueError(f"{n} scores keep no rate of {rate}")
    at = ranked[rank - 1]
    above = ranked[rank] if rank < n else at + max(at - np.median(ranked), 1e-3) / 10
    low, high = beta.ppf((0.025, 0.975), n + 1 - rank, rank)
    return Conformal(float(at + above) / 2, (n + 1 - rank) / (n + 1), (float(low), float(high)), rank)

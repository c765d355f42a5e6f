"""Brings the scores of cells near the border down to those inside, on held-out good pictures.

Cells count with those of the same side and depth. None is raised: a calm border hides nothing.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.tasks.anomaly_detection.model import AnomalyDetector

Doubles = npt.NDArray[np.float64]

_DEPTH = 4  # cells from the border in which scores may differ from those inside


def fit(model: AnomalyDetector, batches: Iterable[Any]) -> None:
    """Sets the layers that even the maps, from batches of good pictures, float32 [B, H, W, 3]."""
    uneven = tf.function(lambda x: model.uneven(x)[:2], input_signature=[model.takes], autograph=False)
    count, sums = 0, np.zeros((2, 2, *model.evened["patches"].gain.shape))  # of each map: its values, their squares
    for x in batches:
        maps = np.stack([one.numpy() for one in uneven(x)]).astype(np.float64)  # [2, B, h, w]
        sums += np.stack([maps.sum(axis=1), np.square(maps).sum(axis=1)], axis=1)
        count += len(x)
    for layer, (mean, square) in zip(model.evened.values(), sums / count, strict=True):
        gain, shift = evened(mean, square)
        layer.gain.assign(gain)
        layer.shift.assign(shift)


def evened(mean: Doubles, square: Doubles) -> tuple[Doubles, Doubles]:
    """Returns the gain and the shift of each cell.

    Args:
        mean, square: of a map's values and of their squares over good pictures, [h, w].
    """
    gain, shift = np.ones(mean.shape), np.zeros(mean.shape)
    depth, side = _borders(mean.shape)
    if (inside := depth >= _DEPTH).any():
        usual, deviation = _spread(mean[inside], square[inside])
        for some in ((depth == d) & (side == s) for d in range(_DEPTH) for s in range(4)):
            if some.any():
                its_usual, its_deviation = _spread(mean[some], square[some])
                gain[some] = least = min(1.0, deviation / max(its_deviation, 1e-12))
                shift[some] = min(usual, its_usual) - least * its_usual
    return gain, shift


def _borders(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns how many cells lie between each cell and the border, and the nearest side from 0 to 3: int64 [h, w]."""
    rows, columns = np.indices(shape)
    away = np.stack([rows, rows[::-1], columns, columns[:, ::-1]])
    return away.min(axis=0), away.argmin(axis=0)


def _spread(mean: Doubles, square: Doubles) -> tuple[float, float]:
    """Returns the mean and the standard deviation of some cells."""
    usual = float(mean.mean())
    return usual, float(np.sqrt(max(float(square.mean()) - usual**2, 0.0)))

"""Anchors: the boxes that a detector corrects, fixed by the size of its input. Without TensorFlow.

Every cell of levels 3 to 7 has nine, of three sizes and three aspect ratios, as in RetinaNet (Lin et al. 2017,
arXiv:1708.02002), centred on the cell. Boxes are x1, y1, x2, y2 in shares of the picture.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FINEST, COARSEST = 3, 7
SHAPES = [(2 ** (i / 3), ratio) for i in range(3) for ratio in (0.5, 1.0, 2.0)]
"""Side of each anchor of a cell, as a multiple of the smallest, and its height divided by its width."""
COVERED = 0.5
"""Overlap (IoU) from which on an anchor covers a box."""
_SCALES = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
_MEASURED = 5000  # boxes


def levels(size: int) -> range:
    """Returns the levels of a detector for pictures of a size: those with at least two cells along a side."""
    return range(FINEST, min(COARSEST, int(np.log2(size)) - 1) + 1)


def cells(size: int, level: int) -> int:
    """Returns the number of cells along a side of `size` pixels."""
    return -(-size // (1 << level))


def anchors(size: int, scale: float) -> Floats:
    """Returns all anchors, float32 [A, 4], level by level, row by row.

    Args:
        size: side of the model's input in pixels.
        scale: side of the smallest anchor of a cell, in cells.
    """
    found = []
    for level in levels(size):
        count, cell = cells(size, level), 2**level / size
        centres = (np.arange(count) + 0.5) * cell
        sides = (
            np.array([[factor / np.sqrt(ratio), factor * np.sqrt(ratio)] for factor, ratio in SHAPES]) * scale * cell
        )
        y, x = np.meshgrid(centres, centres, indexing="ij")
        middle = np.stack([x, y], -1)[:, :, None]  # [h, w, 1, 2]
        found.append(np.concatenate([middle - sides / 2, middle + sides / 2], -1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


def overlaps(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Returns the intersection over the union of each two boxes, float64 [n, m]."""
    a, b = np.asarray(one, np.float64)[:, None], np.asarray(other, np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = sides.prod(-1)
    areas = [np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1) for box in (a, b)]
    union = areas[0] + areas[1] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def coverage(truth: Iterable[npt.NDArray[np.void]], size: int, scale: float) -> tuple[float, int]:
    """Returns the share of boxes that an anchor covers, which bounds how many can be found well, and their number.

    Args:
        truth: rows of `kerastune.data.truths.BOX` for each picture.
    """
    boxes = _few(truth)
    return _covered(boxes, size, scale), len(boxes)


def best_scale(truth: Iterable[npt.NDArray[np.void]], size: int) -> float:
    """Returns the scale whose anchors cover most boxes; among equals the one whose anchors fit better."""
    boxes = _few(truth)
    shares = {scale: (_covered(boxes, size, scale), _mean_best(boxes, size, scale)) for scale in _SCALES}
    return max(shares, key=lambda scale: shares[scale])


def _few(truth: Iterable[npt.NDArray[np.void]]) -> Floats:
    """Returns boxes in shares of their pictures, up to `_MEASURED`, evenly drawn."""
    found: Sequence[Floats] = [shares(rows)[0] for rows in truth]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *found])
    return boxes[:: max(len(boxes) // _MEASURED, 1)]


def shares(rows: npt.NDArray[np.void]) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Returns the boxes of a picture in shares of it, float32 [m, 4], their labels [m], and which are crowds [m]."""
    size = np.tile(rows["corners"][0, 2:], 2)
    return rows["corners"][1:] / size, rows["label"][1:], rows["crowd"][1:]


def _covered(boxes: Floats, size: int, scale: float) -> float:
    return float((_best(boxes, size, scale) >= COVERED).mean()) if len(boxes) else 1.0


def _mean_best(boxes: Floats, size: int, scale: float) -> float:
    return float(_best(boxes, size, scale).mean()) if len(boxes) else 1.0


def _best(boxes: Floats, size: int, scale: float) -> npt.NDArray[np.float64]:
    """Returns the largest overlap of each box with an anchor.

    Only anchors around the box's centre can have it: those of its nearest cell at every level.
    """
    centres, found = (boxes[:, :2] + boxes[:, 2:]) / 2, np.zeros(len(boxes))
    for level in levels(size):
        count, cell = cells(size, level), 2**level / size
        near = (np.clip(np.floor(centres / cell), 0, count - 1) + 0.5) * cell  # [n, 2]
        for factor, ratio in SHAPES:
            side = np.array([factor / np.sqrt(ratio), factor * np.sqrt(ratio)]) * scale * cell
            low, high = near - side / 2, near + side / 2
            common = np.clip(np.minimum(high, boxes[:, 2:]) - np.maximum(low, boxes[:, :2]), 0, None).prod(-1)
            areas = side.prod() + (boxes[:, 2:] - boxes[:, :2]).prod(-1)
            found = np.maximum(found, common / (areas - common))
    return found

"""Average precision as COCO defines it, from statistics of each picture: any resample of pictures can be judged.

A detection is right if it overlaps a box of its class that no better detection took. Precision is averaged over 101
levels of recall, over ten overlaps (IoU) from 0.5 to 0.95, and over the classes that occur.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from kerastune.data.ragged import Ragged

Doubles = npt.NDArray[np.float64]

OVERLAPS = np.linspace(0.5, 0.95, 10)
MOST = 100
"""Detections of one picture."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_COLUMNS = 4  # of a detection: class, score, and a bit for each overlap: whether it is right, whether it is left out


def matches(truth: Ragged, detections: npt.NDArray[np.float32]) -> Doubles:
    """Returns the statistics of each picture, float64 [n, K + 400].

    They are the number of boxes of each class, and four numbers for each detection.

    Args:
        truth: rows of `kerastune.data.truths.BOX`.
        detections: x1, y1, x2, y2, score and class, the best first, float32 [n, 100, 6]; rows of score 0 are none.
    """
    classes = int(max((rows["label"].max() for rows in truth), default=-1)) + 1
    found = np.zeros((len(truth), classes + _COLUMNS * MOST))
    for row, rows, said in zip(found, truth, detections, strict=True):
        boxes = rows[1:]
        row[:classes] = np.bincount(boxes["label"][~boxes["crowd"]], minlength=classes)
        said = said[said[:, 4] > 0].astype(np.float64)
        columns = np.zeros((MOST, _COLUMNS))
        for label in np.unique(said[:, 5]):
            mine = np.flatnonzero(said[:, 5] == label)
            right, left_out = _matched(boxes[boxes["label"] == label], said[mine])
            columns[mine] = np.stack([said[mine, 5], said[mine, 4], right @ _BITS, left_out @ _BITS], 1)
        row[classes:] = columns.reshape(-1)
    return found


_BITS = 2.0 ** np.arange(len(OVERLAPS))


def _matched(boxes: npt.NDArray[np.void], said: Doubles) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns for detections of one class which are right, and which lie on crowds, at each overlap: bool [d, 10]."""
    order = np.argsort(-said[:, 4], kind="stable")
    boxes = boxes[np.argsort(boxes["crowd"], kind="stable")]
    shared = _shared(said[:, :4], boxes["corners"].astype(np.float64), boxes["crowd"])  # [d, m]
    right, left_out = (np.zeros((len(said), len(OVERLAPS)), np.bool_) for _ in range(2))
    if not len(boxes):
        return right, left_out
    free = np.ones((len(OVERLAPS), len(boxes)), np.bool_)
    least = np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
    crowd = boxes["crowd"]
    for i in order:
        fits = free & (shared[i] >= least)  # [10, m]
        for kind, out in ((~crowd, right), (crowd, left_out)):  # a crowd counts only where no box fits
            value = np.where(fits & kind, shared[i], -1.0)
            best = len(boxes) - 1 - value[:, ::-1].argmax(-1)  # the last among equals, as COCO has it
            hit = (value.max(-1) >= 0) & ~right[i]
            out[i] = hit
            free[hit & ~crowd[best], best[hit & ~crowd[best]]] = False
    return right, left_out


def _shared(said: Doubles, boxes: Doubles, crowd: npt.NDArray[np.bool_]) -> Doubles:
    """Returns the overlap of each detection with each box; with a crowd, the share of the detection inside it."""
    a, b = said[:, None], boxes[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = sides.prod(-1)
    own, other = ((one[..., 2:] - one[..., :2]).prod(-1) for one in (a, b))
    union = np.where(crowd, own, own + other - common)
    return np.asarray(common / np.maximum(union, 1e-12))


def average(found: Doubles, chosen: Iterable[int] = range(len(OVERLAPS))) -> float:
    """Returns the mean of the average precision of the classes that occur; 0 if none does.

    Args:
        found: statistics of some pictures.
        chosen: indices into `OVERLAPS`.
    """
    each = [value for value in by_class(found, chosen) if value is not None]
    return float(np.mean(each)) if each else 0.0


def by_class(found: Doubles, chosen: Iterable[int] = range(len(OVERLAPS))) -> list[float | None]:
    """Returns the average precision of each class, or None for a class that does not occur."""
    boxes, rows = _parts(found)
    bits = np.array(list(chosen))
    rows = rows[np.lexsort((-rows[:, 1], rows[:, 0]))]
    starts = np.searchsorted(rows[:, 0], np.arange(len(boxes) + 1))
    result = list[float | None]()
    for label, count in enumerate(boxes):
        of_class = rows[starts[label] : starts[label + 1]]
        result.append(float(_precisions(of_class, count, bits).mean()) if count else None)
    return result


def recall(found: Doubles) -> float:
    """Returns the share of boxes found with at most 100 detections, averaged over overlaps and classes (AR)."""
    boxes, rows = _parts(found)
    each = [_bit(rows[rows[:, 0] == label], 2).sum(0).mean() / count for label, count in enumerate(boxes) if count]
    return float(np.mean(each)) if each else 0.0


def at_threshold(found: Doubles, score: float) -> tuple[int, int, int]:
    """Returns how many detections of at least a score are right at an overlap of 0.5, how many are not, and the number
    of boxes."""
    boxes, rows = _parts(found)
    rows = rows[rows[:, 1] >= score]
    right, left_out = (_bit(rows, column)[:, 0] for column in (2, 3))
    return int(right.sum()), int((~right & ~left_out).sum()), int(boxes.sum())


def best_threshold(found: Doubles) -> float:
    """Returns the score from which on detections have the highest F1 at an overlap of 0.5; 0.5 without detections."""
    boxes, rows = _parts(found)
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    right, left_out = (_bit(rows, column)[:, 0] for column in (2, 3))
    if not right.any():
        return 0.5
    found_so_far, wrong = np.cumsum(right), np.cumsum(~right & ~left_out)
    best = int(np.argmax(2 * found_so_far / (found_so_far + wrong + boxes.sum())))
    return float(rows[best, 1])


def _parts(found: Doubles) -> tuple[Doubles, Doubles]:
    """Returns the number of boxes of each class, and the detections of classes that occur, [d, 4]."""
    classes = found.shape[1] - _COLUMNS * MOST
    rows = found[:, classes:].reshape(-1, _COLUMNS)
    return found[:, :classes].sum(0), rows[(rows[:, 1] > 0) & (rows[:, 0] < classes)]


def _bit(rows: Doubles, column: int) -> npt.NDArray[np.bool_]:
    return (rows[:, column, None].astype(np.int64) >> np.arange(len(OVERLAPS))) & 1 > 0


def _precisions(rows: Doubles, count: float, bits: npt.NDArray[np.int64]) -> Doubles:
    """Returns the precision at each level of recall and each overlap, of the detections of one class, best first."""
    right, left_out = _bit(rows, 2)[:, bits], _bit(rows, 3)[:, bits]
    hits, misses = np.cumsum(right, 0), np.cumsum(~right & ~left_out, 0)
    precision = hits / np.maximum(hits + misses, 1e-12)
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    found = np.zeros((len(_RECALLS), len(bits)))
    for n in range(len(bits)):
        places = np.searchsorted(hits[:, n] / count, _RECALLS, side="left")
        reached = places < len(rows)
        found[reached, n] = precision[places[reached], n]
    return found

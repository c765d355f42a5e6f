"""Boxes around what is looked for. The output "detections" is float32 [n, 100, 6], the most confident first.

A row is x1, y1, x2, y2 in pixels of the picture, the score, and the class; rows of zeros follow the last one. A file
also gives what they are made of: "class_logits" [n, A, K] and "box_deltas" [n, A, 4], for every anchor. The truth is a
`Ragged` of `kerastune.data.truths.BOX`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from kerastune.errors import printable
from kerastune.modalities.image import embedded
from kerastune.tasks.learnt import average_precision as ap
from kerastune.tasks.learnt.average_precision import MOST, matches
from kerastune.tasks.learnt.contract import (
    Answer,
    Bools,
    Comparison,
    Doubles,
    Guess,
    Labels,
    Learnt,
    Metric,
    Predictions,
    Shown,
    Truth,
    no_mistakes,
)

LEAST_SCORE = 0.05
"""Detections below it are left out, as is usual for measuring precision."""
CONFIDENT = 0.3
"""Score from which on `predict` tells and draws a detection; `metrics` gives the best one for the test split."""

PIXELS = 200.0
"""Pixels that count like a score of 1 in a distance: 0.02 of them like 1e-4."""
_SAME_PLACE = 0.9  # overlap of two runtimes' detections of one thing
_CROWDED = 40  # detections
_NEAR = 1e-3  # of an overlap or a score to the value that decides about a detection

_SHOWN = 12
_SIDE = 320  # pixels of a picture in the report
_TRUE, _FOUND = (40, 160, 60), (230, 110, 20)

Rows = npt.NDArray[Any]


# --- figures -------------------------------------------------------------------------------------------------


def metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns COCO's figures, and those at the score that balances precision and recall best."""
    found = per_example(truth, predictions)
    score = ap.best_threshold(found)
    right, wrong, boxes = ap.at_threshold(found, score)
    every, half = ap.by_class(found), ap.by_class(found, [0])
    counts = np.array([found[:, n].sum() for n in range(len(every))], np.int64)
    return {
        "mAP": ap.average(found),
        "mAP50": ap.average(found, [0]),
        "mAP75": ap.average(found, [5]),
        "recall": ap.recall(found),
        "boxes": boxes,
        "threshold": {
            "score": score,
            "precision": right / max(right + wrong, 1),
            "recall": right / max(boxes, 1),
        },
        "per_class": {
            labels[n]: {"mAP": every[n], "mAP50": half[n], "boxes": int(counts[n])}
            for n in range(len(every))
            if counts[n]
        },
    }


def per_example(truth: Truth, predictions: Predictions) -> Doubles:
    """Returns the statistics of `average_precision.matches`, float64 [n, K + 400]."""
    return matches(truth, np.asarray(predictions["detections"], np.float32))


# --- two runtimes --------------------------------------------------------------------------------------------


def _distance(ours: Predictions, theirs: Predictions) -> Doubles:
    """Returns the largest difference of a probability, a delta, a score, or a corner in 200 pixels, float64 [n].

    A detection that only one of the two has counts with its score, unless a hair decides: an overlap or a score within
    1e-3 of the value from which on it is left out.
    """
    found = np.array([_apart(one, other) for one, other in _both(ours, theirs)], np.float64)
    if "class_logits" in theirs and len(found):
        raw = [
            np.abs(_probabilities(ours) - _probabilities(theirs)),
            np.abs(np.asarray(ours["box_deltas"], np.float64) - np.asarray(theirs["box_deltas"], np.float64)),
        ]
        found = np.max([found, *(one.reshape(len(found), -1).max(-1) for one in raw)], axis=0)
    return found


def _both(ours: Predictions, theirs: Predictions) -> list[tuple[Rows, Rows]]:
    """Returns the detections of each picture in both, float64 [d, 6]."""
    sides = [np.asarray(one["detections"], np.float64) for one in (ours, theirs)]
    return [(one[~(one[:, 4] <= 0)], other[~(other[:, 4] <= 0)]) for one, other in zip(*sides, strict=True)]


def _probabilities(predictions: Predictions) -> Doubles:
    logits = np.asarray(predictions["class_logits"], np.float64)
    return np.asarray(1 / (1 + np.exp(-logits)))


def _apart(ours: Rows, theirs: Rows) -> float:
    pairs, alone = _paired(ours, theirs)
    apart = [
        max(abs(ours[i, 4] - theirs[j, 4]), float(np.abs(ours[i, :4] - theirs[j, :4]).max()) / PIXELS) for i, j in pairs
    ]
    apart += [row[4] for row, others, crowded in alone if not _by_a_hair(row, others, crowded)]
    return float(np.max(apart, initial=0.0))


def _paired(ours: Rows, theirs: Rows) -> tuple[list[tuple[int, int]], list[tuple[Rows, Rows, bool]]]:
    """Pairs detections of one thing, the most alike first.

    Returns:
        Pairs of indices; and the detections that only one side has, each with the other side's, and whether these are
        so many that the number of candidates may have been cut.
    """
    shared = _overlaps(ours[:, :4], theirs[:, :4]) * (ours[:, None, 5] == theirs[None, :, 5])
    near = np.abs(ours[:, None, :4] - theirs[None, :, :4]).max(-1) < 1  # slivers hardly overlap themselves
    near &= ours[:, None, 5] == theirs[None, :, 5]
    value = np.where((shared >= _SAME_PLACE) | near, shared - np.abs(ours[:, None, 4] - theirs[None, :, 4]), -np.inf)
    pairs, free = [], (np.ones(len(ours), np.bool_), np.ones(len(theirs), np.bool_))
    for place in np.argsort(-value, axis=None, kind="stable"):
        i, j = np.unravel_index(place, value.shape)
        if value[i, j] == -np.inf:
            break
        if free[0][i] and free[1][j]:
            pairs.append((int(i), int(j)))
            free[0][i] = free[1][j] = False
    alone = [(row, theirs, len(theirs) >= _CROWDED) for row in ours[free[0]]]
    return pairs, alone + [(row, ours, len(ours) >= _CROWDED) for row in theirs[free[1]]]


def _by_a_hair(row: Rows, others: Rows, crowded: bool) -> bool:
    """Returns whether rounding alone may have decided that the other side lacks a detection."""
    if row[4] < LEAST_SCORE + _NEAR or (crowded and row[4] < others[:, 4].min() + _NEAR):
        return True
    rivals = others[(others[:, 5] == row[5]) & (others[:, 4] > row[4] - _NEAR)]
    return bool((np.abs(_overlaps(row[None, :4], rivals[:, :4]) - 0.5) < _NEAR).any())


def _overlaps(one: Rows, other: Rows) -> Doubles:
    a, b = one[:, None], other[None]
    common = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    return np.asarray(common / np.maximum(areas[0] + areas[1] - common, 1e-12))


def _agree(ours: Predictions, theirs: Predictions) -> Bools:
    """Returns whether both find the same confident things: each one's has a partner of any score in the other."""

    def same(one: Rows, other: Rows) -> bool:
        shared = _overlaps(one[:, :4], other[:, :4]) * (one[:, None, 5] == other[None, :, 5])
        return all(
            bool((a[sure] >= 0.5).any(-1).all())
            for a, sure in ((shared, one[:, 4] >= CONFIDENT), (shared.T, other[:, 4] >= CONFIDENT))
        )

    return np.array([same(one, other) for one, other in _both(ours, theirs)], np.bool_)


def _lost(ours: Predictions, theirs: Predictions) -> float:
    """Returns the lost share of the variance of probabilities; of the summed scores of each class without raw heads."""
    mine, known = (_probabilities(one) if "class_logits" in theirs else _sums(one) for one in (ours, theirs))
    return float(np.square(mine - known).sum() / max(np.square(known - known.mean(0)).sum(), 1e-12))


def _sums(predictions: Predictions) -> Doubles:
    rows = np.asarray(predictions["detections"], np.float64)
    return np.asarray(rows[..., 4].sum(-1, keepdims=True))


def _spread(predictions: Predictions) -> float:
    values = _probabilities(predictions) if "class_logits" in predictions else _sums(predictions)
    return float(np.ptp(values, axis=0).max(initial=0))


# --- people --------------------------------------------------------------------------------------------------


def answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns what is found in a picture, a line for each."""
    rows = np.asarray(predictions["detections"])[index]
    sure = rows[rows[:, 4] >= CONFIDENT]
    lines = [
        f"{row[4]:.4f}  {labels[int(row[5])]}  x {row[0]:.1f} to {row[2]:.1f}, y {row[1]:.1f} to {row[3]:.1f}"
        for row in sure
    ]
    less = int(((rows[:, 4] > 0) & (rows[:, 4] < CONFIDENT)).sum())
    rest = f"{less:,} less certain ones are in --json" if less else ""
    document = [
        {"label": labels[int(row[5])], "score": float(row[4]), "box": [float(value) for value in row[:4]]}
        for row in rows[rows[:, 4] > 0]
    ]
    return Answer((*(lines or ["nothing"]), *([rest] if rest else [])), {"detections": document})


def drawn(labels: Labels, predictions: Predictions, index: int, pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Returns a picture with the confident detections drawn on it."""
    rows = np.asarray(predictions["detections"])[index]
    sure = rows[rows[:, 4] >= CONFIDENT][::-1]
    texts = [f"{labels[int(row[5])]} {row[4]:.2f}" for row in sure]
    return _with_boxes(
        Image.fromarray(pixels), [(row[:4], text, _FOUND) for row, text in zip(sure, texts, strict=True)]
    )


def _with_boxes(picture: Image.Image, boxes: list[tuple[Any, str, tuple[int, int, int]]]) -> Image.Image:
    draw, thick = ImageDraw.Draw(picture), max(max(picture.size) // 200, 1)
    font = ImageFont.load_default(max(max(picture.size) // 28, 10))
    for corners, text, colour in boxes:
        x1, y1, x2, y2 = (float(value) for value in corners)
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour, width=thick)
        if text:
            at = draw.textbbox((x1 + thick, y1), printable(text), font=font)
            draw.rectangle(at, fill=colour)
            draw.text((x1 + thick, y1), printable(text), (255, 255, 255), font)
    return picture


def _context(labels: Labels, truth: Truth, predictions: Predictions, test: Any) -> dict[str, Any]:
    """Returns the pictures with the most missed and wrong boxes at the best score, each with both drawn."""
    score = metrics(labels, truth, predictions)["threshold"]["score"]
    each = [_faults(rows, found, score) for rows, found in zip(truth, predictions["detections"], strict=True)]
    order = sorted(range(len(each)), key=lambda i: -sum(each[i]))
    shown = []
    if test is not None and len(test) == len(truth):
        chosen = [i for i in order if sum(each[i])][:_SHOWN]
        right = [i for i in order[::-1] if not sum(each[i]) and len(truth[i]) > 1][: _SHOWN // 4]
        for i in (*chosen, *right):
            missed, wrong = each[i]
            name = printable(test.ids[i])
            picture = embedded(_overlay(labels, test.example(i), truth[i], predictions["detections"][i], score), name)
            shown.append({"picture": picture, "id": name, "missed": missed, "wrong": wrong})
    return {"overlays": shown, "score": score}


def _faults(rows: Rows, found: Rows, score: float) -> tuple[int, int]:
    """Returns the number of missed boxes and of wrong detections of a picture at a score."""
    boxes, sure = rows[1:][~rows["crowd"][1:]], found[found[:, 4] >= max(score, 1e-9)].astype(np.float64)
    shared = _overlaps(sure[:, :4], boxes["corners"].astype(np.float64))
    hits = (shared >= 0.5) & (sure[:, None, 5] == boxes["label"][None])
    return int((~hits.any(0)).sum()), int((~hits.any(1)).sum())


def _overlay(labels: Labels, pixels: Any, rows: Rows, found: Rows, score: float) -> Image.Image:
    """Returns a picture with its boxes in green and what is found in orange."""
    picture = Image.fromarray(pixels)
    factor = _SIDE / max(picture.size)
    picture = picture.resize([max(round(side * factor), 1) for side in picture.size], Image.Resampling.LANCZOS)
    true = [(row["corners"] * factor, "", _TRUE) for row in rows[1:]]
    said = [
        (row[:4] * factor, f"{labels[int(row[5])]} {row[4]:.2f}", _FOUND) for row in found if row[4] >= max(score, 1e-9)
    ]
    return _with_boxes(picture, [*true, *said])


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return f"boxes of {len(labels)} label{'' if len(labels) == 1 else 's'}"


def _nothing(labels: Labels, known: Truth, n: int) -> Guess:
    """Finds nothing."""
    return Guess("nothing found", {"detections": np.zeros((n, MOST, 6), np.float32)})


BOXES = Learnt(
    name="boxes",
    metric=Metric("mAP", share=False),
    metrics=metrics,
    per_example=per_example,
    statistic=ap.average,
    comparison=Comparison(_distance, _agree, _lost, _spread, lambda predictions: 1.0, alike="pictures' boxes"),
    shown=Shown(
        "boxes.html.j2",
        "What it finds",
        _context,
        no_mistakes,
        answer,
        _said,
        ("mAP50", "recall"),
        drawn=drawn,
    ),
    guess=_nothing,
)

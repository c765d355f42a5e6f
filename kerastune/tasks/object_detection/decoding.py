"""Turns a detector's outputs into detections, in operators that every format has.

A file therefore needs no code for it. Greedy suppression is a loop that takes a detection at a time; here every round
looks at all of them, and rounds are repeated until nothing changes: each settles one more link of every chain.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from kerastune.tasks.learnt.average_precision import MOST
from kerastune.tasks.learnt.boxes import LEAST_SCORE

Tensor = Any

OVERLAP = 0.5
"""Overlap (IoU) from which on the better of two detections of a class suppresses the other."""
CANDIDATES = 300
_LEAST_SIDE = 1e-3  # of the picture; what is left of a box that lies outside it
_ROUNDS = 10
_LARGEST = float(np.log(1000 / 16))  # of the logarithm by which a side grows


def detections(outputs: dict[str, Tensor], anchors: Any) -> Tensor:
    """Returns the best detections of each picture, float32 [B, 100, 6], the most confident first.

    A row is x1, y1, x2, y2 in shares of the picture, the score and the class. Rows of zeros follow the last one.

    Args:
        outputs: those of `ObjectDetector`.
        anchors: float32 [A, 4].
    """
    best = tf.reduce_max(outputs["class_logits"], axis=-1)  # [B, A]
    count = min(CANDIDATES, anchors.shape[0])
    logits, where = tf.math.top_k(best, count)
    classes = tf.argmax(tf.gather(outputs["class_logits"], where, batch_dims=1), axis=-1, output_type=tf.int32)
    deltas = tf.gather(outputs["box_deltas"], where, batch_dims=1)
    boxes = tf.clip_by_value(decoded(deltas, tf.gather(tf.convert_to_tensor(anchors), where)), 0.0, 1.0)
    classes = tf.cast(classes, tf.float32)
    is_seen = tf.reduce_min(boxes[..., 2:] - boxes[..., :2], axis=-1) > _LEAST_SIDE
    scores = tf.sigmoid(logits) * _kept(boxes, classes) * tf.cast(is_seen, tf.float32)
    scores = scores * tf.cast(scores > LEAST_SCORE, tf.float32)
    scores, order = tf.math.top_k(scores, min(MOST, count))
    rows = tf.gather(tf.concat([boxes, classes[..., None]], axis=-1), order, batch_dims=1)
    found = tf.concat([rows[..., :4], scores[..., None], rows[..., 4:]], axis=-1)
    found = found * tf.cast(scores > 0, tf.float32)[..., None]
    return tf.pad(found, [[0, 0], [0, MOST - count], [0, 0]]) if count < MOST else found


def decoded(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Returns the boxes that deltas make of anchors, float32 [..., 4]."""
    low, high = anchors[..., :2], anchors[..., 2:]
    sides = high - low
    centres = (low + high) / 2 + deltas[..., :2] * sides
    half = sides * tf.exp(tf.minimum(deltas[..., 2:], _LARGEST)) / 2
    return tf.concat([centres - half, centres + half], axis=-1)


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Returns the deltas that make boxes of anchors: the inverse of `decoded`."""
    low, high = anchors[..., :2], anchors[..., 2:]
    sides, wanted = high - low, tf.maximum(boxes[..., 2:] - boxes[..., :2], 1e-6)
    shift = (boxes[..., :2] + boxes[..., 2:] - low - high) / 2 / sides
    return tf.concat([shift, tf.math.log(wanted / sides)], axis=-1)


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Returns the intersection over the union of each two boxes: [..., n, 4], [..., m, 4] -> [..., n, m]."""
    common, areas, others = _common(one, other), _area(one), _area(other)
    return common / tf.maximum(areas[..., :, None] + others[..., None, :] - common, 1e-9)


def inside(one: Tensor, other: Tensor) -> Tensor:
    """Returns the share of each box that lies in each other one: [..., n, m]."""
    return _common(one, other) / tf.maximum(_area(one)[..., :, None], 1e-9)


def _common(one: Tensor, other: Tensor) -> Tensor:
    a, b = one[..., :, None, :], other[..., None, :, :]
    sides = tf.maximum(tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2]), 0.0)
    return sides[..., 0] * sides[..., 1]


def _area(boxes: Tensor) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def _kept(boxes: Tensor, classes: Tensor) -> Tensor:
    """Returns 1 for each box, the best first, that no better one of its class suppresses, and 0 for the others."""
    count = boxes.shape[1]
    better = tf.constant(np.tril(np.ones((1, count, count), np.float32), -1))
    same = tf.cast(tf.equal(classes[:, :, None], classes[:, None, :]), tf.float32)
    hits = better * same * tf.cast(overlaps(boxes, boxes) > OVERLAP, tf.float32)  # [B, k, k]: j hits i
    kept = tf.ones_like(classes)
    for _ in range(_ROUNDS):
        kept = 1 - tf.reduce_max(hits * kept[:, None, :], axis=-1)
    return kept

"""Targets, loss and figures: focal loss on classes and smooth L1 on boxes (RetinaNet; arXiv:1708.02002)."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Splits, ragged
from kerastune.data.truths import BOX
from kerastune.tasks import losses
from kerastune.tasks.contract import Learning, Loss, Model, Targets
from kerastune.tasks.learnt import LEARNT
from kerastune.tasks.object_detection import anchors, decoding, matching
from kerastune.tasks.object_detection.settings import ObjectDetection

Tensor = Any

_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss
_SHARP = 0.1  # deltas below it count squared
_FOREGROUND, _BACKGROUND = 0.5, 0.4  # overlaps with a box; between them an anchor does not count

COLUMNS = 6
"""Label, x1, y1, x2, y2 in shares of the picture, and whether it is a crowd. Rows of label -1 are none."""


def targets(recipe: ObjectDetection, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    """Returns the boxes of each picture, float32 [n, M, 6]."""
    truth = getattr(splits, name).labels
    found = np.full((len(truth), max(map(len, truth)) or 1, COLUMNS), -1, np.float32)
    for out, rows in zip(found, truth, strict=True):
        boxes, labels, crowds = anchors.shares(rows)
        out[: len(boxes)] = np.concatenate([labels[:, None], boxes, crowds[:, None]], 1)
    return Targets(found, np.ones(len(found), np.float32))


def anchors_of(recipe: ObjectDetection) -> anchors.Floats:
    """Returns the anchors of a recipe whose scale is settled."""
    return _anchors(recipe.data.image_size, float(recipe.detector.anchor_scale))


def _fixed(recipe: ObjectDetection, outputs: dict[str, Tensor]) -> Tensor:
    """Returns the anchors that outputs refer to, float32 [A, 4]: a preset's detector brings its own."""
    return outputs["anchors"][0] if "anchors" in outputs else tf.constant(anchors_of(recipe))


@functools.lru_cache(maxsize=4)
def _anchors(size: int, scale: float) -> anchors.Floats:
    return anchors.anchors(size, scale)


def loss(recipe: ObjectDetection) -> Loss:
    """Returns the loss, summed over anchors; its count is the number of anchors that lie on boxes.

    A model of queries has the loss of `matching.set_loss`.
    """

    def summed(truth: Tensor, outputs: dict[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
        if matching.EARLIER in outputs:
            return matching.set_loss(truth, outputs, weights)
        fixed = _fixed(recipe, outputs)
        on, counts, wanted = assigned(truth, fixed)
        logits = outputs["class_logits"]
        is_class = tf.cast(on[..., None], tf.float32) * tf.one_hot(tf.cast(wanted[..., 0], tf.int32), logits.shape[-1])
        focal = tf.reduce_sum(_focal(is_class, logits), -1) * tf.cast(counts, tf.float32)
        apart = tf.abs(outputs["box_deltas"] - decoding.encoded(wanted[..., 1:5], tf.convert_to_tensor(fixed)))
        smooth = tf.where(apart < _SHARP, 0.5 * apart**2 / _SHARP, apart - 0.5 * _SHARP)
        boxes = tf.reduce_sum(smooth, -1) * tf.cast(on, tf.float32)
        total = tf.reduce_sum((focal + boxes) * weights[:, None])
        return total, tf.maximum(tf.reduce_sum(tf.cast(on, tf.float32)), 1.0)

    return summed


def _focal(is_class: Tensor, logits: Tensor) -> Tensor:
    """Returns the focal loss of each probability: what is right already hardly counts."""
    crossed = tf.nn.sigmoid_cross_entropy_with_logits(is_class, logits)
    probability = tf.sigmoid(logits)
    wrong = is_class * (1 - probability) + (1 - is_class) * probability
    return (is_class * _ALPHA + (1 - is_class) * (1 - _ALPHA)) * wrong**_GAMMA * crossed


def assigned(truth: Tensor, fixed: anchors.Floats) -> tuple[Tensor, Tensor, Tensor]:
    """Assigns boxes to anchors: each anchor gets the box that it overlaps most, from an overlap of 0.5 on; and each
    box at least the anchors that overlap it most.

    Returns:
        Whether each anchor lies on a box, bool [B, A]; whether its class counts, bool [B, A], which it does not close
        to a box or on a crowd; and the row of its box, float32 [B, A, 6].
    """
    count = tf.reduce_max(tf.reduce_sum(tf.cast(truth[..., 0] >= 0, tf.int32), -1))
    truth = truth[:, : tf.maximum(count, 1)]  # rows of boxes come first
    is_crowd = truth[..., 5] > 0
    is_box = (truth[..., 0] >= 0) & ~is_crowd
    fixed = tf.convert_to_tensor(fixed)[None]
    shared = decoding.overlaps(fixed, truth[..., 1:5]) * tf.cast(is_box, tf.float32)[:, None]  # [B, A, M]
    most = tf.reduce_max(shared, axis=1, keepdims=True)
    forced = (shared >= most - 1e-6) & (shared > 0.01)
    value = shared + 2 * tf.cast(forced, tf.float32)
    row, best = tf.argmax(value, -1, tf.int32), tf.reduce_max(value, -1)
    on_crowd = tf.reduce_any((decoding.inside(fixed, truth[..., 1:5]) > 0.5) & is_crowd[:, None], -1)
    on = best >= _FOREGROUND
    counts = on | ((best < _BACKGROUND) & ~on_crowd)
    return on, counts, tf.gather(truth, row, batch_dims=1)


class Found(keras.metrics.Mean):  # type: ignore[misc]
    """The share of anchors on boxes that give the box's class, and the box to an overlap of 0.5: what training sees."""

    def __init__(self, recipe: ObjectDetection) -> None:
        super().__init__(name="found")
        self._recipe = recipe

    def update_state(self, truth: Any, outputs: Any, sample_weight: Any = None) -> None:
        fixed = _fixed(self._recipe, outputs)
        boxes = decoding.decoded(outputs["box_deltas"], fixed)
        on, wanted = (
            matching.on_boxes(truth, outputs["class_logits"], boxes)
            if matching.EARLIER in outputs
            else assigned(truth, fixed)[::2]
        )
        shared = decoding.overlaps(boxes[..., None, :], wanted[..., None, 1:5])[..., 0, 0]
        named = tf.argmax(outputs["class_logits"], -1, tf.int32) == tf.cast(wanted[..., 0], tf.int32)
        super().update_state(tf.cast((shared >= 0.5) & named, tf.float32), tf.cast(on, tf.float32))


def reduced(recipe: ObjectDetection, outputs: dict[str, Tensor]) -> Tensor:
    """Returns the detections of a batch of outputs, float32 [B, 100, 6], in shares of the picture."""
    return _detections(outputs, _fixed(recipe, outputs))


_detections = tf.function(decoding.detections, autograph=False, reduce_retracing=True)


def validated(recipe: ObjectDetection, y: Sequence[npt.NDArray[Any]], outputs: Sequence[Any]) -> dict[str, float]:
    """Returns the average precision of a split, which chooses the best epoch."""
    truth = ragged.of_rows([_rows(boxes) for batch in y for boxes in np.asarray(batch)], np.zeros(0, BOX))
    learnt = LEARNT["boxes"]
    found = learnt.per_example(truth, {"detections": np.concatenate(outputs)})
    return {learnt.metric.name: learnt.statistic(found)}


def _rows(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    """Returns the truth of a picture, in shares of it: overlaps are the same as in pixels."""
    boxes = boxes[boxes[:, 0] >= 0]
    rows = np.zeros(1 + len(boxes), BOX)
    rows["label"] = [-1, *boxes[:, 0]]
    rows["corners"] = [(0, 0, 1, 1), *boxes[:, 1:5]]
    rows["crowd"][1:] = boxes[:, 5] > 0
    return rows


LEARNING: Learning[ObjectDetection] = Learning(
    targets=targets,
    loss=loss,
    meter=Found,
    validated=validated,
    starts=False,
    sampled=losses.no_samples,
    samples=losses.no_answers,
    reduced=reduced,
)

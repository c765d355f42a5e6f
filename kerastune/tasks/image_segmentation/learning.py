"""Targets, loss and figures: cross-entropy of each pixel, and the Dice loss of each class."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Splits, masks
from kerastune.tasks import losses
from kerastune.tasks.contract import Learning, Loss, Model, Targets
from kerastune.tasks.image_segmentation.settings import ImageSegmentation
from kerastune.tasks.learnt.masks import at_size

Tensor = Any
Floats = npt.NDArray[np.float32]


def targets(recipe: ImageSegmentation, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    """Returns the masks at the model's size, uint8 [n, S, S], and the weight of each class, float32 [n, K]."""
    truth, size = getattr(splits, name).labels, tuple(model.preprocessor.image_converter.image_size)
    found = np.zeros((len(truth), *size), np.uint8)
    for out, row in zip(found, truth, strict=True):
        out[:] = at_size(masks.unpacked(row), size)
    by_class = np.ones(len(splits.labels), np.float32)
    if training and recipe.train.class_weights == "balanced":
        by_class = balanced(np.bincount(found.reshape(-1), minlength=masks.IGNORED + 1)[: len(by_class)])
    return Targets((found, np.tile(by_class, (len(found), 1))), np.ones(len(found), np.float32))


def balanced(counts: npt.NDArray[np.int64]) -> Floats:
    """Returns the weight of a pixel of each class, float32 [K]: the root of how much rarer it is than the median class
    (Eigen & Fergus 2015, arXiv:1411.4734, without the root), so that a pixel weighs 1 on average."""
    there = counts > 0
    found = np.sqrt(np.median(counts[there]) / np.maximum(counts, 1)) * there
    return np.asarray(found / (found * counts).sum() * counts.sum(), np.float32)


def loss(recipe: ImageSegmentation) -> Loss:
    """Returns the loss: mean cross-entropy of a picture's pixels, and the Dice loss of the batch."""
    share = recipe.segmenter.dice

    def summed(truth: Tensor, outputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mask, by_class = truth
        ids = tf.cast(mask, tf.int32)
        counted = ids != masks.IGNORED
        logits = tf.image.resize(tf.cast(outputs, tf.float32), tf.shape(ids)[1:3])
        known = tf.one_hot(tf.where(counted, ids, 0), logits.shape[-1])  # [B, S, S, K]
        each = tf.nn.softmax_cross_entropy_with_logits(known, logits)
        heavy = tf.einsum("bhwk,bk->bhw", known, by_class) * tf.cast(counted, tf.float32)
        pixels = tf.maximum(tf.reduce_sum(tf.cast(counted, tf.float32), (1, 2)), 1.0)
        total = tf.reduce_sum(tf.reduce_sum(each * heavy, (1, 2)) / pixels * weights)
        count = tf.cast(tf.shape(ids)[0], tf.float32)
        if share:
            total += share * count * _dice(known, tf.nn.softmax(logits), counted)
        return total, count

    return summed


def _dice(known: Tensor, said: Tensor, counted: Tensor) -> Tensor:
    """Returns 1 - Dice, on average over the classes in a batch."""
    inside = tf.cast(counted, tf.float32)[..., None]
    known, said = known * inside, said * inside
    axes = (0, 1, 2)
    area = tf.reduce_sum(known, axes)
    dice = 2 * tf.reduce_sum(known * said, axes) / tf.maximum(area + tf.reduce_sum(said, axes), 1.0)
    there = tf.cast(area > 0, tf.float32)
    return tf.reduce_sum((1 - dice) * there) / tf.maximum(tf.reduce_sum(there), 1.0)


class Overlap(keras.metrics.Metric):  # type: ignore[misc]
    """mIoU of all pixels so far, at the model's size."""

    def __init__(self, classes: int) -> None:
        super().__init__(name="miou")
        self._classes = classes
        self.counts = self.add_weight(name="counts", shape=(classes, classes), initializer="zeros")

    def update_state(self, truth: Any, outputs: Any, sample_weight: Any = None) -> None:
        ids = tf.cast(truth[0], tf.int32)
        said = tf.argmax(tf.image.resize(tf.cast(outputs, tf.float32), tf.shape(ids)[1:3]), -1, tf.int32)
        counted = tf.cast(ids != masks.IGNORED, tf.float32)[..., None]
        known = tf.one_hot(ids, self._classes) * counted
        flat = [tf.reshape(one, (-1, self._classes)) for one in (known, tf.one_hot(said, self._classes))]
        self.counts.assign_add(tf.matmul(flat[0], flat[1], transpose_a=True))

    def result(self) -> Any:
        counts = tf.convert_to_tensor(self.counts)
        both = tf.linalg.diag_part(counts)
        union = tf.reduce_sum(counts, 0) + tf.reduce_sum(counts, 1) - both
        there = tf.cast(union > 0, tf.float32)
        return tf.reduce_sum(both / tf.maximum(union, 1.0)) / tf.maximum(tf.reduce_sum(there), 1.0)


LEARNING: Learning[ImageSegmentation] = Learning(
    joint=lambda recipe: (
        "Dice is a figure of all pixels of a batch; segmenter.dice = 0 leaves it out" if recipe.segmenter.dice else ""
    ),
    targets=targets,
    loss=loss,
    meter=lambda recipe: Overlap(len(recipe.data.classes)),
    validated=None,
    starts=False,
    sampled=losses.no_samples,
    samples=losses.no_answers,
)

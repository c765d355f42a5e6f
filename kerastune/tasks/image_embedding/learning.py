"""The loss and the meter of image embedding: supervised contrastive learning."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Splits
from kerastune.tasks import losses
from kerastune.tasks.contract import Learning, Loss, Model, Targets
from kerastune.tasks.image_embedding.settings import ImageEmbedding
from kerastune.tasks.learnt import LEARNT

TEMPERATURE = 0.1
"""The loss divides cosines by it, as Khosla et al. do."""

_NEVER = -1e9  # the logit of an image with itself


def targets(recipe: ImageEmbedding, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    """Returns each example's label, int32 [n]."""
    truth = getattr(splits, name).labels
    return Targets(truth.astype(np.int32), np.ones(len(truth), np.float32))


def loss(sizes: Sequence[int]) -> Loss:
    """Returns the supervised contrastive loss, the mean of those of vectors cut to each size.

    Its count is the number of images with another of their label in the batch. Weights are ignored: all are 1.
    """

    def summed(truth: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = [contrastive(truth, outputs[:, :size]) for size in sizes]
        matched = tf.reduce_any(_matches(truth), axis=-1)
        return tf.reduce_sum(tf.add_n(found)) / len(sizes), tf.maximum(tf.reduce_sum(tf.cast(matched, tf.float32)), 1)

    return summed


def contrastive(truth: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Computes SupCon (Khosla et al. 2020, arXiv:2004.11362, L_out): the mean cross-entropy of finding each image of
    the same label, by cosine, among all others of the batch.

    Args:
        truth: labels, int32 [B].
        outputs: vectors [B, D].

    Returns:
        float32 [B]; 0 for images without another of their label.
    """
    cosines, matches = _cosines(outputs), _matches(truth)
    logits = tf.linalg.set_diag(cosines / TEMPERATURE, tf.fill(tf.shape(truth), _NEVER))
    log_shares = logits - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
    others = tf.reduce_sum(tf.cast(matches, tf.float32), axis=-1)
    return -tf.math.divide_no_nan(tf.reduce_sum(tf.where(matches, log_shares, 0.0), axis=-1), others)


def _matches(truth: tf.Tensor) -> tf.Tensor:
    """Returns which images of a batch belong to each, itself excepted: bool [B, B]."""
    return (truth[:, None] == truth) & ~tf.eye(tf.size(truth), dtype=tf.bool)


def _cosines(outputs: tf.Tensor) -> tf.Tensor:
    vectors = tf.math.l2_normalize(tf.cast(outputs, tf.float32), axis=-1)
    return tf.matmul(vectors, vectors, transpose_b=True)


class Found(keras.metrics.Mean):  # type: ignore[misc]
    """The share of images whose nearest image in the batch has their label, among those with one there."""

    def update_state(self, truth: Any, outputs: Any, sample_weight: Any = None) -> None:
        near = tf.linalg.set_diag(_cosines(outputs), tf.fill(tf.shape(truth), -2.0))
        found = tf.gather(truth, tf.argmax(near, axis=-1)) == truth
        super().update_state(tf.cast(found, tf.float32), tf.cast(tf.reduce_any(_matches(truth), axis=-1), tf.float32))


def validated(recipe: ImageEmbedding, y: Sequence[npt.NDArray[Any]], outputs: Sequence[Any]) -> dict[str, float]:
    """Returns the figure that selects the best epoch, over all images of a split."""
    learnt = LEARNT[recipe.data.target]
    vectors = np.concatenate(outputs).astype(np.float32)[:, None]
    truth = np.concatenate([np.asarray(one) for one in y]).astype(np.int64)
    return {learnt.metric.name: learnt.statistic(learnt.per_example(truth, {"embeddings": vectors}))}


LEARNING: Learning[ImageEmbedding] = Learning(
    joint=lambda recipe: "its loss compares each picture with all others of the batch",
    targets=targets,
    loss=lambda recipe: loss(recipe.dimensions),
    meter=lambda recipe: Found(name=LEARNT[recipe.data.target].metric.name),
    validated=validated,
    starts=True,
    sampled=losses.no_samples,
    samples=losses.no_answers,
)

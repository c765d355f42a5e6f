"""Supervised contrastive learning: examples of one label come close, by cosine."""

from typing import Any

import keras
import tensorflow as tf

TEMPERATURE = 0.1
"""The loss divides cosines by it, as Khosla et al. do."""

_NEVER = -1e9  # the logit of an image with itself


def contrastive(truth: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Computes SupCon (Khosla et al. 2020, arXiv:2004.11362, L_out): the mean cross-entropy of finding each image of
    the same label, by cosine, among all others of the batch.

    Args:
        truth: labels, int32 [B].
        outputs: vectors [B, D].

    Returns:
        float32 [B]; 0 for images without another of their label.
    """
    cosines, same = _cosines(outputs), matches(truth)
    logits = tf.linalg.set_diag(cosines / TEMPERATURE, tf.fill(tf.shape(truth), _NEVER))
    log_shares = logits - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
    others = tf.reduce_sum(tf.cast(same, tf.float32), axis=-1)
    return -tf.math.divide_no_nan(tf.reduce_sum(tf.where(same, log_shares, 0.0), axis=-1), others)


def matches(truth: tf.Tensor) -> tf.Tensor:
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
        super().update_state(tf.cast(found, tf.float32), tf.cast(tf.reduce_any(matches(truth), axis=-1), tf.float32))


def of_labels(truth: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sum of a batch's losses and the number of examples with another of their label there.

    Args:
        truth: training targets of one label, float32 [B, K]; the largest is the label.
        outputs: vectors [B, D].
        weights: ignored.
    """
    labels = tf.argmax(truth, axis=-1, output_type=tf.int32)
    matched = tf.reduce_any(matches(labels), axis=-1)
    return tf.reduce_sum(contrastive(labels, outputs)), tf.maximum(tf.reduce_sum(tf.cast(matched, tf.float32)), 1)


class FoundLabel(Found):
    """The same for training targets of one label, float32 [B, K]."""

    def update_state(self, truth: Any, outputs: Any, sample_weight: Any = None) -> None:
        super().update_state(tf.argmax(truth, axis=-1, output_type=tf.int32), outputs)

"""The loss of answers, and its sums over their tokens."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastune.data import Split
from kerastune.tasks.causal_lm.feeding import INPUTS, Floats, batches, order, spoken
from kerastune.tasks.contract import Model


def truth(model: Model, split: Split) -> Floats:
    """Returns training targets: the next token's id if it is scored, else -1; float32 [n, longest]."""
    return spoken(model, split).targets


def loss(truth: tf.Tensor, outputs: tf.Tensor, weights: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sum of the cross-entropies of a batch's scored tokens in nats, and their number."""
    entropy, _, scored = _by_token(truth, outputs)
    return tf.reduce_sum(entropy), tf.maximum(tf.reduce_sum(scored), 1)


class TokenAccuracy(keras.metrics.Mean):  # type: ignore[misc]
    """Share of scored tokens that are the model's most likely ones, given all earlier tokens."""

    def update_state(self, y: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        _, right, scored = _by_token(y, logits)
        super().update_state(right, sample_weight=scored)


def metric() -> keras.metrics.Metric:
    """Returns the metric that selects the best epoch; higher is better, 1 is perfect."""
    return TokenAccuracy(name="token_accuracy")


def _by_token(y: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns each token's cross-entropy in nats, correctness, and whether it is scored (else 0): float32 [B, L]."""
    y = y[:, : tf.shape(logits)[1]]
    logits = tf.cast(logits, tf.float32)
    scored = tf.cast(y >= 0, tf.float32)
    ids = tf.cast(tf.maximum(y, 0), tf.int32)
    surprise = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits) * scored
    right = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == ids, tf.float32) * scored
    return surprise, right, scored


def scores(model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None) -> Floats:
    """Returns each conversation's cross-entropy in nats and numbers of correct and scored tokens, float32 [n, 3].

    Calls `each(n)` when the first n conversations are done.
    """

    def summed(x: dict[str, tf.Tensor], y: tf.Tensor) -> tf.Tensor:
        return sums(y, model(x, training=False))

    specs = {name: tf.TensorSpec([None, None], tf.int32) for name in sorted(INPUTS)}
    forward = tf.function(summed, input_signature=[specs, tf.TensorSpec([None, None])])
    known = truth(model, split)
    found = np.empty((len(split), 3), np.float32)
    done = 0
    for x, i in batches(model, split, order(model, split, batch_size)):
        found[i.numpy()] = forward(x, tf.constant(known[i.numpy()])).numpy()
        each(done := done + len(i))
    return found


def sums(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the sums of `scores` for each conversation: float32 [B, 3]."""
    return tf.stack([tf.reduce_sum(part, axis=1) for part in _by_token(y, logits)], axis=1)

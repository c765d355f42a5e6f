"""Random numbers that belong to an example: the same in a batch of any size, and however many workers share it."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastune.data import Order

Tensor = Any

_SEEDS = 64  # that a picture's changes draw at most; RandAugment draws the most, 40


def time(order: Order, number: Tensor, view: int | None) -> Tensor:
    """Returns when a batch is drawn, int64 []: in which epoch, or for which view."""
    return tf.cast(number // order.steps if view is None else -1 - view, tf.int64)


def keys(seed: int, time: Tensor, indices: Tensor) -> Tensor:
    """Returns a key for the draws of each example, int64 [B, 2].

    Args:
        seed: that of the changes.
        time: as of `time`.
        indices: those of the examples in their split, int64 [B].
    """
    fold = tf.random.experimental.stateless_fold_in
    start = fold(tf.constant([seed, 0], tf.int64), tf.cast(time, tf.int64))
    return _each(lambda i: fold(start, i), indices, [2], tf.int64)


def others(keys: Tensor, number: int) -> Tensor:
    """Returns other keys, int64 [B, 2], whose draws have nothing to do with those of `keys` or of another number."""
    fold, folded = tf.random.experimental.stateless_fold_in, tf.constant(number, tf.int64)
    return _each(lambda key: fold(key, folded), keys, [2], tf.int64)


def uniform(keys: Tensor, count: int) -> Tensor:
    """Returns `count` numbers from 0 to 1 for each key, float32 [B, count]."""
    return _each(lambda key: tf.random.stateless_uniform([count], key), keys, [count])


def normal(keys: Tensor, count: int) -> Tensor:
    """Returns `count` numbers of mean 0 and deviation 1 for each key, float32 [B, count]."""
    return _each(lambda key: tf.random.stateless_normal([count], key), keys, [count])


def beta(keys: Tensor, alpha: float) -> Tensor:
    """Returns a number from 0 to 1 for each key, of the distribution Beta(alpha, alpha), float32 [B]."""

    def logarithms(key: Tensor) -> Tensor:  # of two of Gamma(alpha), which are too small for float32 if alpha is
        one, two = tf.unstack(tf.random.experimental.stateless_split(key, 2))
        larger = tf.random.stateless_gamma([2], one, alpha + 1)
        return tf.math.log(larger) + tf.math.log1p(-tf.random.stateless_uniform([2], two)) / alpha

    found = _each(logarithms, keys, [2])
    return tf.sigmoid(found[:, 0] - found[:, 1])


def _each(draw: Callable[[Tensor], Tensor], given: Tensor, shape: list[int], dtype: Any = tf.float32) -> Tensor:
    return tf.map_fn(draw, given, fn_output_signature=tf.TensorSpec(shape, dtype))


class Seeds(keras.random.SeedGenerator):  # type: ignore[misc]
    """Gives Keras's layers seeds that a key determines, instead of those of a variable that counts draws."""

    def begin(self, key: Tensor) -> None:
        """Begins the seeds of a key, int64 [2], for the layers that are called next."""
        drawn = tf.random.stateless_uniform([_SEEDS, 2], key, None, None, tf.int32)
        self._given = iter(tf.unstack(drawn))

    def next(self, ordered: bool = True) -> Tensor:
        return next(self._given)

"""Begins and ends the tf.data pipelines of tasks."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerastune.data import Order
from kerastune.tasks.contract import Targets


def in_order(order: Order, read: Callable[[tf.Tensor], Any], together: bool = False) -> tf.data.Dataset:
    """Yields the batches of an order without groups, each with its number, counted over all epochs.

    Args:
        read: an index into the split, int64 [] -> the example, of one shape. Called in parallel.
        together: `read` takes the indices of a batch, int64 [B], and returns its examples.
    """

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        indices = tf.ensure_shape(tf.numpy_function(order.epoch, [number], tf.int64), [order.size])
        left = tf.data.Dataset.from_tensor_slices(indices).skip(tf.where(number == first, skipped, none))
        if together:
            return left.batch(order.batch_size).map(read, num_parallel_calls=2)
        return left.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(order.batch_size)

    first, none = order.start // order.steps, tf.constant(0, tf.int64)
    skipped = tf.constant(order.start % order.steps * order.batch_size, tf.int64)
    return tf.data.Dataset.range(first, order.epochs).flat_map(epoch).enumerate(order.start)


def ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches batches, without tf.data's autotuner.

    The autotuner's thread can sleep through its cancellation, so that deleting an iterator blocks for up to a minute
    (`Model::OptimizeLoop` in TensorFlow 2.21, seen in half of the trainings).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


def with_truth(batches: tf.data.Dataset, targets: Targets) -> tf.data.Dataset:
    """Turns batches of (inputs, indices) into (inputs, truth, weights, indices), gathered by index."""
    truth = tf.nest.map_structure(_constant, targets.truth)
    weights = tf.constant(targets.weights)

    def gathered(x: Any, i: tf.Tensor) -> tuple[Any, Any, tf.Tensor, tf.Tensor]:
        return x, tf.nest.map_structure(lambda rows: tf.gather(rows, i), truth), tf.gather(weights, i), i

    return batches.map(gathered)


def _constant(rows: Any) -> Any:
    return rows if isinstance(rows, tf.RaggedTensor) else tf.constant(rows)

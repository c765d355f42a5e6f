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
        if not together and order.part is None:
            return left.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(order.batch_size)
        signature = None if together else left.map(read).element_spec

        def batch(i: tf.Tensor) -> Any:
            own = _own(order, i)
            return read(own) if together else tf.map_fn(read, own, fn_output_signature=signature)

        return left.batch(order.batch_size).map(batch, num_parallel_calls=2)

    first, none = order.start // order.steps, tf.constant(0, tf.int64)
    skipped = tf.constant(order.start % order.steps * order.batch_size, tf.int64)
    return tf.data.Dataset.range(first, order.epochs).flat_map(epoch).enumerate(order.start)


def _own(order: Order, indices: tf.Tensor) -> tf.Tensor:
    """Returns the part of a batch's indices that this process reads, which may be empty."""
    if order.part is None:
        return indices
    full, last = (order.part(size) for size in (order.batch_size, order.size % order.batch_size or order.batch_size))
    is_full = tf.shape(indices)[0] == order.batch_size
    return indices[tf.where(is_full, full.start, last.start) : tf.where(is_full, full.stop, last.stop)]


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

"""Ends every task's tf.data pipeline."""

from typing import Any

import tensorflow as tf

from kerastune.tasks.contract import Targets


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

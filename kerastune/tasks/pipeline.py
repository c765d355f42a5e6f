"""The end of every task's tf.data pipeline."""

import tensorflow as tf


def ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Makes the next batches while the last one is used, with no tuner of tf.data's beside it.

    The tuner's thread can sleep through being cancelled, and who lets go of an iterator waits until it wakes: up to a
    minute (`Model::OptimizeLoop` in TensorFlow 2.21, seen after one training in two).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)

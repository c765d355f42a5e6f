"""Writes TensorBoard's event files, for which TensorFlow needs no TensorBoard."""

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf


def log(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    """Adds figures of a step, by name, in a file of its own."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_SCALAR")
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=step):
        for name, value in figures.items():
            tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
    writer.close()

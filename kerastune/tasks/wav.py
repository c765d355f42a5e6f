"""Decodes WAV files inside a graph, for servers that are sent files."""

import tensorflow as tf


def windows(files: tf.Tensor, samples: int, rate: int) -> tf.Tensor:
    """Returns windows of sound, padded with silence at their end: string [B] -> float32 [B, samples].

    The channels are averaged. The graph refuses what it would have to change otherwise: files of another rate, longer
    ones, and encodings other than PCM in 16 bits.
    """

    def decode(data: tf.Tensor) -> tf.Tensor:
        sound, found = tf.audio.decode_wav(data)
        length = tf.shape(sound)[0]
        checks = [
            tf.debugging.Assert(found == rate, [f"sounds need {rate} samples per second; this has", found]),
            tf.debugging.Assert(length <= samples, [f"sounds need at most {samples} samples; this has", length]),
        ]
        with tf.control_dependencies(checks):
            mono = tf.reduce_mean(sound, axis=1)
        return tf.ensure_shape(tf.pad(mono, [[0, tf.maximum(samples - length, 0)]]), [samples])

    return tf.map_fn(decode, files, fn_output_signature=tf.TensorSpec([samples], tf.float32))

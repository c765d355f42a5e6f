"""Whisper's log-mel front end for graphs: the same function in training and in every exported model.

KerasHub's own converter traces, but no format takes its Fourier transform of 400 samples. Here that is a product with
constant sines and cosines, within 1e-4 of it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_LEAST, _RANGE = 1e-10, 8.0  # the smallest power, and the decades below the loudest one that are kept


def log_mel(converter: Any, exported: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from sounds, float32 [B, n], to log-mel frames, float32 [B, n / stride, mels].

    n is a multiple of the stride.

    Args:
        converter: a `keras_hub.layers.WhisperAudioConverter`.
        exported: hide the constants from quantisers. These round every constant that multiplies an input to int8, and a
            spectrum in 8 bits hears nothing but its loudest tones. So each is multiplied by 1, computed from the sound.
    """
    size, stride = converter.num_fft_bins, converter.stride
    waves, mel = _waves(size), np.asarray(converter.mel_filters, np.float32)
    part = math.gcd(size, stride)  # frames overlap: each is cut from blocks of this size

    def front_end(sounds: tf.Tensor) -> tf.Tensor:
        count = sounds.shape[1] // stride
        half = size // 2  # reflected, as a padding operator would, which not every runtime has
        x = tf.concat([tf.reverse(sounds[:, 1 : half + 1], [1]), sounds, tf.reverse(sounds[:, -half - 1 : -1], [1])], 1)
        one = 1.0 + tf.minimum(tf.square(x[0, 0]), 0.0) if exported else tf.constant(1.0)
        blocks = tf.reshape(x[:, : (x.shape[1] // part) * part], [-1, x.shape[1] // part, part])
        step, wide = stride // part, (count - 1) * (stride // part) + 1
        frames = tf.concat([blocks[:, k : k + wide : step] for k in range(size // part)], -1)  # [B, count, size]
        spectrum = tf.matmul(tf.reshape(frames, [-1, size]), waves * one)
        power = tf.square(spectrum[:, : size // 2 + 1]) + tf.square(spectrum[:, size // 2 + 1 :])
        level = tf.math.log(tf.maximum(tf.matmul(power, mel * one), _LEAST)) / np.float32(np.log(10))
        level = tf.reshape(level, [-1, count, mel.shape[1]])
        loudest = tf.reduce_max(level, axis=[1, 2], keepdims=True)
        return (tf.maximum(level, loudest - _RANGE) + 4.0) / 4.0

    return front_end


def _waves(size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns cosines and sines of every frequency under a Hann window, float32 [size, 2 * (size / 2 + 1)]."""
    window = np.hanning(size + 1)[:-1, None]
    angle = np.arange(size)[:, None] * np.arange(size // 2 + 1) * (2 * np.pi / size)
    return np.concatenate([np.cos(angle) * window, -np.sin(angle) * window], axis=1).astype(np.float32)

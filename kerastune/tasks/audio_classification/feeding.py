"""Batches of sounds: decoded, cut to the window, augmented, and turned into log-mel frames."""

import json
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerastune.data import Order, Split
from kerastune.modalities import audio
from kerastune.targets.audio import fit
from kerastune.tasks import draws
from kerastune.tasks.audio_classification.model import SoundClassifier
from kerastune.tasks.audio_classification.settings import SoundAugment
from kerastune.tasks.log_mel import log_mel
from kerastune.tasks.pipeline import ahead, in_order

_QUIET = 1e-3  # sounds below this are scaled as if they reached it
_MU = 255.0  # of G.711
_TELEPHONE = 4000  # Hz: what a telephone line lets through


def order(
    model: SoundClassifier,
    split: Split,
    batch_size: int,
    epochs: int = 1,
    seed: tuple[int, ...] | None = None,
    start: int = 0,
) -> Order:
    return Order(len(split), batch_size, epochs, seed, start)


def example(model: SoundClassifier, split: Split, batch_size: int) -> tf.Tensor:
    """Returns the first batch of model inputs, without augmentation."""
    x, _ = next(iter(batches(model, split, order(model, split, batch_size))))
    return x


def batches(
    model: SoundClassifier,
    split: Split,
    order: Order,
    augment: SoundAugment | None = None,
    seed: int = 0,
    view: int | None = None,
) -> tf.data.Dataset:
    """Yields batches of (log-mel frames float32 [B, frames, mels], indices into the split int64 [B]).

    Args:
        augment: random changes to the sounds and their frames, or None.
        seed: determines the changes, together with the epoch and the example.
        view: a number to draw with instead of the epoch, for a cache of augmented views.
    """
    samples, front_end = model.samples, hearing(model)

    def read(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sound = tf.numpy_function(
            lambda i: fit(audio.beginning(split.read(i), samples), samples), [i], tf.float32, stateful=False
        )
        return tf.ensure_shape(sound, [samples]), i

    def frames(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        sounds, i = batch
        if augment is None or not augment.any:
            return front_end(sounds), i
        keys = draws.keys(seed, draws.time(order, number, view), i)
        return masked(front_end(changed(sounds, augment, keys)), augment, keys), i

    return ahead(in_order(order, read).map(frames))


def hearing(model: SoundClassifier, exported: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from windows, float32 [B, samples], to the model's inputs; `exported`: as `log_mel`."""
    front_end = log_mel(model.converter(), exported)
    return (lambda sounds: front_end(levelled(sounds))) if model.peak else front_end


def levelled(sounds: tf.Tensor) -> tf.Tensor:
    """Returns sounds scaled to a largest value of 1, by at most 60 dB: float32 [B, n] -> the same."""
    largest = tf.reduce_max(tf.abs(sounds), axis=1, keepdims=True)
    return sounds / tf.maximum(largest, _QUIET)


# --- augmentation --------------------------------------------------------------------------------------------


def changed(sounds: tf.Tensor, augment: SoundAugment, keys: tf.Tensor) -> tf.Tensor:
    """Returns changed sounds: float32 [B, n] -> the same.

    Args:
        keys: determine the draws, as of `draws.keys`.
    """
    gain, shift, quiet, noisy, afar = tf.split(draws.uniform(keys, 5), 5, axis=1)  # each [B, 1]
    if augment.gain:
        sounds = sounds * tf.pow(10.0, augment.gain * (2 * gain - 1) / 20)
    if augment.shift:
        sounds = _shifted(sounds, augment.shift * (2 * shift - 1))
    if augment.noise:
        power = tf.reduce_mean(tf.square(sounds), axis=1, keepdims=True)
        noise = draws.normal(draws.others(keys, 1), sounds.shape[1])
        below = tf.pow(10.0, -(10 + 30 * quiet) / 20)  # by 10 to 40 dB
        sounds = tf.where(noisy < augment.noise, sounds + noise * tf.sqrt(power) * below, sounds)
    if augment.telephone:
        sounds = tf.where(afar < augment.telephone, telephone(sounds), sounds)
    return sounds


def _shifted(sounds: tf.Tensor, fractions: tf.Tensor) -> tf.Tensor:
    """Moves each sound later by a fraction of its length, [B, 1]; earlier if that is negative."""
    length = sounds.shape[1]
    offsets = tf.cast(tf.round(fractions * length), tf.int32)
    places = tf.range(length)[None] - offsets
    inside = (places >= 0) & (places < length)
    return tf.where(inside, tf.gather(sounds, tf.clip_by_value(places, 0, length - 1), axis=1, batch_dims=1), 0.0)


def telephone(sounds: tf.Tensor) -> tf.Tensor:
    """Returns sounds as a telephone line gives them: below 4 kHz, in 8 bits by the μ-law."""
    length = sounds.shape[1]
    spectrum = tf.signal.rfft(sounds)
    hertz = np.fft.rfftfreq(length, 1 / audio.RATE)
    narrow = tf.signal.irfft(spectrum * tf.constant(hertz < _TELEPHONE, tf.complex64), [length])
    narrow = tf.clip_by_value(narrow, -1.0, 1.0)
    pressed = tf.sign(narrow) * tf.math.log1p(_MU * tf.abs(narrow)) / np.log1p(_MU)
    coded = tf.round(pressed * 127.5 - 0.5) / 127.5 + 0.5 / 127.5
    return tf.sign(coded) * (tf.pow(1 + _MU, tf.abs(coded)) - 1) / _MU


def masked(frames: tf.Tensor, augment: SoundAugment, keys: tf.Tensor) -> tf.Tensor:
    """Returns frames with one band of frequencies and one of time masked by their mean: [B, T, mels] -> the same."""
    if not augment.mask:
        return frames
    mean = tf.reduce_mean(frames, axis=[1, 2], keepdims=True)
    for axis in (1, 2):
        length = float(frames.shape[axis])
        share, place = tf.split(draws.uniform(draws.others(keys, 1 + axis), 2), 2, axis=1)
        wide = augment.mask * share * length
        start = place * (length - wide)
        places = tf.range(length)[None]
        hidden = tf.expand_dims((places >= start) & (places < start + wide), 3 - axis)
        frames = tf.where(hidden, mean, frames)
    return frames


def preprocessing(model: SoundClassifier, augment: SoundAugment | None = None) -> str:
    """Returns everything that determines the inputs made from given data, for the feature cache's key."""
    return json.dumps(
        [model.front_end, model.samples, model.peak, augment.model_dump() if augment else None],
        sort_keys=True,
        default=str,
    )

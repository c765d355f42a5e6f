"""Decodes encoded images inside a graph to the pixels that training reads, as `kerastune.targets.images` does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

_ORIENTATION = 0x0112  # the tag of EXIF
_SHORT, _LONG = 3, 4  # types of EXIF's values
_PNG = b"\x89PNG\r\n\x1a\n"


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG file to upright RGB pixels, transparency on white: string [] -> float32 [H, W, 3]."""
    is_jpeg = tf.io.is_jpeg(encoded)
    pixels = tf.cond(is_jpeg, lambda: _jpeg(encoded), lambda: _png(encoded))
    return _upright(pixels, _orientation(encoded, is_jpeg))


def _jpeg(encoded: tf.Tensor) -> tf.Tensor:
    # The accurate method equals Pillow's, which training used.
    return tf.cast(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)


def _png(encoded: tf.Tensor) -> tf.Tensor:
    # `decode_png` would take other formats as well, and TensorFlow 2.21 crashes on some WebP files.
    is_png = tf.strings.substr(encoded, 0, len(_PNG)) == _PNG

    def refused() -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(is_png, ["Unknown image file format: send JPEG or PNG."])]):
            return tf.zeros([1, 1, 3])

    return tf.cond(is_png, lambda: _really_png(encoded), refused)


def _really_png(encoded: tf.Tensor) -> tf.Tensor:
    # As many channels as the file has: TensorFlow adds an alpha channel of 1, 3 or 15 to files of 1, 2 or 4 bits.
    image = tf.io.decode_png(encoded, channels=0)  # [H, W, 1 to 4]
    shape = tf.shape(image)

    def on_white() -> tf.Tensor:
        pixels = tf.cast(image, tf.float32)
        alpha = pixels[..., -1:] / 255
        return tf.round(pixels[..., :-1] * alpha + 255 * (1 - alpha))

    pixels = tf.cond(shape[2] % 2 == 0, on_white, lambda: tf.cast(image, tf.float32))
    return tf.ensure_shape(tf.broadcast_to(pixels, [shape[0], shape[1], 3]), [None, None, 3])


# --- EXIF --------------------------------------------------------------------------------------------------


def _upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns a picture by its EXIF orientation, 1 to 8; another one says nothing."""
    is_known = (orientation >= 1) & (orientation <= 8)
    turned = tf.where(is_known, orientation, 1)
    pixels = tf.cond(turned >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    is_flipped = {axis: tf.reduce_any(turned == values) for axis, values in ((0, [3, 4, 7, 8]), (1, [2, 3, 6, 7]))}
    for axis, is_so in is_flipped.items():
        pixels = tf.cond(is_so, partial(tf.reverse, pixels, [axis]), partial(tf.identity, pixels))
    return tf.ensure_shape(pixels, [None, None, 3])


def _orientation(encoded: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG or PNG file, int64; 0 if it has none."""
    data = _Bytes(encoded)
    jpeg, png = (lambda: _in_jpeg(data)), (lambda: _in_png(data))
    start = tf.cond(is_jpeg, jpeg, png)
    return tf.cond(start > 0, lambda: _in_exif(data, start), lambda: tf.constant(0, tf.int64))


class _Bytes:
    """A file's bytes as numbers; those after its end are 0."""

    def __init__(self, encoded: tf.Tensor) -> None:
        self.encoded, self.size = encoded, tf.cast(tf.strings.length(encoded), tf.int64)

    def number(self, at: Any, count: int, is_little: Any = False) -> tf.Tensor:
        """The `count` bytes at a place as one number, int64."""
        start = tf.clip_by_value(tf.cast(at, tf.int64), 0, self.size)
        part = tf.strings.substr(self.encoded, start, tf.constant(count, tf.int64)) + "\0" * count
        read = tf.cast(tf.io.decode_raw(part, tf.uint8)[:count], tf.int64)
        places = 256 ** tf.range(count, dtype=tf.int64)
        return tf.reduce_sum(read * tf.where(is_little, places, tf.reverse(places, [0])))


def _in_jpeg(data: _Bytes) -> tf.Tensor:
    """Returns where a JPEG's EXIF data start, or 0: walks its segments up to the pixels."""

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return (data.number(at, 2) == 0xFFE1) & (data.number(at + 4, 6) == int.from_bytes(b"Exif\0\0", "big"))

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        mark = data.number(at, 2)
        return (mark > 0xFF00) & (mark != 0xFFDA) & (mark != 0xFFD9) & ~is_exif(at)

    return _walked(2, goes_on, lambda at: at + 2 + data.number(at + 2, 2), lambda at: tf.where(is_exif(at), at + 10, 0))


def _in_png(data: _Bytes) -> tf.Tensor:
    """Returns where a PNG's EXIF data start, or 0: walks its chunks."""

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return data.number(at + 4, 4) == int.from_bytes(b"eXIf", "big")

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        return (at < data.size) & ~is_exif(at)

    return _walked(8, goes_on, lambda at: at + 12 + data.number(at, 4), lambda at: tf.where(is_exif(at), at + 8, 0))


def _walked(start: int, goes_on: Callable[..., Any], step: Callable[..., Any], found: Callable[..., Any]) -> tf.Tensor:
    at = tf.constant(start, tf.int64)
    (at,) = tf.while_loop(lambda at: goes_on(at), lambda at: (step(at),), (at,))
    return found(at)


def _in_exif(data: _Bytes, start: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in EXIF data: a TIFF header, then entries of 12 bytes each."""
    is_little = data.number(start, 2) == 0x4949
    folder = start + data.number(start + 4, 4, is_little)
    count = data.number(folder, 2, is_little)

    def is_other(n: tf.Tensor) -> tf.Tensor:
        return (n < count) & (data.number(folder + 2 + 12 * n, 2, is_little) != _ORIENTATION)

    (n,) = tf.while_loop(is_other, lambda n: (n + 1,), (tf.constant(0, tf.int64),))
    entry = folder + 2 + 12 * n
    kind, values = data.number(entry + 2, 2, is_little), data.number(entry + 4, 4, is_little)
    value = tf.where(kind == _SHORT, data.number(entry + 8, 2, is_little), data.number(entry + 8, 4, is_little))
    is_number = (n < count) & (values == 1) & ((kind == _SHORT) | (kind == _LONG))
    return tf.where(is_number, value, 0)

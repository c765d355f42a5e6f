"""Moves a picture and its truth together: random windows onto a picture, in shares of its height and width.

A window float32 [y1, x1, y2, x2] says which part of the picture is seen: [0, 0, 1, 1] is all of it. Where y1 > y2 or
x1 > x2 the view is mirrored; parts outside the picture are filled.
"""

from typing import Any, Literal

import tensorflow as tf

from kerastune.tasks import draws

Tensor = Any
Flip = Literal["none", "horizontal", "vertical", "horizontal_and_vertical"]

_LEAST_SEEN = 0.3  # share of a box that must stay in view


def windows(keys: Tensor, flip: Flip, crop: float, zoom_out: float = 0.0) -> Tensor:
    """Returns random windows, float32 [B, 4].

    Args:
        keys: determine the draws, as of `draws.keys`.
        flip: the axes along which half of the windows are mirrored.
        crop: the largest share of the height and width that a window leaves out.
        zoom_out: the largest share by which a window exceeds the picture.
    """
    drawn = draws.uniform(keys, 7)
    size = tf.where(
        drawn[:, 0] * (crop + zoom_out) < crop,
        1 - crop * drawn[:, 1],
        1 + zoom_out * drawn[:, 1],
    )
    stretch = 1 + tf.minimum(crop, 0.2) * (drawn[:, 2:3] - 0.5) * tf.constant([[1.0, -1.0]])  # of the aspect ratio
    sides = size[:, None] * stretch
    start = (1 - sides) * drawn[:, 3:5]
    found = tf.concat([start, start + sides], axis=-1)
    if flip != "none":
        axes = tf.constant(["vertical" in flip, "horizontal" in flip])
        mirrored = axes & (drawn[:, 5:7] < 0.5)
        found = tf.where(tf.tile(mirrored, [1, 2]), tf.gather(found, [2, 3, 0, 1], axis=-1), found)
    return found


def pictures(images: Tensor, windows: Tensor, method: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Returns what is seen of each picture, at its size: float32 [B, H, W, C] -> the same. Outside of it lies 0.

    With inputs of a backbone that is about grey. For maps of class ids, method "nearest", shift the ids so that 0 is
    free.
    """
    size, count = tf.shape(images)[1:3], tf.shape(images)[0]
    # TensorFlow maps the corners' pixel centres onto the window's ends; half a pixel less on each side keeps the scale.
    half = 0.5 / tf.cast(tf.tile(size, [2]), tf.float32)
    span = windows[:, 2:] - windows[:, :2]
    inset = tf.concat([span, -span], axis=-1) * half
    pixels = tf.cast(tf.tile(size, [2]), tf.float32)
    ends = ((windows + inset) * pixels - 0.5) / (pixels - 1)
    return tf.image.crop_and_resize(images, ends, tf.range(count), size, method)


def boxes(given: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns boxes as they lie in their windows, and which of them are still to be seen.

    Args:
        given: [x1, y1, x2, y2] in shares of the picture, float32 [B, M, 4].

    Returns:
        The boxes, cut at the window's borders, and whether 30 % of each, or all of a smaller share, are in view:
        float32 [B, M, 4], bool [B, M].
    """
    start, end = windows[:, None, 1::-1], windows[:, None, 3:1:-1]  # x, y
    moved = (given - tf.concat([start, start], -1)) / tf.concat([end - start, end - start], -1)
    first, second = moved[..., :2], moved[..., 2:]
    low, high = tf.minimum(first, second), tf.maximum(first, second)
    seen_low, seen_high = tf.clip_by_value(low, 0.0, 1.0), tf.clip_by_value(high, 0.0, 1.0)
    area, seen = tf.reduce_prod(high - low, -1), tf.reduce_prod(seen_high - seen_low, -1)
    return tf.concat([seen_low, seen_high], -1), seen > _LEAST_SEEN * area

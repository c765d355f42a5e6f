"""Feature maps of a backbone, and a light pyramid on them (FPN; Lin et al. 2017, arXiv:1612.03144)."""

from typing import Any

import keras
from keras import ops

Tensor = Any
Maps = dict[int, Tensor]
"""Feature maps by level: level n has cells of 2**n pixels."""


def maps_of(backbone: Any, finest: int, coarsest: int) -> Maps:
    """Returns a backbone's own feature maps between two levels.

    Raises:
        ValueError: it has none at the finest level.
    """
    there = getattr(backbone, "pyramid_outputs", {})
    found = {level: there[f"P{level}"] for level in range(finest, coarsest + 1) if f"P{level}" in there}
    if finest not in found:
        levels = ", ".join(sorted(there)) or "none"
        raise ValueError(f"it has no feature map P{finest}, of {2**finest} pixels a cell (it has {levels})")
    return {level: found[level] for level in sorted(found) if all(one in found for one in range(finest, level))}


def light(maps: Maps, width: int, coarsest: int) -> Maps:
    """Returns a pyramid of `width` channels: details from fine maps, meaning from coarse ones.

    Levels above the backbone's last one, up to `coarsest`, are made by convolutions of stride 2.
    """
    levels = sorted(maps)
    found = {level: _conv(width, 1, name=f"pyramid_lateral_{level}")(maps[level]) for level in levels}
    for level in reversed(levels[:-1]):
        above = keras.layers.UpSampling2D(2, name=f"pyramid_up_{level}")(found[level + 1])
        found[level] = keras.layers.Add(name=f"pyramid_add_{level}")([found[level], above])
    found = {level: _conv(width, 3, name=f"pyramid_{level}")(x) for level, x in found.items()}
    for level in range(levels[-1] + 1, coarsest + 1):
        x = found[level - 1] if level > levels[-1] + 1 else maps[levels[-1]]
        x = _conv(width, 3, strides=2, name=f"pyramid_{level}")(x)
        found[level] = x if level == coarsest else keras.layers.ReLU(name=f"pyramid_relu_{level}")(x)
    return found


def flattened(x: Tensor, cells: int, width: int) -> Tensor:
    """Returns a map of h * w cells as a list, row by row: [B, h, w, n * width] -> [B, cells * n, width]."""
    return ops.reshape(x, (-1, cells * x.shape[3] // width, width))


def _conv(width: int, side: int, strides: int = 1, name: str = "") -> keras.layers.Layer:
    return keras.layers.Conv2D(width, side, strides, padding="same", name=name)

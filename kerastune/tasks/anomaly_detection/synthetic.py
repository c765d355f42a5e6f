"""Synthetic defects on good pictures: they measure what a detector finds where nobody has a defective picture.

They are no real defects. What is found of them is evidence between two detectors, and no promise.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
"""float32 0..255 [H, W, 3]."""


def _place(pixels: Pixels, share: float, random: np.random.Generator) -> tuple[slice, slice]:
    """Returns a random square with a share of the picture's shorter side, at least 6 pixels."""
    height, width = pixels.shape[:2]
    side = min(max(round(share * min(height, width)), 6), height - 1, width - 1)
    top, left = random.integers(height - side), random.integers(width - side)
    return slice(top, top + side), slice(left, left + side)


def scrambled(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Shuffles the pixels of a small square."""
    found, place = pixels.copy(), _place(pixels, 0.05, random)
    inside = found[place]
    found[place] = random.permutation(inside.reshape(-1, 3)).reshape(inside.shape)
    return found


def scratched(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Draws a bright or dark line of 2 pixels across a tenth of the picture."""
    height, width = pixels.shape[:2]
    length, angle = 0.15 * min(height, width), random.uniform(0, np.pi)
    x, y = random.uniform(0, width), random.uniform(0, height)
    along = np.arange(0, length, 0.5)
    found, change = pixels.copy(), random.choice((-70, 70))
    columns = np.clip(x + along * np.cos(angle), 0, width - 2).astype(int)
    rows = np.clip(y + along * np.sin(angle), 0, height - 2).astype(int)
    drawn = np.zeros((height, width), bool)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        drawn[rows + down, columns + right] = True
    found[drawn] = np.clip(found[drawn] + change, 0, 255)
    return found


def stained(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Darkens or brightens a soft round spot."""
    height, width = pixels.shape[:2]
    y, x = random.uniform(0, height), random.uniform(0, width)
    rows, columns = np.mgrid[:height, :width]
    radius = 0.06 * min(height, width)
    spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))
    change = random.choice((-50, 50)) * spot[..., None]
    return np.asarray(np.clip(pixels + change, 0, 255), np.float32)


def missing(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Replaces a square by its mean colour."""
    found, place = pixels.copy(), _place(pixels, 0.08, random)
    found[place] = found[place].mean(axis=(0, 1))
    return found


def coarser(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Enlarges the whole picture by a fifth."""
    height, width = pixels.shape[:2]
    rows, columns = ((np.arange(side) / 1.2).astype(int) for side in (height, width))
    return np.asarray(pixels[rows][:, columns], np.float32)


LOCAL: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "scrambled": scrambled,
    "scratched": scratched,
    "stained": stained,
    "missing": missing,
}
"""Defects of a small part of a picture."""

KINDS = {**LOCAL, "coarser": coarser}
"""All defects, of a part or of the whole."""


def defects(batch: npt.NDArray[np.float32], kind: str, seed: int) -> npt.NDArray[np.float32]:
    """Returns pictures, float32 [B, H, W, 3], with a defect in each; the same for the same seed."""
    random = np.random.default_rng(seed)
    return np.stack([KINDS[kind](pixels, random) for pixels in batch])

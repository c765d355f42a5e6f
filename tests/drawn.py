"""Pictures of squares and discs with exact masks, for tests of segmentation."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("ground", "square", "disc")
COLOURS = ("#6e6e6e", "#dc3c28", "#325adc")


def scenes(count, side=64, seed=0):
    """Yields a picture uint8 [side, side, 3] and its mask uint8 [side, side]."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        mask = Image.new("L", (side, side))
        for number in (1, 2):
            size = int(random.integers(side // 4, side // 2))
            x, y = (int(v) for v in random.integers(0, side - size, 2))
            draw = ImageDraw.Draw(mask)
            (draw.rectangle if number == 1 else draw.ellipse)((x, y, x + size, y + size), fill=number)
        classes = np.asarray(mask)
        colours = np.array([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in COLOURS])
        pixels = (colours[classes] + random.normal(0, 12, (side, side, 3))).clip(0, 255)
        yield pixels.astype(np.uint8), classes


def write(folder: Path, count=48, side=64, seed=0, palette=()):
    """Writes images/ and masks/, whose values have the colours of a palette."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, (pixels, mask) in enumerate(scenes(count, side, seed)):
        Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
        stored = Image.fromarray(mask)
        if palette:
            stored.putpalette(bytes.fromhex("".join(palette).replace("#", "")))
        stored.save(folder / "masks" / f"{number:03}.png")
    return folder

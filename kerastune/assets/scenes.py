"""Composes pictures of cut-outs on photos, with a box and a mask for everything on them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

SIDE = 320
"""Height and width of a picture."""

_SMALLEST, _LARGEST = 44, 150  # pixels of a pasted cut-out's longer side
_ENLARGED = 2.5  # at most, or blur would tell small cut-outs
_TRIED = 30  # places for a cut-out

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pasted:
    """A cut-out on a picture: its class from 1, and where it is seen, bool [SIDE, SIDE]."""

    number: int
    seen: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Palette:
    """Names of the classes, from 1, and the colours of all, RGB, from class 0."""

    names: Sequence[str]
    colours: Sequence[tuple[int, int, int]]


def write(
    folder: Path, count: int, seed: int, cut_outs: Sequence[tuple[Path, int]], photos: Sequence[Path], palette: Palette
) -> None:
    """Writes pictures of cut-outs with their classes on photos: images/, masks/ and annotations.json (COCO)."""
    random = np.random.default_rng(seed)
    opened = [(Image.open(path).convert("RGBA"), number) for path, number in cut_outs]
    backgrounds = [_photo(path) for path in photos]
    scenes = (compose(opened, backgrounds[int(random.integers(len(backgrounds)))], random) for _ in range(count))
    _write(scenes, folder, palette)


def compose(
    cut_outs: Sequence[tuple[Image.Image, int]], photo: Image.Image, random: np.random.Generator
) -> tuple[Pixels, list[Pasted]]:
    """Pastes one to five cut-outs on a part of a photo; they hardly cover each other.

    Args:
        cut_outs: RGBA images with their classes; every class is drawn equally often.

    Returns:
        Pixels uint8 [SIDE, SIDE, 3], and what is on them.
    """
    picture, pasted = _part(photo, random), list[Pasted]()
    numbers = sorted({number for _, number in cut_outs})
    for _ in range(int(random.integers(1, 6))):
        number = numbers[int(random.integers(len(numbers)))]
        of_class = [image for image, own in cut_outs if own == number]
        stamp = _changed(of_class[int(random.integers(len(of_class)))], random)
        alpha = np.asarray(stamp)[..., 3] > 127
        for _ in range(_TRIED):
            x, y = (int(random.integers(SIDE - side + 1)) for side in stamp.size)
            seen = np.zeros((SIDE, SIDE), np.bool_)
            seen[y : y + stamp.height, x : x + stamp.width] = alpha
            if not any((seen & other.seen).sum() > 0.1 * min(seen.sum(), other.seen.sum()) for other in pasted):
                picture.paste(stamp, (x, y), stamp)
                pasted = [*(Pasted(other.number, other.seen & ~seen) for other in pasted), Pasted(number, seen)]
                break
    return np.asarray(picture), pasted


def _photo(path: Path) -> Image.Image:
    """Returns a photo whose shorter side has at most three pictures."""
    image = Image.open(path).convert("RGB")
    factor = min(1.0, 3 * SIDE / min(image.size))
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def _part(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    side = int(random.integers(min(SIDE, *photo.size), min(photo.size) + 1))
    x, y = (int(random.integers(whole - side + 1)) for whole in photo.size)
    part = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (x, y, x + side, y + side))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part


def _changed(stamp: Image.Image, random: np.random.Generator) -> Image.Image:
    """Returns a cut-out in another size, turned by up to 25 degrees, mirrored half of the time, and in other light."""
    longest = max(stamp.size)
    side = min(random.uniform(_SMALLEST, _LARGEST), _ENLARGED * longest)
    size = [max(round(one * side / longest), 2) for one in stamp.size]
    changed = stamp.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    changed = changed.rotate(random.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
    if random.random() < 0.5:
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    colours = ImageEnhance.Brightness(changed.convert("RGB")).enhance(random.uniform(0.7, 1.2))
    colours.putalpha(changed.getchannel("A"))
    return colours.crop(changed.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox())


def _write(scenes: Iterable[tuple[Pixels, list[Pasted]]], folder: Path, palette: Palette) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (pixels, pasted) in enumerate(scenes, 1):
        name = f"{number:04}"
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg", quality=92)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for one in pasted:
            mask[one.seen] = one.number
        drawn = Image.fromarray(mask, "P")
        drawn.putpalette([value for colour in palette.colours for value in colour])
        drawn.save(folder / "masks" / f"{name}.png")
        images.append({"id": number, "file_name": f"images/{name}.jpg", "width": SIDE, "height": SIDE})
        annotations += [_annotation(one, number, len(annotations) + n) for n, one in enumerate(pasted, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(palette.names, 1)]
    found = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(found, separators=(",", ":")), "utf-8")


def _annotation(one: Pasted, image: int, number: int) -> dict[str, Any]:
    """Returns COCO's entry: the box [x, y, width, height] in pixels, and the mask as run lengths, column by column."""
    rows, columns = np.flatnonzero(one.seen.any(1)), np.flatnonzero(one.seen.any(0))
    x, y = int(columns[0]), int(rows[0])
    flat = one.seen.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *changes.tolist(), len(flat)])  # the first run is of pixels outside
    return {
        "id": number,
        "image_id": image,
        "category_id": one.number,
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
        "area": int(one.seen.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [SIDE, SIDE], "counts": counts.tolist()},
    }

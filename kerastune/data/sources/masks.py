"""Reads pictures with masks from two folders beside each other. Everything wrong with a mask is a problem."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import assets, files
from kerastune.data.masks import IGNORED, Mask, channels, named_color, packed
from kerastune.data.source import (
    SPLITS,
    Example,
    Masked,
    Problem,
    Progress,
    Source,
    asset_folder,
    counted,
    inside,
    named,
    relative,
    some,
)
from kerastune.errors import DataError
from kerastune.modalities import image
from kerastune.recipe.mask_sources import MaskFolders, StoredMasks
from kerastune.targets import images as reader

_LAYOUT = (
    "Expected layout: path/images/photo.jpg and path/masks/photo.png; or, with declared splits,\n"
    "path/train/images/…, path/train/masks/…, path/validation/… and path/test/…"
)
_BLOCK = 128  # pictures between two calls of `progress`
_MOST_NAMED = 5
_APART = 32  # of 256 steps of a channel: colours of a palette that are closer were not made to be seen


@dataclass
class _Found:
    paths: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    palettes: set[tuple[str, ...]] = field(default_factory=set)


def examples(settings: MaskFolders, progress: Progress) -> Source:
    """Lists the pictures, and reads their masks.

    Raises:
        DataError: there is no such folder or fetched asset, or its layout is another.
    """
    root = asset_folder(settings.path) if settings.path in assets.ASSETS else settings.path
    found, notes, alone = _Found(), list[str](), list[str]()
    for split, folder in _split_folders(root, settings).items():
        pictures, masks = (_listed(os.path.join(folder, name), root) for name in (settings.images, settings.masks))
        matched = {stem: masks.pop(stem, None) or masks.pop(f"{stem}_mask", None) for stem in pictures}
        alone += [relative(path, root) for path in masks.values()]
        asked = [(pictures[stem], matched[stem]) for stem in pictures]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # zlib and Pillow release the GIL
            for start in range(0, len(asked), _BLOCK):
                block = asked[start : start + _BLOCK]
                for (picture, _), (label, colors) in zip(
                    block, pool.map(lambda pair: _label(settings, root, *pair), block), strict=True
                ):
                    if isinstance(label, Problem):
                        found.problems.append(label)
                        continue
                    found.palettes.add(colors)
                    found.paths.append(picture)
                    found.examples.append(Example(relative(picture, root), label, split))
                progress("reading masks", len(found.paths), 0)
    if not found.examples and not found.problems:
        raise DataError(f"The folder {named(root)} holds no pictures in {settings.images}/.", _LAYOUT)
    if alone:
        notes.append(f"{counted(len(alone), 'mask')} without a picture left out: {some(alone)}")
    return Source(
        where=f"the folder {named(root)}",
        examples=found.examples,
        read=lambda i: files.read_bounded(found.paths[i], image.LARGEST, "an image"),
        labels=settings.classes,
        colors=settings.colors or _shared(found.palettes, len(settings.classes)),
        problems=tuple(found.problems),
        notes=tuple(notes),
    )


def _split_folders(root: str, settings: MaskFolders) -> dict[str | None, str]:
    """Returns the parent of the two folders by split; a single entry None without splits."""
    if not os.path.isdir(root):
        raise DataError(
            f"There is no folder {named(root)}.", f"data.path is relative to the working directory. {_LAYOUT}"
        )
    there: dict[str | None, str] = {
        split: os.path.join(root, split) for split in SPLITS if os.path.isdir(os.path.join(root, split))
    }
    if os.path.isdir(os.path.join(root, settings.images)):
        if there:
            beside = f"{settings.images}/ and, next to it, {', '.join(map(str, there))}"
            raise DataError(f"The folder {named(root)} holds {beside}.", f"Keep one of the two layouts. {_LAYOUT}")
        return {None: root}
    if "train" not in there:
        what = f"neither {settings.images}/ nor train/{settings.images}/"
        raise DataError(f"The folder {named(root)} holds {what}.", f"{_LAYOUT}\ndata.images names another folder.")
    return there


def _listed(folder: str, root: str) -> dict[str, str]:
    """Returns the image files in a folder and those inside it, by their path without extension."""
    if not os.path.isdir(folder):
        raise DataError(f"There is no folder {named(folder)}.", _LAYOUT)
    if not inside(os.path.realpath(folder), os.path.realpath(root)):
        raise DataError(f"{named(folder)} is a link that leads outside {named(root)}.", _LAYOUT)
    found: dict[str, str] = {}
    real = os.path.realpath(root)
    for path in sorted(str(path) for path in Path(folder).rglob("*")):
        stem, extension = os.path.splitext(path[len(folder) + 1 :])
        if extension.lower().lstrip(".") not in image.EXTENSIONS or os.path.basename(path).startswith("."):
            continue
        if not os.path.isfile(path) or not inside(os.path.realpath(path), real):
            continue
        if stem in found:
            raise DataError(
                f"{named(found[stem])} and {named(path)} have the same name, which masks go by.", "Rename one of them."
            )
        found[stem] = path
    return found


def _label(
    settings: MaskFolders, root: str, picture: str, mask: str | None
) -> tuple[Masked | Problem, tuple[str, ...]]:
    """Returns the truth of a picture, and the colours that its mask has for the classes."""
    if mask is None:
        return Problem(relative(picture, root), f"has no mask in {settings.masks}/"), ()
    id = relative(mask, root)
    try:
        data = files.read_bounded(mask, image.LARGEST, "an image")
        pixels, colors = _pixels(data), image.palette(data)[: len(settings.classes)]
        size = image.upright_size(files.read_bounded(picture, image.LARGEST, "an image"))
        label = masked(settings, pixels, size, f"its picture {relative(picture, root)}")
        return label, tuple(map(named_color, colors))
    except OSError as error:
        return Problem(id, f"cannot be read: {error.strerror or error}"), ()
    except ValueError as error:
        return Problem(id, str(error)), ()


def _shared(palettes: set[tuple[str, ...]], classes: int) -> tuple[str, ...]:
    """Returns the colours of the classes that all masks share, if these can be told apart; else none."""
    colors = next(iter(palettes), ())
    if len(palettes) > 1 or len(colors) < classes:
        return ()
    values = channels(colors).astype(int)
    apart = np.abs(values[:, None] - values).max(axis=-1)
    return colors if (apart[~np.eye(len(colors), dtype=np.bool_)] >= _APART).all() else ()


def masked(settings: StoredMasks, pixels: npt.NDArray[Any], size: tuple[int, int] | None, picture: str) -> Masked:
    """Returns the truth in a stored mask.

    Args:
        pixels: numbers [H, W], or colours uint8 [H, W, 3].
        size: width and height of its picture; None if it has none, which is a problem of its own.

    Raises:
        ValueError: it has another size, other values or other colours; the message follows the mask's name.
    """
    values = _of_colours(settings, pixels) if settings.colors else _of_numbers(settings, pixels)
    height, width = values.shape
    if size is not None and size != (width, height):
        raise ValueError(f"has {width} x {height} pixels, but {picture} has {size[0]} x {size[1]}")
    there = np.unique(values)
    return Masked(tuple(settings.classes[n] for n in there if n != IGNORED), packed(values))


def _pixels(data: bytes) -> npt.NDArray[Any]:
    kind = reader.format_of(data)
    if kind not in ("png", "bmp", "gif"):
        what = "a JPEG image, whose pixels are not exact" if kind == "jpg" else "no PNG image"
        raise ValueError(f"is {what}; masks are PNG files")
    return image.stored(data)


def _of_numbers(settings: StoredMasks, pixels: npt.NDArray[Any]) -> Mask:
    """Returns a mask's classes, uint8 [H, W], with `IGNORED` for ignored pixels.

    Raises:
        ValueError: it has other values, or colours.
    """
    if pixels.ndim == 3:
        if not (pixels[..., :1] == pixels).all():
            raise ValueError("is painted with colours; data.colors says which class each of them is")
        pixels = pixels[..., 0]
    values, count = np.unique(pixels), len(settings.classes)
    others = [str(int(value)) for value in values if value >= count and value != settings.ignore]
    if others:
        ignored = "" if settings.ignore is None else f", and data.ignore = {settings.ignore}"
        raise ValueError(
            f"has pixels of the value{'s' * (len(others) > 1)} {some(others, _MOST_NAMED)}: classes are 0 to "
            f"{count - 1}{ignored}"
        )
    return np.where(pixels < count, pixels, IGNORED).astype(np.uint8)


def _of_colours(settings: StoredMasks, pixels: npt.NDArray[Any]) -> Mask:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    codes = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found = np.full(codes.shape, IGNORED, np.uint8)
    known = np.zeros(codes.shape, np.bool_)
    for number, colour in enumerate(settings.colors):
        here = codes == int(colour[1:], 16)
        found[here], known = number, known | here
    if not known.all():
        first = int(codes[~known][0])
        raise ValueError(
            f"has {counted(int((~known).sum()), 'pixel')} of colours that are not in data.colors, such as #{first:06x}"
        )
    return found

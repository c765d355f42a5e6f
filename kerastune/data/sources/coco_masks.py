"""Reads pictures with masks from COCO files, whose annotations are polygons or run lengths."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data.masks import Mask, packed
from kerastune.data.source import Label, Masked, Problem, Progress, Source, counted, named, some
from kerastune.data.sources import coco
from kerastune.errors import DataError, quoted, shortened
from kerastune.recipe.mask_sources import CocoMasks

Region = npt.NDArray[np.bool_]

_UNREAD = Masked((), packed(np.zeros((1, 1), np.uint8)))


@dataclass(frozen=True)
class _Drawn:
    where: str
    number: int  # of its class
    shape: Any  # polygons, or run lengths with the size of their picture


@dataclass
class _Masks:
    """The "segmentation" of each annotation."""

    classes: tuple[str, ...]
    unread: Label = _UNREAD
    problems: list[Problem] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def known(self, path: str, categories: list[str]) -> None:
        more = [name for name in categories if name not in self.classes]
        none = [name for name in self.classes[1:] if name not in categories]
        told = [f"data.classes does not name {some(more, 10)}"] * bool(more)
        told += [f"{named(path)} has no category {some(none, 10)}"] * bool(none)
        if told:
            names = [self.classes[0], *(name for name in dict.fromkeys(categories) if name != self.classes[0])]
            raise DataError(
                f"The categories of {named(path)} are not data.classes: {'; '.join(told)}.",
                "The first class is that of pixels without annotation, and the others are the categories: "
                f"data.classes = {shortened(str(names), 300)}",
            )

    def annotation(self, one: dict[str, Any], where: str, label: str) -> _Drawn:
        shape = one.get("segmentation")
        if not shape:
            raise ValueError("has no segmentation")
        if isinstance(shape, dict):
            if set(shape) < {"counts", "size"}:
                raise ValueError(f"has no counts and size in its segmentation: {quoted(shape)}")
        elif not (isinstance(shape, list) and all(map(_is_polygon, shape))):
            raise ValueError(f"has a segmentation that is no list of polygons [x1, y1, x2, y2, …]: {quoted(shape)}")
        return _Drawn(where, self.classes.index(label), shape)

    def picture(self, id: str, size: tuple[int, int], drawn: list[_Drawn]) -> Masked | None:
        width, height = size
        regions, before = list[tuple[int, int, Region]](), len(self.problems)
        for one in drawn:
            try:
                region = _region(one.shape, height, width)
            except ValueError as error:
                self.problems.append(Problem(one.where, str(error)))
                continue
            area = int(region.sum())
            if not area:
                self.empty.append(one.where)
            regions.append((area, one.number, region))
        if len(self.problems) > before:
            return None
        mask: Mask = np.zeros((height, width), np.uint8)
        for _, number, region in sorted(regions, key=lambda found: -found[0]):  # small things lie on large ones
            mask[region] = number
        return Masked(tuple(self.classes[n] for n in np.unique(mask)), packed(mask))


def examples(settings: CocoMasks, progress: Progress) -> Source:
    """Lists the pictures of COCO files, those without annotations too, and draws their masks.

    A pixel belongs to a polygon that holds its centre; where regions overlap, the smaller one lies on top.

    Raises:
        DataError: as `coco.listed`; or the categories are not `settings.classes`.
    """
    truth = _Masks(settings.classes)
    found = coco.listed(settings, truth, progress)
    empty = truth.empty
    notes = [f"{counted(len(empty), 'annotation')} without the centre of a pixel ({some(empty)})"] * bool(empty)
    return found.source(settings.classes, truth.problems, notes)


def _is_polygon(given: Any) -> bool:
    return (
        isinstance(given, list)
        and len(given) >= 6
        and not len(given) % 2
        and all(isinstance(one, int | float) and math.isfinite(one) for one in given)
    )


def _region(shape: Any, height: int, width: int) -> Region:
    if isinstance(shape, dict):
        return run_lengths(shape, height, width)
    polygons = [filled(np.reshape(one, (-1, 2)).astype(np.float64), height, width) for one in shape]
    return np.asarray(np.logical_or.reduce(polygons), np.bool_)


def filled(points: npt.NDArray[np.float64], height: int, width: int) -> Region:
    """Returns the pixels whose centres lie inside a polygon (even-odd rule), bool [height, width].

    Args:
        points: x and y of its corners in pixels from the top left of the picture, [n, 2].
    """
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    first, last = (  # rows whose centres an edge passes
        np.ceil(end - 0.5).clip(0, height).astype(np.int64) for end in (np.minimum(y, next_y), np.maximum(y, next_y))
    )
    count = last - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) - (np.cumsum(count) - count - first)[edge]
    crossed = x[edge] + (row + 0.5 - y[edge]) * (next_x - x)[edge] / (next_y - y)[edge]
    column = np.ceil(crossed - 0.5).clip(0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    inside = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return np.asarray(inside, np.bool_)


def run_lengths(given: dict[str, Any], height: int, width: int) -> Region:
    """Returns the region of COCO's run lengths, plain or compressed, column by column: bool [height, width].

    Raises:
        ValueError: they are damaged or those of a picture of another size.
    """
    if given["size"] != [height, width]:
        raise ValueError(
            f"has run lengths for a size of {quoted(given['size'])}, but its picture has {[height, width]}"
        )
    counts = given["counts"]
    counts = _uncompressed(counts) if isinstance(counts, str) else counts
    if not (isinstance(counts, list) and all(type(one) is int and one >= 0 for one in counts)) or (
        sum(counts) != height * width
    ):
        raise ValueError(f"has run lengths that are not {height * width:,} pixels: {quoted(given['counts'])}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """Returns the run lengths in COCO's text: five bits a character, the lowest first; each from the third on is the
    difference to the one before last."""
    counts, value, place = list[int](), 0, 0
    for character in text:
        bits = ord(character) - 48
        value, place = value | (bits & 0x1F) << place, place + 5
        if bits & 0x20:
            continue
        value -= (1 << place) if bits & 0x10 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, place = 0, 0
    return counts

"""Examines boxes, whatever the file that they come from: what cannot be right is a problem, what was mended is said."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kerastune import files
from kerastune.data.source import Box, Boxed, Problem, counted, some
from kerastune.errors import DataError
from kerastune.modalities import image
from kerastune.recipe.box_sources import CELL, Boxes

MOST = 10_000
"""Boxes in one picture."""


@dataclass(frozen=True)
class Drawn:
    """A box as a file has it.

    Attributes:
        where: what a user looks for: "annotations.json, annotation 7".
        box: in pixels; its corners may be anything.
    """

    where: str
    box: Box


@dataclass
class Examined:
    """The boxes of a source: problems, and notes on what was mended."""

    settings: Boxes
    problems: list[Problem] = field(default_factory=list)
    _mended: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _small: int = 0
    _count: int = 0
    _largest: float = 0.0

    def picture(self, name: str, size: tuple[int, int], drawn: Iterable[Drawn]) -> Boxed | None:
        """Returns the truth of a picture, or None if one of its boxes is a problem.

        Args:
            name: the picture in messages.
            size: its width and height.
        """
        kept, known = list[Box](), set[Box]()
        before = len(self.problems)
        for one in drawn:
            self._count += 1
            box, (width, height) = one.box, size
            self._largest = max(self._largest, *map(abs, _corners(box)))
            if why := _fault(box, width, height):
                self.problems.append(Problem(one.where, why))
                continue
            inside = Box(
                box.label,
                max(box.left, 0.0),
                max(box.top, 0.0),
                min(box.right, float(width)),
                min(box.bottom, float(height)),
                box.crowd,
            )
            if inside != box:
                self._mended["cut at the border of the picture, which they reached over"].append(one.where)
            if inside in known:
                self._mended["left out: the same box and label twice in a picture"].append(one.where)
                continue
            sides = (inside.right - inside.left) / width, (inside.bottom - inside.top) / height
            self._small += min(sides) * self.settings.image_size < CELL
            known.add(inside)
            kept.append(inside)
        if len(kept) > MOST:
            self.problems.append(Problem(name, f"has {len(kept):,} boxes, and {MOST:,} are allowed"))
        if len(self.problems) > before:
            return None
        return Boxed(tuple(kept), *size)

    def notes(self) -> Iterator[str]:
        """Yields what was mended, and what the model will hardly see."""
        for text, where in self._mended.items():
            yield f"{counted(len(where), 'box', 'boxes')} {text} ({some(where)})"
        if self._small:
            yield (
                f"{self._small:,} of {counted(self._count, 'box', 'boxes')} have a side of less than {CELL} pixels, "
                f"the model's finest cell, in pictures of data.image_size = {self.settings.image_size}; a larger one "
                "would show them"
            )

    def refuse_shares(self, where: str) -> None:
        """Raises DataError if all boxes look like shares of the picture where pixels are meant."""
        if self._count and self._largest <= 1.0:
            raise DataError(
                f"All corners in {where} are between 0 and 1, like shares of the picture, but pixels are expected.",
                "Multiply them by the width and height of each picture.",
            )


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def _fault(box: Box, width: int, height: int) -> str | None:
    left, top, right, bottom = _corners(box)
    place = f"x {left:g} to {right:g}, y {top:g} to {bottom:g}"
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return f"has a corner that is no finite number: {place}"
    if right < left or bottom < top:
        return f"is reversed: {place}"
    if right == left or bottom == top:
        return f"has no area: {place}"
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return f"lies outside its picture of {width} x {height} pixels: {place}"
    return None


def size_of(path: str) -> tuple[int, int] | None:
    """Returns the width and height of an image file, turned upright; None if it cannot be read, which is said later."""
    try:
        return image.upright_size(files.read_bounded(path, image.LARGEST, "an image"))
    except OSError:
        return None

"""Reads pictures with boxes from COCO files."""

from dataclasses import dataclass
from typing import Any

from kerastune.data.source import Box, Boxed, Label, Progress, Source, named
from kerastune.data.sources import coco
from kerastune.data.sources.boxes import Drawn, Examined
from kerastune.errors import DataError
from kerastune.recipe.box_sources import CocoData

_UNREAD = Boxed((), 1, 1)


@dataclass
class _Boxes:
    """The "bbox" of each annotation."""

    examined: Examined
    unread: Label = _UNREAD

    def known(self, path: str, categories: list[str]) -> None:
        """Takes the categories as they are."""

    def annotation(self, one: dict[str, Any], where: str, label: str) -> Drawn:
        if not one.get("bbox"):
            raise ValueError("has no bbox")
        x, y, width, height = map(float, one["bbox"])
        return Drawn(where, Box(label, x, y, x + width, y + height, bool(one.get("iscrowd", 0))))

    def picture(self, id: str, size: tuple[int, int], drawn: list[Drawn]) -> Boxed | None:
        return self.examined.picture(id, size, drawn)


def examples(settings: CocoData, progress: Progress) -> Source:
    """Lists the pictures of COCO files, those without boxes too.

    Raises:
        DataError: as `coco.listed`; or the files hold no box, or shares of pictures instead of pixels.
    """
    examined = Examined(settings)
    found = coco.listed(settings, _Boxes(examined), progress)
    examined.refuse_shares(named(settings.path))
    is_any = any(isinstance(one.label, Boxed) and one.label.boxes for one in found.examples)
    if not (is_any or found.problems or examined.problems):
        raise DataError(f"{named(settings.path)} holds no box, so there is nothing to find.", coco.LAYOUT)
    labels = tuple(dict.fromkeys(name for _, name in sorted(found.categories.items())))
    return found.source(labels, examined.problems, examined.notes())

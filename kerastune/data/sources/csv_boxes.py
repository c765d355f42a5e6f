"""Reads a CSV file with a row for each box: an image path, a label and four corners in pixels."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kerastune import files
from kerastune.data import cells
from kerastune.data.source import (
    Box,
    Boxed,
    Example,
    Problem,
    Progress,
    Source,
    counted,
    named,
    relative,
    unreachable,
)
from kerastune.data.sources.boxes import Drawn, Examined, size_of
from kerastune.data.sources.rows import rows
from kerastune.data.sources.table import in_column, placed
from kerastune.errors import DataError, quoted
from kerastune.modalities.image import LARGEST
from kerastune.recipe.box_sources import CsvBoxes

_EXAMPLE = (
    "A minimal file:  image,label,xmin,ymin,xmax,ymax  /  1.jpg,tree,10,20,64,90  /  2.jpg,,,,,  (a row for each box; "
    "empty cells for a picture without any)."
)


@dataclass
class _Picture:
    path: str
    place: tuple[str | None, str | None]  # its split and group
    line: int
    drawn: list[Drawn] = field(default_factory=list)
    is_empty: bool = False  # whether a row says so
    is_bad: bool = False


def examples(settings: CsvBoxes, progress: Progress) -> Source:
    """Lists the pictures of a CSV file of boxes.

    Raises:
        DataError: the file cannot be read as CSV, or lacks a column.
    """
    root = settings.images or os.path.dirname(settings.path)
    if not os.path.isdir(root):
        raise DataError(f"There is no folder {named(root)}.", "data.images is the folder of image paths.")
    keys = ("image_column", "label_column", "split_column", "group_column")
    columns = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    columns |= {f"box_columns[{n}]": name for n, name in enumerate(settings.box_columns)}
    notes, problems, pictures = Counter[str](), list[Problem](), dict[str, _Picture]()
    for line, row in rows(settings.path, "csv", columns, notes, settings.delimiter, settings.quoting):
        if why := _add(settings, root, line, row, pictures):
            problems.append(Problem(f"line {line}", why))
    if not pictures and not problems:
        raise DataError(f"{named(settings.path)} holds no rows.", _EXAMPLE)
    examined, paths, found = Examined(settings), list[str](), list[Example]()
    for n, (path, one) in enumerate(pictures.items(), start=1):
        progress("reading pictures", n, len(pictures))
        if one.is_bad:
            continue
        size = size_of(path)
        label = examined.picture(relative(path, root), size, one.drawn) if size else Boxed((), 1, 1)
        if label is not None:
            paths.append(path)
            found.append(Example(relative(path, root), label, *one.place))
    examined.refuse_shares(named(settings.path))
    problems += examined.problems
    if not problems and not any(isinstance(one.label, Boxed) and one.label.boxes for one in found):
        raise DataError(f"{named(settings.path)} holds no box, so there is nothing to find.", _EXAMPLE)
    return Source(
        where=named(settings.path),
        examples=found,
        read=lambda i: files.read_bounded(paths[i], LARGEST, "an image"),
        problems=tuple(problems),
        notes=(*(f"{counted(count, 'row')}: {what}" for what, count in notes.items()), *examined.notes()),
    )


def _add(
    settings: CsvBoxes, root: str, line: int, row: dict[str, Any] | str, pictures: dict[str, _Picture]
) -> str | None:
    """Adds a row to its picture. Returns what is wrong with it, or None."""
    if isinstance(row, str):
        return row
    path = str(row[settings.image_column]).strip()
    full = os.path.normpath(os.path.join(root, path))
    if why := unreachable(path, full, os.path.normpath(root), os.path.realpath(root)):
        return why
    place = placed(settings, row, None)
    known = pictures.setdefault(full, _Picture(full, ("", "") if isinstance(place, Problem) else place, line))
    why = place.text if isinstance(place, Problem) else _box(settings, line, row, known)
    if not why and place != known.place:
        why = f"{path} is in split or group {quoted(place)} here and in {quoted(known.place)} on line {known.line}"
    known.is_bad |= bool(why)
    return why


def _box(settings: CsvBoxes, line: int, row: dict[str, Any], known: _Picture) -> str | None:
    """Adds the box of a row to its picture, or that it has none. Returns what is wrong, or None."""
    corners = [row[name] for name in settings.box_columns]
    if not any(str(cell).strip() for cell in corners):
        known.is_empty = True
        return "says that the picture has no box, but another line has one" if known.drawn else None
    if known.is_empty:
        return "has a box, but another line says that the picture has none"
    label = in_column(settings.label_column, cells.text(row[settings.label_column], "label"))
    if isinstance(label, Problem):
        return label.text
    edges = list[float]()
    for name, cell in zip(settings.box_columns, corners, strict=True):
        edge = in_column(name, cells.number(cell, "corner"))
        if isinstance(edge, Problem):
            return edge.text
        edges.append(edge)
    left, top, right, bottom = edges
    known.drawn.append(Drawn(f"line {line}", Box(label.strip(), left, top, right, bottom)))
    return None

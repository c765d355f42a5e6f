"""Reads a CSV file of pairs, or triplets, of images: those that pairs join, directly or by others, are a group."""

import os
from collections import Counter, defaultdict

from kerastune import files
from kerastune.data.source import Example, Problem, Progress, Source, counted, named, relative, unreachable
from kerastune.data.sources import csv
from kerastune.data.sources.rows import rows
from kerastune.data.sources.table import placed
from kerastune.errors import DataError, quoted
from kerastune.modalities.image import LARGEST
from kerastune.recipe.image_sources import CsvGroups

_EXAMPLE = "A minimal file:  anchor,positive  /  shelf/1.jpg,catalogue/7.jpg  (one row per line)."


class _Groups:
    """Sets of paths that are joined pair by pair."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, path: str) -> str:
        """Returns the path that stands for a path's group."""
        while (above := self._above.setdefault(path, path)) != path:
            self._above[path] = path = self._above[above]
        return path

    def join(self, one: str, other: str) -> None:
        """Makes one group of two; the first path by name stands for it, whatever the order of the rows."""
        first, second = sorted((self.of(one), self.of(other)))
        self._above[second] = first

    def all(self) -> dict[str, list[str]]:
        """Returns the paths of each group."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in sorted(self._above):
            found[self.of(path)].append(path)
        return found


def examples(settings: CsvGroups, progress: Progress) -> Source:
    """Lists the images of a CSV file with labels, or with pairs.

    A group's label is the path of its first image. A negative says that two images are of different groups; training
    takes all images of other groups as negatives, so images that are nothing else are left out.

    Raises:
        DataError: the file cannot be read as CSV, or lacks a column.
    """
    if settings.anchor_column is None:
        return csv.examples(settings, progress)
    root = csv.folder_of(settings)
    keys = ("anchor_column", "positive_column", "negative_column", "split_column")
    columns = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    groups, apart, splits = _Groups(), list[tuple[int, str, str]](), dict[str, set[str | None]]()
    problems, notes, others = list[Problem](), Counter[str](), set[str]()
    for line, row in rows(settings.path, "csv", columns, notes, settings.delimiter, settings.quoting):
        found = _row(settings, root, columns, row)
        if isinstance(found, Problem):
            problems.append(Problem(f"line {line}", found.text))
            continue
        (anchor, positive, *negative), split = found
        groups.join(anchor, positive)
        for path in (anchor, positive):
            splits.setdefault(path, set()).add(split)
        apart += [(line, anchor, one) for one in negative]
        others |= set(negative)
    members = groups.all()
    if not members and not problems:
        raise DataError(f"{named(settings.path)} has a header but no rows.", _EXAMPLE)
    own = {path: label for label, paths in members.items() for path in paths}
    problems += [
        Problem(f"line {line}", f"{relative(one, root)} is no match here, but other rows join it to the anchor")
        for line, anchor, one in apart
        if own.get(one) == own[anchor]
    ]
    problems += [
        Problem(relative(path, root), f"is in {' and in '.join(sorted(map(str, there)))}")
        for path, there in splits.items()
        if len(there) > 1
    ]
    kept = [path for path in own if len(splits[path]) == 1]
    if unused := len(others - set(own)):
        notes["never an anchor nor a positive, left out: images of other groups are negatives anyway"] = unused
    progress("listing images", len(kept), 0)
    return Source(
        where=named(settings.path),
        examples=[Example(relative(path, root), relative(own[path], root), next(iter(splits[path]))) for path in kept],
        read=lambda i: files.read_bounded(kept[i], LARGEST, "an image"),
        problems=tuple(problems),
        notes=(
            f"pairs join {counted(len(own), 'image')} to {counted(len(members), 'group')}",
            *(f"{counted(count, 'row')}: {what}" for what, count in notes.items()),
        ),
    )


def _row(
    settings: CsvGroups, root: str, columns: dict[str, str], row: dict[str, object] | str
) -> tuple[list[str], str | None] | Problem:
    """Returns a row's images, the negative last if it has one, and its split; or what is wrong with it."""
    if isinstance(row, str):
        return Problem("", row)
    place = placed(settings, row, None)
    if isinstance(place, Problem):
        return place
    found = []
    for key in ("anchor_column", "positive_column", "negative_column"):
        cell = str(row[columns[key]]).strip() if key in columns else ""
        if not cell and key == "negative_column":
            continue
        full = os.path.normpath(os.path.join(root, cell))
        if problem := unreachable(cell, full, root, os.path.realpath(root)):
            return Problem("", f"{quoted(columns[key])}: {problem}")
        found.append(full)
    if found[0] == found[1]:
        return Problem("", f"{relative(found[0], root)} is paired with itself")
    return found, place[0]

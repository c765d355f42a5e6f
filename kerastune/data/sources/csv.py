"""Reads a CSV file with columns of image paths, labels and, optionally, splits."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kerastune import files
from kerastune.data.labels import normal
from kerastune.data.source import (
    Example,
    Label,
    Problem,
    Progress,
    Source,
    counted,
    inside,
    named,
    relative,
)
from kerastune.data.sources.rows import rows
from kerastune.data.sources.table import in_column, placed
from kerastune.data.truths import TRUTHS
from kerastune.errors import DataError, quoted
from kerastune.modalities.image import LARGEST
from kerastune.recipe.sources import CsvImages

_EXAMPLE = "A minimal file:  image,label  /  photos/1.jpg,daisy  /  photos/2.jpg,tulip  (one row per line)."


@dataclass
class _Table:
    settings: CsvImages
    root: str  # image paths are relative to it and stay inside it
    real_root: str  # the same, links resolved
    columns: dict[str, str]  # by the key that names them
    paths: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # file → its place in examples
    lines: list[int] = field(default_factory=list)
    contradicted: set[int] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)


def examples(settings: CsvImages, progress: Progress) -> Source:
    """Lists the rows of a CSV file.

    Raises:
        DataError: the file cannot be read as CSV, or lacks a column.
    """
    root = settings.images or os.path.dirname(settings.path)
    if not os.path.isdir(root):
        raise DataError(f"There is no folder {named(root)}.", "data.images is the folder of image paths.")
    keys = ("image_column", "label_column", "split_column", "group_column")
    columns = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    table = _Table(settings, root, os.path.realpath(root), columns)
    for line, row in rows(settings.path, "csv", columns, table.notes, settings.delimiter, settings.quoting):
        _add(table, line, row)
    progress("listing images", len(table.examples), 0)
    if not table.examples and not table.problems:
        raise DataError(f"{named(settings.path)} has a header but no rows.", _EXAMPLE)
    return _source(table)


def _source(table: _Table) -> Source:
    kept = [i for i in range(len(table.examples)) if i not in table.contradicted]
    paths = [table.paths[i] for i in kept]
    return Source(
        where=named(table.settings.path),
        examples=[table.examples[i] for i in kept],
        read=lambda i: files.read_bounded(paths[i], LARGEST, "an image"),
        labels=(numeric,) if (numeric := table.settings.numeric) else None,
        problems=tuple(table.problems),
        notes=tuple(f"{counted(count, 'row')}: {what}" for what, count in table.notes.items()),
    )


def _add(table: _Table, line: int, row: dict[str, Any] | str) -> None:
    if isinstance(row, str):
        _problem(table, line, row)
        return
    values = {key: row[column].strip() for key, column in table.columns.items()}
    if any(values[key] != row[column] for key, column in table.columns.items()):
        table.notes["spaces around a cell removed"] += 1
    settings = table.settings
    full = os.path.normpath(os.path.join(table.root, values["image_column"]))
    parsed = TRUTHS[settings.target].parse(values["label_column"], settings.separator)
    found: Label | Problem = parsed if isinstance(parsed, Problem) else normal(parsed)
    label: Label | Problem = in_column(settings.label_column, found)
    place = placed(settings, row, None)
    problem = _unreachable(values["image_column"], full, table)
    for one in (label, place):
        problem = problem or (one.text if isinstance(one, Problem) else None)
    if problem or isinstance(label, Problem) or isinstance(place, Problem):
        _problem(table, line, problem or "")
        return
    example = Example(relative(full, table.root), label, *place)
    if full in table.seen:
        _repeat(table, line, example, table.seen[full])
    else:
        table.seen[full] = len(table.examples)
        table.lines.append(line)
        table.paths.append(full)
        table.examples.append(example)


def _problem(table: _Table, line: int, text: str) -> None:
    table.problems.append(Problem(f"line {line}", text))


def _unreachable(path: str, full: str, table: _Table) -> str | None:
    root = named(table.root)
    if not path:
        return "has no image path"
    if "\0" in path:
        return f"{named(path)} holds a NUL character, which paths cannot contain"
    if not inside(full, table.root):
        return f"{named(path)} leads outside {root}; paths in data stay inside their folder"
    if not os.path.isfile(full):
        backslashes = "; folders are separated by /" if "\\" in path else ""
        return f"{named(path)} is not there{backslashes}"
    if not inside(os.path.realpath(full), table.real_root):
        return f"{named(path)} is a link that leads outside {root}"
    return None


def _repeat(table: _Table, line: int, row: Example, first: int) -> None:
    """Handles a file that an earlier row named: an equal row is harmless, a different one is a contradiction."""
    before = table.examples[first]
    if row == before:
        table.notes["the same image and label as an earlier row, counted once"] += 1
        return
    table.contradicted.add(first)
    differ = next(key for key in ("label", "split", "group") if getattr(row, key) != getattr(before, key))
    mine, theirs = getattr(row, differ), getattr(before, differ)
    _problem(table, line, f"{row.id} is {quoted(mine)} here and {quoted(theirs)} on line {table.lines[first]}")

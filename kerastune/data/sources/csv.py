"""Reads a table with columns of paths of images or sounds, labels and, optionally, splits, groups and parts in time."""

import hashlib
import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kerastune.data import cells
from kerastune.data.columns import Examples, Strings
from kerastune.data.labels import normal
from kerastune.data.source import (
    Example,
    Label,
    Problem,
    Progress,
    Source,
    counted,
    located,
    named,
    relative,
    unreachable,
)
from kerastune.data.sources.rows import rows
from kerastune.data.sources.table import in_column, placed
from kerastune.data.truths import TRUTHS
from kerastune.errors import DataError, quoted
from kerastune.modalities import MODALITIES, Modality
from kerastune.modalities.contract import Stored
from kerastune.recipe.sources import Listed

Part = tuple[float, float | None]
"""Start and end in seconds; None: the end of the file."""
_WHOLE: Part = (0.0, None)


@dataclass
class _Table:
    settings: Listed
    modality: Modality
    stored: Stored
    root: str  # paths are relative to it and stay inside it
    real_root: str  # the same, links resolved
    columns: dict[str, str]  # by the key that names them
    paths: Strings = field(default_factory=Strings)
    parts: list[Part] = field(default_factory=list)
    examples: Examples = field(default_factory=Examples)
    problems: list[Problem] = field(default_factory=list)
    seen: dict[bytes, int] = field(default_factory=dict)  # hash of file and part → its place in examples
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    contradicted: set[int] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)


def examples(settings: Listed, progress: Progress) -> Source:
    """Lists the rows of a CSV, JSON Lines or Parquet file.

    Raises:
        DataError: the file cannot be read in its format, or lacks a column.
    """
    settings = settings.model_copy(update={"path": located(settings.path)})
    modality, root = MODALITIES[settings.modality], folder_of(settings)
    assert modality.stored
    keys = (settings.file, "label_column", "split_column", "group_column", *settings.part)
    columns = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    table = _Table(settings, modality, modality.stored, root, os.path.realpath(root), columns)
    source = str(getattr(settings, "source", "csv"))
    for line, row in rows(settings.path, source, columns, table.notes, settings.delimiter, settings.quoting):
        _add(table, line, row)
    progress(f"listing {modality.plural}", len(table.examples), 0)
    if not table.examples and not table.problems:
        name, file = columns[settings.file], modality.asked_as
        example = f"A minimal file:  {name},label  /  one/{file},daisy  /  two/{file},tulip  (one row per line)."
        raise DataError(f"{named(settings.path)} holds no rows.", example)
    return _source(table)


def folder_of(settings: Listed) -> str:
    """Returns the folder that paths are relative to and stay inside.

    Raises:
        DataError: there is none.
    """
    root = str(getattr(settings, settings.folder) or os.path.dirname(settings.path))
    if not os.path.isdir(root):
        hint = f"data.{settings.folder} is the folder of {MODALITIES[settings.modality].name} paths."
        raise DataError(f"There is no folder {named(root)}.", hint)
    return root


def _source(table: _Table) -> Source:
    kept = array("q", (i for i in range(len(table.examples)) if i not in table.contradicted))
    paths, parts, stored, one = table.paths, table.parts, table.stored, table.modality.one

    def read(i: int) -> bytes:
        data, part = stored.read(paths[kept[i]], one), parts[kept[i]]
        return stored.cut(data, *part) if stored.cut and part != _WHOLE else data

    return Source(
        where=named(table.settings.path),
        examples=Examples(table.examples[i] for i in kept) if table.contradicted else table.examples,
        read=read,
        labels=(numeric,) if (numeric := table.settings.numeric) else None,
        problems=tuple(table.problems),
        notes=tuple(f"{counted(count, 'row')}: {what}" for what, count in table.notes.items()),
    )


def _add(table: _Table, line: int, row: dict[str, Any] | str) -> None:
    if isinstance(row, str):
        _problem(table, line, row)
        return
    values = {key: _stripped(row[column]) for key, column in table.columns.items()}
    if any(isinstance(row[column], str) and values[key] != row[column] for key, column in table.columns.items()):
        table.notes["spaces around a cell removed"] += 1
    settings = table.settings
    path = cells.text(values[settings.file] or None, f"{table.modality.name} path")
    full = os.path.normpath(os.path.join(table.root, path)) if isinstance(path, str) else ""
    parsed = TRUTHS[settings.target].parse(values["label_column"], settings.separator)
    found: Label | Problem = parsed if isinstance(parsed, Problem) else normal(parsed)
    label: Label | Problem = in_column(settings.label_column, found)
    place, part = placed(settings, row, None), _part(settings, values)
    problem = unreachable(path, full, table.root, table.real_root) if isinstance(path, str) else path.text
    for one in (label, place, part):
        problem = problem or (one.text if isinstance(one, Problem) else None)
    if problem or isinstance(label, Problem) or isinstance(place, Problem) or isinstance(part, Problem):
        _problem(table, line, problem or "")
        return
    start, end = part
    span = "" if part == _WHOLE else f" from {start:g} s" + ("" if end is None else f" to {end:g} s")
    example = Example(f"{relative(full, table.root)}{span}", label, *place)
    key = hashlib.blake2b(f"{full}\0{part}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if (first := table.seen.setdefault(key, len(table.examples))) < len(table.examples):
        _repeat(table, line, example, first)
    else:
        table.lines.append(line)
        table.paths.append(full)
        table.parts.append(_WHOLE if part == _WHOLE else part)
        table.examples.append(example)


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell


def _part(settings: Listed, values: dict[str, Any]) -> Part | Problem:
    """Returns the part in time that a row names; the whole file if it names none."""
    found = []
    for key in settings.part:
        cell, column = cells.plain(values.get(key)), getattr(settings, key)
        second = None if cell is None else in_column(column, cells.number(cell, "time"))
        if isinstance(second, Problem):
            return second
        if second is not None and second < 0:
            return Problem("", f"the time is {second:g} s, before the beginning, in column {quoted(column)}")
        found.append(second)
    start, end = (found[0] or 0.0, found[1]) if found else _WHOLE
    if end is not None and end <= start:
        return Problem("", f"the part ends at {end:g} s, not after its start, {start:g} s")
    return start, end


def _problem(table: _Table, line: int, text: str) -> None:
    table.problems.append(Problem(f"line {line}", text))


def _repeat(table: _Table, line: int, row: Example, first: int) -> None:
    """Handles a file that an earlier row named: an equal row is harmless, a different one is a contradiction."""
    before = table.examples[first]
    if row == before:
        table.notes[f"the same {table.modality.name} and label as an earlier row, counted once"] += 1
        return
    table.contradicted.add(first)
    differ = next(key for key in ("label", "split", "group") if getattr(row, key) != getattr(before, key))
    mine, theirs = getattr(row, differ), getattr(before, differ)
    _problem(table, line, f"{row.id} is {quoted(mine)} here and {quoted(theirs)} on line {table.lines[first]}")

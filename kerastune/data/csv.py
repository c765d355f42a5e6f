"""A CSV file with a column of image paths, a column of labels and, if wanted, a column of splits."""

import csv  # the standard library's: imports are absolute
import difflib
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from kerastune.data.source import (
    SPLITS,
    Example,
    Problem,
    Progress,
    Source,
    counted,
    inside,
    read_file,
    relative,
)
from kerastune.errors import DataError, printable
from kerastune.recipe import CsvData

_EXAMPLE = "A minimal file:  image,label  /  photos/1.jpg,daisy  /  photos/2.jpg,tulip  (one row a line)."

_Row = tuple[int, list[str]]  # line number, cells


@dataclass
class _Table:
    settings: CsvData
    root: str  # image paths are relative to it and stay inside it
    real_root: str  # the same, links resolved
    columns: dict[str, int]
    paths: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # file → its place in examples
    lines: list[int] = field(default_factory=list)
    contradicted: set[int] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)


def examples(settings: CsvData, progress: Progress) -> Source:
    """Lists the rows of a CSV file.

    Raises:
        DataError: the file cannot be read as CSV, or lacks a column.
    """
    rows = _rows(settings)
    header = next(rows, None)
    if header is None:
        raise DataError(f"{printable(settings.path)} is empty.", _EXAMPLE)
    root = settings.images or os.path.dirname(settings.path)
    if not os.path.isdir(root):
        raise DataError(f"There is no folder {printable(root)}.", "data.images says where image paths begin.")
    table = _Table(settings, root, os.path.realpath(root), _columns(header[1], settings))
    for line, cells in rows:
        _add(table, line, cells, len(header[1]))
    progress("listing images", len(table.examples), 0)
    if not table.examples and not table.problems:
        raise DataError(f"{printable(settings.path)} has a header but no row.", _EXAMPLE)
    return _source(table)


def _source(table: _Table) -> Source:
    kept = [i for i in range(len(table.examples)) if i not in table.contradicted]
    paths = [table.paths[i] for i in kept]
    return Source(
        where=printable(table.settings.path),
        examples=[table.examples[i] for i in kept],
        read=lambda i: read_file(paths[i]),
        problems=tuple(table.problems),
        notes=tuple(f"{counted(count, 'row')}: {what}" for what, count in table.notes.items()),
    )


def _rows(settings: CsvData) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(_text(settings.path), newline=""), strict=True)
    try:
        for cells in reader:
            if any(cells):  # blank lines are no rows
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{printable(settings.path)}, line {reader.line_num}: not valid CSV ({error}).",
            'Cells with a comma or a quote stand in quotes, and a quote in them is doubled: "a, ""b"".',
        ) from error


def _text(path: str) -> str:
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"The CSV file {printable(path)} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{printable(path)}, line {line}: byte {data[error.start]:#04x} is not UTF-8.",
            "Save the file as UTF-8 (in a spreadsheet: export as “CSV UTF-8”).",
        ) from error


def _columns(header: list[str], settings: CsvData) -> dict[str, int]:
    """Where the wanted columns are."""
    names = [name.strip() for name in header]
    keys = {"image_column": settings.image_column, "label_column": settings.label_column}
    if settings.split_column is not None:
        keys["split_column"] = settings.split_column
    where, hint = f"{printable(settings.path)}, line 1", f"The header is: {printable(','.join(header))}"
    for key, wanted in keys.items():
        if names.count(wanted) > 1:
            raise DataError(f"{where}: there are {names.count(wanted)} columns {wanted!r}.", hint)
        if wanted not in names:
            near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            odd = next((s for s in (";", "\t", "|") if len(names) == 1 and s in names[0]), None)
            cure = f"; columns are separated by commas here, not by {odd!r}" if odd else f"; set data.{key}"
            raise DataError(f"{where}: there is no column {wanted!r}{guess}.", hint + cure)
    return {key: names.index(wanted) for key, wanted in keys.items()}


def _add(table: _Table, line: int, cells: list[str], width: int) -> None:
    if len(cells) != width:
        _problem(table, line, f"has {counted(len(cells), 'cell')} where the header has {width}")
        return
    values = {key: cells[place].strip() for key, place in table.columns.items()}
    if any(values[key] != cells[place] for key, place in table.columns.items()):
        table.notes["spaces around a cell removed"] += 1
    full = os.path.normpath(os.path.join(table.root, values["image_column"]))
    problem = _wrong(values) or _unreachable(values["image_column"], full, table)
    row = Example(relative(full, table.root), values["label_column"], values.get("split_column"))
    if problem:
        _problem(table, line, problem)
    elif full in table.seen:
        _repeat(table, line, row, table.seen[full])
    else:
        table.seen[full] = len(table.examples)
        table.lines.append(line)
        table.paths.append(full)
        table.examples.append(row)


def _problem(table: _Table, line: int, text: str) -> None:
    table.problems.append(Problem(f"line {line}", text))


def _wrong(values: dict[str, str]) -> str | None:
    if not values["image_column"]:
        return "has no image path"
    if not values["label_column"]:
        return "has no label"
    split = values.get("split_column", "train")
    return None if split in SPLITS else f"the split is {split!r}, not one of {', '.join(SPLITS)}"


def _unreachable(path: str, full: str, table: _Table) -> str | None:
    root = printable(table.root)
    if not inside(full, table.root):
        return f"{printable(path)} leads outside {root}; paths in data stay inside their folder"
    if not os.path.isfile(full):
        backslashes = "; folders are separated by /" if "\\" in path else ""
        return f"{printable(path)} is not there{backslashes}"
    if not inside(os.path.realpath(full), table.real_root):
        return f"{printable(path)} is a link that leads outside {root}"
    return None


def _repeat(table: _Table, line: int, row: Example, first: int) -> None:
    """A file that an earlier row named: the same again is harmless, something else is a contradiction."""
    before = table.examples[first]
    if row == before:
        table.notes["the same image and label as an earlier row, counted once"] += 1
        return
    table.contradicted.add(first)
    mine, theirs = (row.label, before.label) if row.label != before.label else (row.split, before.split)
    _problem(table, line, f"{row.id} is {mine!r} here and {theirs!r} on line {table.lines[first]}")

"""Reads texts with labels or scores from rows of a CSV, JSON Lines or Parquet file."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kerastune.data import cells
from kerastune.data.columns import Examples
from kerastune.data.contents import Contents
from kerastune.data.source import SPLITS, Example, Label, Problem, Progress, Source, counted, named
from kerastune.data.sources.rows import EXAMPLES, files, rows
from kerastune.data.truths import TRUTHS
from kerastune.errors import DataError, quoted
from kerastune.recipe.sources import Listed, Table

T = TypeVar("T")


@dataclass
class _Table:
    settings: Table
    examples: Examples = field(default_factory=Examples)
    contents: Contents = field(default_factory=Contents)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    more: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)  # types of the label cells


def examples(settings: Table, progress: Progress) -> Source:
    """Reads the rows of one file, or of one file per split.

    Raises:
        DataError: a file cannot be read in its format, or lacks a column.
    """
    table = _Table(settings)
    for n, (where, row, split) in enumerate(all_rows(settings, table.notes, table.more), start=1):
        _add(table, where, row, split)
        if n % 10_000 == 0:
            progress("reading texts", len(table.examples), 0)
    if not table.examples and not table.problems:
        raise DataError(f"{named(settings.path)} holds no rows.", EXAMPLES[settings.source])
    return Source(
        where=named(settings.path),
        examples=table.examples,
        read=table.contents.__getitem__,
        labels=_name(settings),
        problems=tuple(table.problems),
        notes=(
            *table.more,
            *(f"{counted(count, 'row')}: {what}" for what, count in table.notes.items()),
            *(mixed(table.kinds) if settings.target in ("label", "labels", "groups") else ()),
        ),
    )


def all_rows(
    settings: Table, notes: Counter[str], more: list[str]
) -> Iterator[tuple[str, dict[str, Any] | str, str | None]]:
    """Yields each row's name, its cells or what is wrong with it, and the split of its file.

    Args:
        notes: counts corrected and omitted rows, by reason.
        more: notes on omitted files.
    """
    for path, split in files(settings.path, settings.source, more).items():
        unit = "row" if settings.source == "parquet" else "line"
        found = rows(path, settings.source, columns(settings), notes, settings.delimiter, settings.quoting)
        for number, row in found:
            yield f"{Path(path).name}, {unit} {number}", row, split


def columns(settings: Table) -> dict[str, str]:
    """Returns the columns to read, by the key that names them."""
    keys = (*settings.columns, settings.truth, "split_column", "group_column")
    return {key: getattr(settings, key) for key in keys if key and getattr(settings, key)}


def _name(settings: Table) -> tuple[str, ...] | None:
    """Returns the name that counts examples without labels."""
    if settings.target == "pairs":
        return ("pairs",)
    is_number = settings.target in ("number", "scores") and settings.truth
    return (getattr(settings, settings.truth),) if is_number and settings.truth else None


def _add(table: _Table, where: str, row: dict[str, Any] | str, split: str | None) -> None:
    settings = table.settings
    if isinstance(row, str):
        table.problems.append(Problem(where, row))
        return
    named = columns(settings)
    wanted = [named[key] for key in settings.columns]
    texts = [in_column(column, cells.text(row[column], "text")) for column in wanted]
    label: Label | Problem = ()
    if settings.truth:
        column = named[settings.truth]
        label = in_column(column, TRUTHS[settings.target].parse(row[column], settings.separator))
        table.kinds[cells.kind(row[column])] += cells.plain(row[column]) is not None
    place = placed(settings, row, split)
    read = [cleaned(table.notes, text) for text in texts if isinstance(text, str)]
    problem = next((one for one in (*texts, label, place) if isinstance(one, Problem)), None)
    if problem is None and settings.target == "pairs" and read[1:2] == read[2:]:
        problem = Problem("", "its positive is also its negative")
    if problem is None and not all(read):
        problem = Problem("", f"has no text in column {quoted(wanted[read.index('')])}")
    if problem or isinstance(label, Problem) or isinstance(place, Problem):
        table.problems.append(Problem(where, problem.text if problem else ""))
        return
    table.examples.append(Example(where, label, *place))
    table.contents.append(json.dumps(read, ensure_ascii=False).encode())


def in_column(column: str, found: T | Problem) -> T | Problem:
    return Problem("", f"{found.text} in column {quoted(column)}") if isinstance(found, Problem) else found


def placed(settings: Table | Listed, row: dict[str, Any], split: str | None) -> tuple[str | None, str | None] | Problem:
    """Returns the split and the group of a row; `split` is its file's."""
    if settings.split_column:
        said = in_column(settings.split_column, cells.text(row[settings.split_column], "split"))
        if isinstance(said, Problem):
            return said
        if (said := said.strip()) not in SPLITS:
            return Problem("", f"the split is {quoted(said)}, not one of {', '.join(SPLITS)}")
        split = said
    if not settings.group_column:
        return split, None
    group = in_column(settings.group_column, cells.text(row[settings.group_column], "group"))
    return group if isinstance(group, Problem) else (split, group)


def cleaned(notes: Counter[str], text: str) -> str:
    """Returns a text without NUL characters and surrounding spaces."""
    if "\x00" in text:
        notes["NUL characters removed"] += 1
    found = (without := text.replace("\x00", "")).strip()
    if found != without:
        notes["spaces around a text removed"] += 1
    return found


def mixed(kinds: Counter[str]) -> tuple[str, ...]:
    """Returns a note on labels of several types."""
    found = {kind: count for kind, count in kinds.items() if count}
    if len(found) < 2:
        return ()
    return (f"labels of several types, all read as texts: {', '.join(counted(n, k) for k, n in found.items())}",)

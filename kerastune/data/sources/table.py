"""Rows of a CSV, JSON Lines or Parquet file: texts, and their labels or scores, for the tasks that read texts."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerastune.data.source import SPLITS, Example, Label, Problem, Progress, Source, counted
from kerastune.data.sources.rows import EXAMPLES, files, rows
from kerastune.data.truths import TRUTHS
from kerastune.errors import DataError, printable
from kerastune.recipe.sources import Table


@dataclass
class _Table:
    settings: Table
    examples: list[Example] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def examples(settings: Table, progress: Progress) -> Source:
    """Reads the rows of one file, or of one file a split.

    Raises:
        DataError: a file cannot be read as what it is said to be, or lacks a column.
    """
    table = _Table(settings)
    for path, split in files(settings.path, settings.source).items():
        for number, row in rows(path, settings.source, columns(settings), settings.delimiter):
            _add(table, f"{Path(path).name}, {'row' if settings.source == 'parquet' else 'line'} {number}", row, split)
            if number % 10_000 == 0:
                progress("reading texts", len(table.examples), 0)
    if not table.examples and not table.problems:
        raise DataError(f"{printable(settings.path)} holds no row.", EXAMPLES[settings.source])
    return Source(
        where=printable(settings.path),
        examples=table.examples,
        read=table.contents.__getitem__,
        labels=_name(settings),
        problems=tuple(table.problems),
        notes=tuple(f"{counted(count, 'row')}: {what}" for what, count in table.notes.items()),
    )


def columns(settings: Table) -> dict[str, str]:
    """The columns that are read, by the key that names them."""
    keys = (*settings.columns, settings.truth, "split_column")
    return {key: getattr(settings, key) for key in keys if key and getattr(settings, key)}


def _name(settings: Table) -> tuple[str, ...] | None:
    """What counts examples that have no labels."""
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
    texts = [cleaned(table.notes, row[column]) for column in wanted]
    label: Label | Problem = ()
    if settings.truth:
        label = TRUTHS[settings.target].parse(row[named[settings.truth]], settings.separator)
    said = row[settings.split_column] if settings.split_column else split
    problem = (
        next((f"has no text in column {c!r}" for c, text in zip(wanted, texts, strict=True) if not text), None)
        or ("its positive is its negative, too" if settings.target == "pairs" and texts[1:2] == texts[2:] else None)
        or (label.text if isinstance(label, Problem) else None)
        or (f"the split is {printable(str(said))!r}, not one of {', '.join(SPLITS)}" if _is_foreign(said) else None)
    )
    if problem or isinstance(label, Problem):
        table.problems.append(Problem(where, problem or ""))
        return
    table.examples.append(Example(where, label, None if said is None else str(said)))
    table.contents.append(json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _is_foreign(split: Any) -> bool:
    return split is not None and split not in SPLITS


def cleaned(notes: Counter[str], value: Any) -> str:
    """A cell as text, without spaces around it; "" where there is none."""
    text = "" if value is None else str(value)
    if "\x00" in text:
        notes["NUL characters removed"] += 1
        text = text.replace("\x00", "")
    return text.strip()

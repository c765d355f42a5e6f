"""Reads rows of CSV, JSON Lines and Parquet files, with the problems of each."""

import codecs
import csv  # the standard library's: imports are absolute
import difflib
import errno
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kerastune import assets
from kerastune.data import cells, limits
from kerastune.data.source import SPLITS, asset_folder, counted, named, some
from kerastune.errors import DataError, printable, quoted, shortened
from kerastune.files import read_bounded

Row = tuple[int, dict[str, Any] | str]
"""Line or row number, from 1; its cells by column, or what is wrong with it."""

_UTF8 = "Save the file as UTF-8 (in a spreadsheet: export as “CSV UTF-8”)."


MEANT = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "testing": "test",
}
"""Other names of splits."""


def files(path: str, source: str, notes: list[str]) -> dict[str, str | None]:
    """Returns the files of a data set and the split in each (None: not declared); `notes` gets what is left out.

    Raises:
        DataError: there is no such file, folder or fetched asset.
    """
    if path in assets.ASSETS:
        path = asset_folder(path)
    if not os.path.isdir(path):
        return {path: None}
    found: dict[str, str | None] = {
        os.path.join(path, f"{split}.{source}"): split
        for split in SPLITS
        if os.path.lexists(os.path.join(path, f"{split}.{source}"))  # what is no file is refused when it is read
    }
    if "train" not in found.values():
        raise DataError(
            f"The folder {named(path)} holds no train.{source}.",
            f"Name a file, or a folder with train.{source} and, optionally, validation.{source} and test.{source}.",
        )
    others = sorted(p.name for p in Path(path).glob(f"*.{source}") if str(p) not in found)
    for name in others:
        if (split := MEANT.get(name.lower().removesuffix(f".{source}"))) and split not in found.values():
            raise DataError(
                f"The folder {named(path)} holds {named(name)}, which looks like a split.",
                f"Rename it to {split}.{source}, or move it elsewhere.",
            )
    if others:
        notes.append(f"{counted(len(others), 'file')} left out, not of a split: {some(list(map(named, others)))}")
    return found


EXAMPLES = {
    "csv": "A minimal file:  text,label  /  where is Rome?,place  /  who wrote Emma?,person  (one row per line).",
    "jsonl": 'A minimal file:  {"text": "where is Rome?", "label": "place"}  (one object per line).',
    "parquet": "It needs a column of texts and a column of labels.",
}


def rows(
    path: str, source: str, wanted: dict[str, str], notes: Counter[str], delimiter: str = ",", quoting: bool = True
) -> Iterator[Row]:
    """Yields the rows of a file, each with its number and at least its cells of the wanted columns.

    Args:
        source: "csv", "jsonl" or "parquet".
        wanted: the columns to read, by the settings key that names them.
        notes: counts corrected and omitted rows, by reason.
        delimiter: for CSV.
        quoting: for CSV: whether cells can be quoted.

    Raises:
        DataError: the file is not in its format, or lacks a column.
    """
    if source == "csv":
        return _csv(path, wanted, notes, delimiter, quoting)
    return _jsonl(path, wanted) if source == "jsonl" else _parquet(path, wanted)


def _csv(path: str, wanted: dict[str, str], notes: Counter[str], delimiter: str, quoting: bool) -> Iterator[Row]:
    text = _text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell can be as long as the file
    lines = io.StringIO(text, newline="")
    reader = csv.reader(
        lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    )
    header, long, before = None, [], 0
    try:
        for row in reader:
            first, before = before + 1, reader.line_num
            if not row:  # a blank line
                continue
            if not any(row) and len(row) == len(header or row):
                notes["no cell is filled, left out"] += 1
                continue
            if header is not None and before > first:
                long.append(f"{first} to {before}")
            if header is None:
                header = [name.strip() for name in row]
                _require(path, header, wanted, delimiter)
            elif len(row) != len(header):
                there = f"has {counted(len(row), 'cell')} where the header has {len(header)}"
                why = f"a cell with {delimiter!r} in it needs quotes" if quoting else "quotes are plain characters here"
                yield reader.line_num, f"{there} ({why})"
            elif odd := _odd("".join(row)):
                yield reader.line_num, odd
            else:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{named(path)}, line {reader.line_num}: not valid CSV ({error}).",
            'A cell with a comma or a quote needs quotes, and quotes in it are doubled: "a, ""b"". '
            f"If quotes are plain characters: {_letters(wanted)}.",
        ) from error
    if long:
        what = f"spans several lines (lines {some(long)}); if quotes are plain characters, {_letters(wanted)}"
        notes[what] += len(long)
    if header is None:
        raise DataError(f"{named(path)} is empty.", EXAMPLES["csv"])


def _letters(wanted: dict[str, str]) -> str:
    is_option = any(key.startswith("--") for key in wanted)
    return "save the texts as .txt, one per line" if is_option else "set data.quoting = false"


def _jsonl(path: str, wanted: dict[str, str]) -> Iterator[Row]:
    seen: set[str] = set()
    text = _text(path)
    lines = text.split("\n")
    _refuse_whole_json(path, text, lines)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if odd := _odd(line):
            yield number, odd
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            yield number, f"is not valid JSON ({error})"
            continue
        if not isinstance(row, dict):
            yield number, f"is {printable(line[:40])!r}, not a JSON object"
            continue
        seen |= row.keys()
        yield number, {column: row.get(column) for column in wanted.values()}
    if seen:
        _require(path, sorted(seen), wanted)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name in found if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{quoted(twice)} occurs twice")
    return found


def _refuse_whole_json(path: str, text: str, lines: list[str]) -> None:
    """Refuses a file that is one JSON value over several lines, or one list."""
    first = next((line for line in lines if line.strip()), "").lstrip()
    if not first.startswith(("[", "{")):
        return
    try:
        if isinstance(json.loads(first), dict):
            return
    except (ValueError, RecursionError):
        pass
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    what = "a JSON array" if isinstance(whole, list) else "one JSON object over several lines"
    raise DataError(
        f"{named(path)} is {what}, but JSON Lines is required: one object per line.",
        f"To convert it: jq -c '{'.[]' if isinstance(whole, list) else '.'}' FILE.json > FILE.jsonl",
    )


def _parquet(path: str, wanted: dict[str, str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        refuse_foreign(path)
        with pyarrow.parquet.ParquetFile(path) as file:
            _require(path, file.schema_arrow.names, wanted)
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(wanted.values()))):
                columns = {name: _cells(batch.column(name)) for name in batch.schema.names}
                for i in range(batch.num_rows):
                    number += 1
                    yield number, {name: cells[i] for name, cells in columns.items()}
    except OSError as error:
        raise DataError(f"{named(path)} cannot be read: {error.strerror or error}.") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{named(path)} cannot be read as Parquet: {named(str(error))}.") from error


def _cells(column: Any) -> list[Any]:
    """Returns the cells of a column as Python values; those of types that `cells` does not support as `Foreign`."""
    import pyarrow

    kinds = pyarrow.types
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kinds.is_string(column.type) or kinds.is_large_string(column.type):
        # These bytes may not be UTF-8.
        column = column.cast(pyarrow.large_binary() if kinds.is_large_string(column.type) else pyarrow.binary())
    if kinds.is_temporal(column.type):
        return [cells.Foreign(str(column.type)) if is_there else None for is_there in column.is_valid().to_pylist()]
    if kinds.is_float32(column.type):
        column = column.cast(pyarrow.string()).cast(pyarrow.float64())  # 0.1 stays 0.1
    try:
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException):
        found = [_cell(one) for one in column]
    return found


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:
        return cells.Foreign(str(scalar.type), str(error))


def refuse_foreign(path: str) -> None:
    """Raises OSError for anything but a regular file: a pipe could block, and a device never ends."""
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from error
    if not is_file:
        raise OSError(errno.EINVAL, "it is not a regular file")


def _text(path: str) -> str:
    """Returns a file's text; invalid UTF-8 stays in it as lone surrogates, which `_odd` finds in each row."""
    try:
        data = read_bounded(path, limits.TABLE, "a table")
    except OSError as error:
        raise DataError(f"The file {named(path)} cannot be read: {error.strerror}.") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _is_wide(data[:1000]):
        raise DataError(f"{named(path)} is UTF-16, not UTF-8.", _UTF8)
    return data.decode("utf-8-sig", "surrogateescape")


def _is_wide(data: bytes) -> bool:
    """Returns whether it looks like UTF-16 without a BOM: every other byte of Latin letters is NUL."""
    return any(half.count(0) > len(half) / 2 for half in (data[::2], data[1::2]))


def _odd(text: str) -> str | None:
    """Returns what is wrong with a text that holds invalid UTF-8, or None."""
    odd = next((ord(c) - 0xDC00 for c in text if "\udc80" <= c <= "\udcff"), None)
    return None if odd is None else f"byte {odd:#04x} is not UTF-8. {_UTF8}"


def _require(path: str, names: Iterable[str], wanted: dict[str, str], delimiter: str | None = None) -> None:
    """Raises DataError for a file that lacks a column, or has it twice."""
    there = list(names)
    hint = f"Its columns are: {some([shortened(printable(name)) for name in there], most=30)}"
    for key, column in wanted.items():
        if there.count(column) > 1:
            raise DataError(f"{named(path)}: there are {there.count(column)} columns {quoted(column)}.", hint)
        if column not in there:
            near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
            guess = f" (did you mean {quoted(near[0])}?)" if near else ""
            odd = next((d for d in ",;\t|" if delimiter and len(there) == 1 and d in there[0]), None)
            set_it = f"; give {key}" if key.startswith("--") else f"; set data.{key}"
            cure = f"; data.delimiter = {json.dumps(odd)} separates them" if odd else set_it
            raise DataError(f"{named(path)}: there is no column {quoted(column)}{guess}.", hint + cure)

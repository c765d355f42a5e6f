"""Rows of CSV, JSON Lines and Parquet files, with what is wrong with each."""

import codecs
import csv  # the standard library's: imports are absolute
import difflib
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from kerastune import assets
from kerastune.data.source import SPLITS, counted, read_file
from kerastune.errors import DataError, printable

Row = tuple[int, dict[str, Any] | str]
"""Line or row number, from 1; its cells by column, or what is wrong with it."""

_UTF8 = "Save the file as UTF-8 (in a spreadsheet: export as “CSV UTF-8”)."


def files(path: str, source: str) -> dict[str, str | None]:
    """The files of a data set, and the split that each holds (None: not said).

    Raises:
        DataError: there is no such file, folder or fetched asset.
    """
    if path in assets.ASSETS:
        if not assets.is_fetched(path):
            raise DataError(f"The asset {path!r} is not on this machine yet.", f"kerastune assets fetch {path}")
        path = str(assets.path(path))
    if not os.path.isdir(path):
        return {path: None}
    found: dict[str, str | None] = {
        os.path.join(path, f"{split}.{source}"): split
        for split in SPLITS
        if os.path.isfile(os.path.join(path, f"{split}.{source}"))
    }
    if "train" not in found.values():
        raise DataError(
            f"The folder {printable(path)} holds no train.{source}.",
            f"Name a file, or a folder with train.{source} and, if wanted, validation.{source} and test.{source}.",
        )
    return found


EXAMPLES = {
    "csv": "A minimal file:  text,label  /  where is Rome?,place  /  who wrote Emma?,person  (one row a line).",
    "jsonl": 'A minimal file:  {"text": "where is Rome?", "label": "place"}  (one object a line).',
    "parquet": "It needs a column of texts and a column of labels.",
}


def rows(path: str, source: str, wanted: dict[str, str], delimiter: str = ",") -> Iterator[Row]:
    """The rows of a file, each with its number and, at least, its cells of the wanted columns.

    Args:
        source: "csv", "jsonl" or "parquet".
        wanted: the columns to read, by the key of the settings that names them.
        delimiter: of CSV.

    Raises:
        DataError: the file is not what it is said to be, or lacks a column.
    """
    if source == "csv":
        return _csv(path, wanted, delimiter)
    return _jsonl(path, wanted) if source == "jsonl" else _parquet(path, wanted)


def _csv(path: str, wanted: dict[str, str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header = None
    try:
        for cells in reader:
            if not any(cells):  # blank lines are no rows
                continue
            if header is None:
                header = [name.strip() for name in cells]
                _require(path, header, wanted, delimiter)
            elif len(cells) != len(header):
                there = f"has {counted(len(cells), 'cell')} where the header has {len(header)}"
                yield reader.line_num, f"{there} (a cell with {delimiter!r} in it stands in quotes)"
            elif odd := _odd("".join(cells)):
                yield reader.line_num, odd
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{printable(path)}, line {reader.line_num}: not valid CSV ({error}).",
            'Cells with a comma or a quote stand in quotes, and a quote in them is doubled: "a, ""b"".',
        ) from error
    if header is None:
        raise DataError(f"{printable(path)} is empty.", EXAMPLES["csv"])


def _jsonl(path: str, wanted: dict[str, str]) -> Iterator[Row]:
    seen: set[str] = set()
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        if odd := _odd(line):
            yield number, odd
            continue
        try:
            row = json.loads(line)
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


def _parquet(path: str, wanted: dict[str, str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require(path, file.schema_arrow.names, wanted)
            number = 0
            for batch in file.iter_batches(columns=list(wanted.values())):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror or error}.") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{printable(path)} cannot be read as Parquet: {error}.") from error


def _text(path: str) -> str:
    """A file's text; bytes that are not UTF-8 stay in it as lone surrogates, which `_odd` finds in each row."""
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"The file {printable(path)} cannot be read: {error.strerror}.") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{printable(path)} is UTF-16, not UTF-8.", _UTF8)
    return data.decode("utf-8-sig", "surrogateescape")


def _odd(text: str) -> str | None:
    """What is wrong with a text that holds a byte that is not UTF-8."""
    odd = next((ord(c) - 0xDC00 for c in text if "\udc80" <= c <= "\udcff"), None)
    return None if odd is None else f"byte {odd:#04x} is not UTF-8. {_UTF8}"


def _require(path: str, names: Iterable[str], wanted: dict[str, str], delimiter: str | None = None) -> None:
    """Refuses a file that lacks a column, or has it twice."""
    there = list(names)
    hint = f"Its columns are: {printable(', '.join(there))}"
    for key, column in wanted.items():
        if there.count(column) > 1:
            raise DataError(f"{printable(path)}: there are {there.count(column)} columns {column!r}.", hint)
        if column not in there:
            near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            odd = next((d for d in ",;\t|" if delimiter and len(there) == 1 and d in there[0]), None)
            set_it = f"; give {key}" if key.startswith("--") else f"; set data.{key}"
            cure = f"; data.delimiter = {json.dumps(odd)} separates them" if odd else set_it
            raise DataError(f"{printable(path)}: there is no column {column!r}{guess}.", hint + cure)

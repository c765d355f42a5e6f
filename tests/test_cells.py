"""What data say is read by one rule, or refused with its row: never changed in silence."""

import csv
import datetime
import json
import os
from collections.abc import Callable
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune.data import cells, load
from kerastune.data.source import Problem
from kerastune.data.splits import Splits
from kerastune.errors import DataError
from kerastune.predicting import search
from kerastune.progress import Progress
from kerastune.recipe.sources import TableData

WORDS = ["elm", "oak", "fir", "ash", "yew", "bay"]
TEXTS = [" ".join(some) for some in combinations(WORDS, 3)] + [" ".join(some) for some in combinations(WORDS, 2)]
GOOD: list[tuple[Any, Any]] = [(text, "ab"[n % 2]) for n, text in enumerate(TEXTS)]


def read(path: Path, **settings: Any) -> Splits:
    values = {"source": path.suffix[1:], "path": str(path), "validation_fraction": 0.3, "test_fraction": 0.3}
    return load(TableData.model_validate(values | settings))


def jsonl(tmp_path: Path, rows: list[tuple[Any, Any]], **settings: Any) -> Splits:
    (path := tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    )
    return read(path, **settings)


def parquet(tmp_path: Path, **columns: Any) -> Splits:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path := tmp_path / "a.parquet")
    return read(path)


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    return str(caught.value)


# --- the rule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (" a ", " a "),
        (b"caf\xc3\xa9", "café"),
        (1, "1"),
        (1.0, "1"),
        (np.float32(1), "1"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (1e300, "1e+300"),
        (Decimal("1.50"), "1.5"),
        (2**70, str(2**70)),
        (10**400, str(10**400)),
        (True, "true"),
        (np.bool_(False), "false"),
    ],
)
def test_a_cell_has_one_text(cell: Any, expected: str) -> None:
    assert cells.text(cell, "label") == expected


@pytest.mark.parametrize("cell", [None, float("nan"), np.float64("nan"), Decimal("NaN"), "", " \t", b" "])
def test_what_is_missing_is_missing_in_every_type(cell: Any) -> None:
    assert cells.text(cell, "label") == Problem("", "has no label")
    assert cells.texts(cell, "|", "label") == ()


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (["a"], "of type list"),
        ({"a": 1}, "of type object"),
        (b"caf\xe9", "bytes that are not UTF-8 (byte 0xe9)"),
        ("half \ud83d", "half a character ('\\ud83d')"),
        (float("inf"), "no finite number"),
        (datetime.date(2020, 1, 1), "of type date"),
        (cells.Foreign("duration[ns]"), "of type duration[ns]"),
    ],
)
def test_what_is_no_text_is_refused_with_its_type(cell: Any, why: str) -> None:
    found = cells.text(cell, "label")
    assert isinstance(found, Problem) and why in found.text


@pytest.mark.parametrize(("cell", "expected"), [("1e3", 1000.0), (b" 2.5", 2.5), (3, 3.0), (Decimal("0.25"), 0.25)])
def test_numbers_are_read_from_every_type(cell: Any, expected: float) -> None:
    assert cells.number(cell, "label") == expected


@pytest.mark.parametrize("cell", [True, "1_000", "1,5", "nan", 1e300, 10**400, [1], None])
def test_what_is_no_number_of_a_model_is_refused(cell: Any) -> None:
    assert isinstance(cells.number(cell, "label"), Problem)


# --- JSON Lines --------------------------------------------------------------------------------------------


def test_bad_cells_are_listed_at_once_with_file_row_column_and_type(tmp_path: Path) -> None:
    bad = [("x", float("nan")), ("x", ["a", "b"]), ({"a": 1}, "a"), (["x"], "a"), ("y \ud83d", "a"), ("z", None)]
    text = refused(lambda: jsonl(tmp_path, [*GOOD, *bad]))
    assert text.startswith("6 problems in")
    first = len(GOOD) + 1
    assert f"a.jsonl, line {first}: has no label in column 'label'" in text
    assert f"line {first + 1}: the label is a list (['a', 'b']), not one label" in text
    assert f"line {first + 2}: the text is of type object" in text
    assert f"line {first + 3}: the text is of type list (['x']), which is not read as a text in column 'text'" in text
    assert f"line {first + 4}: the text holds half a character" in text
    assert len(jsonl(tmp_path, [*GOOD, *bad], skip_bad=True).skipped) == 6


def test_labels_of_several_types_become_texts_by_one_rule_and_a_note_says_so(tmp_path: Path) -> None:
    kinds = (1, "1", 1.0, True)
    rows = [(text, kinds[n % 4] if n % 8 < 4 else "b") for n, text in enumerate(TEXTS)]
    splits = jsonl(tmp_path, rows)
    assert splits.labels == ("1", "b", "true")
    (note,) = [note for note in splits.notes if "several types" in note]
    assert "text" in note and "whole number" in note and "truth value" in note


def test_a_list_is_several_labels_where_several_are_asked_for(tmp_path: Path) -> None:
    rows = [(text, (["vehicle", "old"], "old|red", [], ["red"])[n % 4]) for n, text in enumerate(TEXTS)]
    splits = jsonl(tmp_path, rows, label_separator="|")
    assert splits.labels == ("old", "red", "vehicle")
    assert {2, 0, 1} == {int(row.sum()) for row in splits.train.labels}
    assert "the label is of type list" in refused(lambda: jsonl(tmp_path, [*rows, ("x", [["a"]])], label_separator="|"))


def test_a_key_that_is_there_twice_is_a_problem(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text('{"text": "a", "label": "x", "label": "y"}\n{"text": "b", "label": "x"}')
    assert "line 1: is not valid JSON ('label' occurs twice)" in refused(lambda: read(path))


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_refused_in_one_sentence(tmp_path: Path, indent: int | None) -> None:
    rows = [{"text": text, "label": label} for text, label in GOOD]
    (path := tmp_path / "a.jsonl").write_text(json.dumps(rows, indent=indent))
    text = refused(lambda: read(path))
    assert "is a JSON array, but JSON Lines is required" in text and "problems" not in text and "jq -c '.[]'" in text


# --- Parquet -----------------------------------------------------------------------------------------------


def test_binary_columns_are_decoded(tmp_path: Path) -> None:
    texts = [f"{text} café".encode() for text, _ in GOOD]
    splits = parquet(tmp_path, text=texts, label=[(b"caf\xc3\xa9", b"th\xc3\xa9")[n % 2] for n in range(len(texts))])
    assert splits.labels == ("café", "thé")
    assert str(splits.train.example(0)[0]).endswith("café")


def test_texts_that_are_no_utf8_are_listed_with_their_row(tmp_path: Path) -> None:
    import pyarrow

    texts = [text.encode() for text, _ in GOOD]
    texts[2] = b"caf\xe9"
    unchecked = pyarrow.array(texts).view(pyarrow.string())
    text = refused(lambda: parquet(tmp_path, text=unchecked, label=[label for _, label in GOOD]))
    assert "a.parquet, row 3: the text is bytes that are not UTF-8 (byte 0xe9) in column 'text'" in text


@pytest.mark.parametrize("kind", ["date32", "timestamp_ns", "duration"])
def test_times_are_refused_with_column_row_and_type(tmp_path: Path, kind: str) -> None:
    import pyarrow

    types = {"date32": pyarrow.date32(), "timestamp_ns": pyarrow.timestamp("ns"), "duration": pyarrow.duration("ns")}
    there = pyarrow.array([2**30, None, 5] * 7, pyarrow.int32() if kind == "date32" else pyarrow.int64())
    text = refused(lambda: parquet(tmp_path, text=TEXTS[:21], label=there.cast(types[kind])))
    assert f"row 1: the label is of type {types[kind]}, which is not read as a text in column 'label'" in text
    assert "row 2: has no label" in text


def test_numbers_of_parquet_keep_their_text(tmp_path: Path) -> None:
    import pyarrow

    values = pyarrow.array([(0.1, 2.0)[n % 2] for n in range(len(TEXTS))], pyarrow.float32())
    assert parquet(tmp_path, text=TEXTS, label=values).labels == ("0.1", "2")


# --- CSV ---------------------------------------------------------------------------------------------------


def test_quotes_are_letters_where_the_recipe_says_so(tmp_path: Path) -> None:
    rows = [f'"{text}\t{label}' if n % 5 == 0 else f"{text}\t{label}" for n, (text, label) in enumerate(GOOD)]
    (path := tmp_path / "a.csv").write_text("\n".join(["text\tlabel", *rows]))
    splits = read(path, delimiter="\t", quoting=False)
    found = [
        str(part.example(i)[0]) for part in (splits.train, splits.validation, splits.test) for i in range(len(part))
    ]
    assert len(found) == len(GOOD) and sum(text.startswith('"') for text in found) == len(GOOD) // 5


def test_rows_that_span_lines_are_named(tmp_path: Path) -> None:
    with (path := tmp_path / "a.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), *GOOD, ("two\nlines\nmore", "a")])
    (note,) = read(path).notes
    assert note.startswith(f"1 row: spans several lines (lines {len(GOOD) + 2} to {len(GOOD) + 4})")
    assert "data.quoting = false" in note


def test_a_cell_may_be_as_long_as_the_file(tmp_path: Path) -> None:
    with (path := tmp_path / "a.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), *GOOD, ("tree " * 60_000, "a")])
    splits = read(path)
    sizes = [len(part.read(i)) for part in (splits.train, splits.validation, splits.test) for i in range(len(part))]
    assert max(sizes) > 299_000


def test_rows_without_a_filled_cell_are_counted(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("text,label\n" + "\n".join(map(",".join, GOOD)) + "\n,\n\n,\n")
    assert read(path).notes == ("2 rows: no cell is filled, left out",)


# --- labels that look alike --------------------------------------------------------------------------------


def test_labels_are_brought_to_one_form_or_named(tmp_path: Path) -> None:
    forms = ("caf\u00e9", "cafe\u0301", "Caf\u00e9", "caf\u00e9 ", "ca\u200bf\u00e9", "tea")
    splits = jsonl(tmp_path, [(text, forms[n % 6]) for n, text in enumerate(TEXTS)], test_fraction=0.2)
    assert splits.labels == ("Café", "café", "ca\u200bfé", "tea")
    normal, alike = splits.notes[:2]
    assert normal.startswith("12 examples: label without outer spaces and in Unicode's composed form")
    assert alike == "labels that look alike, kept apart: 'Café' and 'café' and 'ca\\u200bfé'"


# --- files that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, source: str) -> None:
    os.mkfifo(path := tmp_path / f"a.{source}")
    assert "it is not a regular file" in refused(lambda: read(path))


@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
def test_a_device_is_not_read_for_ever(tmp_path: Path, source: str) -> None:
    (path := tmp_path / f"a.{source}").symlink_to("/dev/zero")
    assert "it is not a regular file" in refused(lambda: read(path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused_with_and_without_its_mark(tmp_path: Path, encoding: str) -> None:
    (path := tmp_path / "a.csv").write_text("text,label\nbirch,tree\n", encoding)
    assert "is UTF-16, not UTF-8" in refused(lambda: read(path))


# --- search ------------------------------------------------------------------------------------------------


def test_a_search_reads_cells_by_the_same_rule(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text(
        '{"text": "oak"}\n{"text": ["fir"]}\n{"text": NaN}\n{"text": "\\ud83d"}\n{"text": 7}\n'
    )
    text = refused(lambda: search._texts(path, Progress(), "text"))
    assert "line 2: the text is of type list" in text and "line 3: has no text" in text
    assert "line 4: the text holds half a character" in text and "line 5" not in text

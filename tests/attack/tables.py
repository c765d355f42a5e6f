"""Tables of texts: CSV, JSON Lines and Parquet with typed, damaged and odd cells."""

import csv
import datetime
import io
import json
import math
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from attack.campaign import Trial
from attack.expected import (
    Expected,
    Random,
    Row,
    accounted,
    content_of,
    label_of,
    loaded,
    number_of,
    row_of,
    settings,
    shuffled,
    text_of,
)

ODD_TEXTS = [
    *(
        "a, b",
        'he said "no"',
        '"quoted"',
        "a;b\tc|d",
        "two\nlines",
        "cr\rlf\r\n",
        "  spaces  ",
        "\u00a0nbsp\u00a0",
        "\u2028ls",
    ),
    *(
        "\ufeffbom",
        "nul\0inside",
        "e\u0301",
        "\u00e9",
        "👩‍👩‍👧",
        "\u202eevil",
        "x" * 200_000,
        "NaN",
        "null",
        "None",
        "True",
        "-0",
    ),
    *(
        "{'a': 1}",
        "[1, 2]",
        "\\u0041",
        "\\",
        "'",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "=cmd()",
        "\u200b",
        "ﬁ",
        "İ",
        "1_000",
        "１２",
    ),
]
MISSING: list[Any] = ["", " ", "\t\n", "\u00a0"]
JSON_CELLS: list[Any] = [
    *(
        None,
        math.nan,
        math.inf,
        -math.inf,
        True,
        False,
        0,
        1,
        1.0,
        0.5,
        -0.0,
        1e300,
        10**30,
        2**63,
        1e-7,
        123456789.125,
    ),
    *([], ["a"], ["a", "b"], [None], {}, {"a": 1}, "\ud83d", "a\udc00", [[[]]]),
    *MISSING,
]


def clean(random: Random, count: int = 30) -> list[Row]:
    """Rows that can be read, of two labels."""
    return [(f"text {n} {random.integers(10**9)}", ("one", "two")[n % 2]) for n in range(count)]


def hostile(random: Random, cells: list[Any], count: int) -> list[Row]:
    """Rows with an odd cell; each label twice, so that its examples are not left out as single ones."""
    rows: list[Row] = []
    for _ in range(count):
        cell = cells[random.integers(len(cells))]
        if random.random() < 0.5:
            rows.append((cell, "one"))
        else:
            rows += [(f"odd {random.integers(10**9)}", cell), (f"odd {random.integers(10**9)}", cell)]
    unique, seen = [], set()
    for text, label in rows:
        key = content_of(text)
        if key is None or key not in seen:
            unique.append((text, label))
        seen.add(key)
    by_label: dict[Any, int] = {}
    for row in unique:
        by_label[label_of(row[1])] = by_label.get(label_of(row[1]), 0) + (content_of(row[0]) is not None)
    return [row for row in unique if label_of(row[1]) in (None, "one", "two") or by_label[label_of(row[1])] > 1]


# --- CSV ---------------------------------------------------------------------------------------------------


def written_csv(random: Random, folder: Path, n: int) -> Trial:
    """A CSV in one of its dialects."""
    plain = random.random() < 0.3
    odd = [one for one in [*ODD_TEXTS, *MISSING] if not plain or not re.search(r"[\n\r\t]", one)]
    rows = shuffled(random, [*clean(random), *hostile(random, odd, 6)])
    delimiter = "\t" if plain else str(random.choice([",", ";", "\t", "|"]))
    end = str(random.choice(["\n", "\r\n"]))
    if plain:
        rows = [(a.replace("\x85", "").replace("\u2028", ""), b) for a, b in rows]
        lines = [f"text{delimiter}label", *(f"{a}{delimiter}{b}" for a, b in rows)]
        text = end.join(lines) + end
    else:
        file = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if random.random() < 0.5 else csv.QUOTE_MINIMAL
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerows([("text", "label"), *rows])
        text = file.getvalue()
    bom = random.random() < 0.3
    path = folder / "a.csv"

    def run() -> None:
        path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
        expected: Expected = {}
        line = 1
        for text_cell, label in rows:
            cells = f"{text_cell}{label}"
            line += 1 if plain else 1 + len(re.findall(r"\r\n|\r|\n", cells))
            expected[f"a.csv, line {line}"] = row_of((text_cell, label), label_of)
        data = {"source": "csv", "path": str(path), "delimiter": delimiter, "quoting": not plain}
        accounted(data, "text_classification", expected)

    return Trial(f"csv {n}, {delimiter!r}, {'no quotes' if plain else 'quotes'}, {end!r}", run, "work")


# --- JSON Lines --------------------------------------------------------------------------------------------


def written_jsonl(random: Random, folder: Path, n: int) -> Trial:
    """JSON Lines with every type of JSON."""
    kind = str(random.choice(["label", "number", "labels"]))
    rows = [*clean(random), *hostile(random, [*ODD_TEXTS, *JSON_CELLS], 8)]
    label: Callable[[Any], Any] = label_of
    data: dict[str, Any] = {"source": "jsonl", "path": str(folder / "a.jsonl")}
    if kind == "number":
        rows = [
            (text, float(i) if isinstance(given, str) and given in ("one", "two") else given)
            for i, (text, given) in enumerate(rows)
        ]
        label, data = number_of, data | {"regression": True}
    elif kind == "labels":
        rows = [(text, [given, "both"] if given == "two" else given) for text, given in rows]
        label, data = _labels_of, data | {"label_separator": ";"}
        rows = [row for row in rows if row[1] in ("one", ["two", "both"]) or label(row[1]) in (None, ())]
    rows = shuffled(random, rows)
    ascii_only = random.random() < 0.5

    def run() -> None:
        lines = []
        for text_cell, given in rows:
            line = json.dumps({"text": text_cell, "label": given, "more": [1]}, ensure_ascii=ascii_only)
            lines.append(line.encode("utf-8", "surrogatepass"))
        (folder / "a.jsonl").write_bytes(b"\r\n".join(lines) if n % 2 else b"\n\n".join(lines))
        step = 1 if n % 2 else 2
        expected = {f"a.jsonl, line {1 + i * step}": row_of(row, label) for i, row in enumerate(rows)}
        accounted(data, "text_classification", expected)

    return Trial(f"jsonl {n} of {kind}s", run, "work")


def _labels_of(cell: Any) -> tuple[str, ...] | None:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip()):
        return ()
    if isinstance(cell, list):
        found = [label_of(one) for one in cell]
        return None if None in found else tuple(sorted(set(found)))  # type: ignore[arg-type]
    given = text_of(cell)
    return None if given is None else tuple(sorted({label_of(one) or "" for one in given.split(";")} - {""}))


LINES = [
    *(
        b"{",
        b"nonsense",
        b"{'text': 'a', 'label': 'one'}",
        b'{"text": "a", "label": "one",}',
        b"null",
        b"3",
        b'"text"',
        b"[]",
    ),
    *(
        b'{"text": "a", "text": "b", "label": "one"}',
        b'{"text": "caf\xe9", "label": "one"}',
        b'{"text": "a\xff", "label": "one"}',
    ),
    *(
        b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b', "label": "one"}',
        b'{"text": "a", "label": ' + b"9" * 5000 + b"}",
    ),
    *(
        b'{"text": "a\tb", "label": "one"}',
        b'{"text": "\\ud83d", "label": "one"}',
        b'{"label": "one"}',
        b'{"text": "a"}',
        b"{}",
    ),
    *(
        b'{"text": "a", "label": 1e999}',
        b'{"text": NaN, "label": "one"}',
        b"\x00" * 50,
        b'{"TEXT": "a", "label": "one"}',
    ),
    *(b"x" * 100_000, b'{"text": "a", "label": {"name": "one"}}', b'{"text": ["a"], "label": "one"}', b"// comment"),
]


def damaged_jsonl(random: Random, folder: Path, n: int) -> Trial:
    """JSON Lines with some lines that are none."""
    rows = clean(random)
    bad = [LINES[i] for i in random.permutation(len(LINES))[:3]]
    lines = [json.dumps({"text": text, "label": label}).encode() for text, label in rows]
    order = shuffled(random, [*zip(lines, rows, strict=True), *((line, None) for line in bad)])
    first = next(i for i, one in enumerate(order) if one[1])
    order[0], order[first] = order[first], order[0]

    def run() -> None:
        (folder / "b.jsonl").write_bytes(b"\n".join(line for line, _ in order))
        expected = {f"b.jsonl, line {i}": row and ([row[0]], row[1]) for i, (_, row) in enumerate(order, start=1)}
        accounted({"source": "jsonl", "path": str(folder / "b.jsonl")}, "text_classification", expected)

    return Trial(f"jsonl {n} with {[line[:40] for line in bad]}", run, "work")


# --- Parquet -----------------------------------------------------------------------------------------------


def columns(random: Random) -> list[tuple[str, Any, list[Any] | None]]:
    """Columns of every Arrow type: its name, four cells, and what they are read as (None: all refused)."""
    import pyarrow as pa

    def made(values: list[Any], kind: Any) -> Any:
        return pa.array(values, kind)

    words = ["one", "two", "caf\u00e9", None]
    day, moment = datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 1, 2, 3)
    bad_utf8 = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(struct.pack("5i", 0, 1, 2, 3, 4)), pa.py_buffer(b"a\xffbc")]
    )
    decimals = [Decimal("1.50"), Decimal("2.00"), Decimal("-0.001"), None]
    return [
        ("string", made(words, pa.string()), words),
        ("large_string", made(words, pa.large_string()), words),
        ("string_view", made(words, pa.string_view()), words),
        ("binary", made([w and w.encode() for w in words], pa.binary()), words),
        ("binary_view", made([w and w.encode() for w in words], pa.binary_view()), words),
        ("large_binary", made([b"a", b"\xff", b"", None], pa.large_binary()), ["a", None, None, None]),
        ("fixed", made([b"abc", b"def", b"\xff\xfe\xfd", None], pa.binary(3)), ["abc", "def", None, None]),
        ("dictionary", made(words, pa.string()).dictionary_encode(), words),
        ("bad string", bad_utf8, ["a", None, "b", "c"]),
        ("int8", made([-1, 0, 127, None], pa.int8()), ["-1", "0", "127", None]),
        ("uint64", made([0, 1, 2**64 - 1, None], pa.uint64()), ["0", "1", str(2**64 - 1), None]),
        ("float32", made([0.1, 2.0, math.nan, math.inf], pa.float32()), ["0.1", "2", None, None]),
        ("float64", made([0.1, -0.0, math.nan, 1e300], pa.float64()), ["0.1", "0", None, "1e+300"]),
        ("float16", made(np.array([0.5, 2, 3, 4], np.float16), pa.float16()), ["0.5", "2", "3", "4"]),
        ("bool", made([True, False, None, True], pa.bool_()), ["true", "false", None, "true"]),
        ("decimal128", made(decimals, pa.decimal128(20, 3)), ["1.5", "2", "-0.001", None]),
        ("decimal256", made(decimals, pa.decimal256(50, 3)), ["1.5", "2", "-0.001", None]),
        ("null", made([None] * 4, pa.null()), None),
        ("date32", made([day] * 4, pa.date32()), None),
        ("far date", pa.array([2**30] * 4, pa.int32()).cast(pa.date32()), None),
        ("timestamp", made([moment] * 4, pa.timestamp("ns", "UTC")), None),
        ("time", made([3] * 4, pa.time64("ns")), None),
        ("duration", made([2**62] * 4, pa.duration("s")), None),
        ("list", made([["a"], [], None, ["b", "c"]], pa.list_(pa.string())), None),
        ("struct", made([{"a": 1}] * 4, pa.struct([("a", pa.int64())])), None),
        ("map", made([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())), None),
        ("list of times", made([[moment]] * 4, pa.list_(pa.timestamp("ns"))), None),
        ("far times in lists", made([[2**62]] * 4, pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("us"))), None),
    ]


def written_parquet(random: Random, folder: Path, n: int) -> Trial:
    """Parquet with a text or label column of any Arrow type, in several row groups."""
    found = columns(random)
    name, column, read = found[n % len(found)]
    as_label = bool(random.random() < 0.6)
    path = folder / "a.parquet"

    def run() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        want: list[Any] = read or [None] * 4
        count = 24
        cells = pa.concat_arrays([column] * (count // 4)) if as_label else column
        other = [f"text {i}" for i in range(len(cells))]
        if as_label:
            table = pa.table({"text": other, "label": cells})
            kept = {f"a.parquet, row {i + 1}": want[i % 4] and ([other[i]], want[i % 4]) for i in range(len(cells))}
        else:
            more, labels = clean(random), ["one", "two"] * 2
            texts = column.cast(pa.string()) if name == "dictionary" else column
            table = pa.table({"text": texts, "label": labels})
            kept = {f"a.parquet, row {i + 1}": want[i] and ([want[i]], labels[i]) for i in range(4)}
            folder_of = folder / f"parts{n}"
            folder_of.mkdir(exist_ok=True)
            pq.write_table(table, folder_of / "train.parquet")
            for split, rows in (("validation", more[:10]), ("test", more[10:])):
                made = pa.table({"text": [a for a, _ in rows], "label": [b for _, b in rows]})
                pq.write_table(made, folder_of / f"{split}.parquet")
            kept = {id.replace("a.parquet", "train.parquet"): values for id, values in kept.items()}
            for split, rows in (("validation", more[:10]), ("test", more[10:])):
                kept |= {f"{split}.parquet, row {i}": ([a], b) for i, (a, b) in enumerate(rows, start=1)}
            _accounted_or_refused({"source": "parquet", "path": str(folder_of)}, kept)
            return
        pq.write_table(table, path, row_group_size=7)
        _accounted_or_refused({"source": "parquet", "path": str(path)}, kept)

    return Trial(f"parquet {n}: a {'label' if as_label else 'text'} of type {name}", run)


def _accounted_or_refused(data: dict[str, Any], expected: Expected) -> None:
    """As `accounted`; with too few labels or examples left, a refusal is right."""
    left: dict[Any, int] = {}
    for id, values in expected.items():
        if values and not id.startswith(("validation", "test")):
            left[values[1]] = left.get(values[1], 0) + 1
    if len(left) < 2 or min(left.values()) < 2:
        loaded(settings("text_classification", data))
        raise AssertionError("read although there are too few examples")
    accounted(data, "text_classification", expected)


def flipped(random: Random, folder: Path, n: int) -> Trial:
    """Parquet, CSV or JSON Lines with bytes flipped, cut or doubled: refused, or read without a traceback."""
    source = ("parquet", "jsonl", "csv")[n % 3]
    path = folder / f"flipped.{source}"

    def run() -> None:
        rows = clean(random)
        if source == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"text": [a for a, _ in rows], "label": [b for _, b in rows]}), path)
        elif source == "jsonl":
            path.write_text("\n".join(json.dumps({"text": a, "label": b}) for a, b in rows))
        else:
            path.write_text("text,label\n" + "\n".join(f'"{a}",{b}' for a, b in rows))
        data = bytearray(path.read_bytes())
        for at in random.integers(0, len(data), random.integers(1, 6)):
            data[at] ^= 1 << int(random.integers(8))
        if random.random() < 0.3:
            del data[int(random.integers(len(data))) :]
        path.write_bytes(data)
        loaded(settings("text_classification", {"source": source, "path": str(path)}))

    return Trial(f"{source} {n} with bits flipped", run)

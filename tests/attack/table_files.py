"""Files that are no tables, or odd ones, and what can stand where a table should."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from attack.campaign import Trial
from attack.expected import loaded, settings


def by_hand(folder: Path) -> Iterator[Trial]:
    good = "text,label\n" + "\n".join(f"t{i},{'ab'[i % 2]}" for i in range(40))
    lines = "\n".join(json.dumps({"text": f"t{i}", "label": "ab"[i % 2]}) for i in range(40))
    files: list[tuple[str, str | bytes, str]] = [
        ("good.csv", good, "work"),
        ("cr.csv", good.replace("\n", "\r"), "work"),
        ("cell of 5 MB.csv", good + "\n" + "x" * 5_000_000 + ",a", "work"),
        ("quoted header.csv", good.replace("text,label", '"text","label"'), "work"),
        ("spaces in header.csv", good.replace("text,label", " text , label "), "work"),
        ("utf16.csv", good.encode("utf-16"), "refuse"),
        ("utf16le.csv", good.encode("utf-16-le"), "refuse"),
        ("utf16be.csv", good.encode("utf-16-be"), "refuse"),
        ("utf32.csv", good.encode("utf-32"), "refuse"),
        ("latin.csv", good.replace("t3", "caf\xe9").encode("latin-1"), "refuse"),
        ("empty.csv", "", "refuse"),
        ("newlines.csv", "\n\n\n", "refuse"),
        ("header.csv", "text,label\n", "refuse"),
        ("one column.csv", "text\na\nb\n", "refuse"),
        ("semicolons.csv", good.replace(",", ";"), "refuse"),
        ("twice.csv", good.replace("text,label", "text,text"), "refuse"),
        ("no header.csv", good.split("\n", 1)[1], "refuse"),
        ("open quote.csv", good + '\n"never closed,a', "refuse"),
        ("ragged.csv", good + "\na,b,c\nd", "refuse"),
        ("parquet.csv", b"PAR1" + bytes(range(256)) * 4 + b"PAR1", "refuse"),
        ("zip.csv", b"PK\x03\x04" + bytes(200), "refuse"),
        ("gzip.csv", b"\x1f\x8b\x08" + os.urandom(300), "refuse"),
        ("20,000 columns.csv", ",".join(f"c{i}" for i in range(20_000)) + "\n", "refuse"),
        ("1 MB of column.csv", "c" * 1_000_000 + ",label\na,b\n", "refuse"),
        ("escapes in header.csv", "\x1b[31mtext,label\na,b\n", "refuse"),
        ("1 MB of label.csv", good + "\nx," + "l" * 1_000_000, "refuse"),
        ("200 bad rows.csv", good + "\n,a" * 200, "refuse"),
        ("good.jsonl", lines, "work"),
        ("bom.jsonl", "\ufeff" + lines, "work"),
        ("array.jsonl", "[" + lines.replace("\n", ",\n") + "]", "refuse"),
        ("array in one line.jsonl", "[" + lines.replace("\n", ",") + "]", "refuse"),
        ("one object.jsonl", json.dumps({"rows": [1]}, indent=2), "refuse"),
        ("csv.jsonl", good, "refuse"),
        ("yaml.jsonl", "- text: a\n  label: b\n" * 30, "refuse"),
        ("utf16.jsonl", lines.encode("utf-16"), "refuse"),
        ("utf16le.jsonl", lines.encode("utf-16-le"), "refuse"),
        ("empty.jsonl", "", "refuse"),
        ("empty objects.jsonl", "{}\n" * 30, "refuse"),
        ("1 MB of key.jsonl", json.dumps({"k" * 1_000_000: 1}), "refuse"),
        ("nested.jsonl", "[" * 1_000_000, "refuse"),
        ("truncated.parquet", b"PAR1", "refuse"),
        ("csv.parquet", good, "refuse"),
        ("empty.parquet", "", "refuse"),
        ("footer.parquet", b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31) + b"PAR1", "refuse"),
    ]
    for name, content, must in files:

        def run(name: str = name, content: str | bytes = content) -> None:
            path = folder / name
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            loaded(settings("text_classification", {"source": path.suffix[1:], "path": str(path)}))

        yield Trial(f"the file {name}", run, must)
    yield from odd_paths(folder)


def odd_paths(folder: Path) -> Iterator[Trial]:
    """What can stand where a table should."""
    for source in ("csv", "jsonl", "parquet"):
        where = folder / f"paths {source}"
        where.mkdir()
        os.mkfifo(where / "pipe")
        (where / "folder").mkdir()
        (where / "loop").symlink_to(where / "loop")
        (where / "device").symlink_to("/dev/zero")
        (where / "nowhere").symlink_to(where / "nothing")
        for path in [*sorted(map(str, where.iterdir())), str(where / "x\x1b[31m"), "d/" * 2000, "n" * 300, "\udcff"]:

            def run(source: str = source, path: str = path) -> None:
                loaded(settings("text_classification", {"source": source, "path": path}))

            yield Trial(f"{source} at {path!r:.80}", run, "refuse")
    splits = folder / "splits"
    splits.mkdir()
    (splits / "train.csv").write_text("text,label\n" + "\n".join(f"t{i},{'ab'[i % 2]}" for i in range(40)))
    os.mkfifo(splits / "test.csv")
    yield Trial("a folder whose test.csv is a pipe", lambda: _must_not_be_lost(splits), "refuse")


def _must_not_be_lost(folder: Path) -> None:
    loaded(settings("text_classification", {"source": "csv", "path": str(folder)}))

"""What must become of data: every example with its exact values, or listed; and the rule for cells, a second time."""

import json
import math
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from kerastune.data import Splits, load
from kerastune.errors import KerastuneError
from kerastune.recipe import Data, parse

Random = np.random.Generator
Row = tuple[Any, Any]  # the cells of the text and the label
Expected = dict[str, tuple[Any, Any] | None]
"""By a row's id: its texts and its label; None if it must be refused."""

SPLIT_NAMES = ("train", "validation", "test")


def settings(task: str, data: dict[str, Any]) -> Data:
    """The [data] table of a recipe."""
    values = {"name": "attack", "task": task, "preset": "none", "data": data, "phases": [{"unfreeze": "all"}]}
    return parse(values, "attack").data


def loaded(data: Data) -> Splits:
    """Reads data; asserts that a refusal is printable, short and names a cure or a place."""
    try:
        splits = load(data)
    except KerastuneError as error:
        said = str(error)
        assert all(c.isprintable() or c == "\n" for c in said), f"unprintable: {said[:300]!a}"
        raise
    assert all(len(note) < 2000 and note.isprintable() for note in splits.notes), f"a note: {splits.notes!a:.500}"
    return splits


def examples(splits: Splits) -> dict[str, tuple[Any, Any]]:
    """Every example by its id: what it holds, and its truth in words."""
    found = {}
    for name in SPLIT_NAMES:
        split = getattr(splits, name)
        for i, id in enumerate(split.ids):
            assert id not in found, f"{id} is in two splits"
            found[id] = (json.loads(split.read(i)), truth(splits, split.truth.name, split.labels[i]))
    return found


def truth(splits: Splits, kind: str, label: Any) -> Any:
    if kind in ("label", "groups"):
        return splits.labels[int(label)]
    if kind == "labels":
        return tuple(sorted(splits.labels[i] for i in np.flatnonzero(label)))
    return float(label[0]) if kind in ("number", "scores") else None


def accounted(data: dict[str, Any], task: str, expected: Expected) -> None:
    """Asserts that every row is there with its exact values, or is listed as a problem; and nothing else is there."""
    bad = {id for id, values in expected.items() if values is None}
    if bad:
        try:
            loaded(settings(task, data))
        except KerastuneError as error:
            assert len(bad) > 5 or all(id in str(error) for id in bad), f"{bad} not all in {str(error)[:300]!r}"
        else:
            raise AssertionError(f"read although {sorted(bad)[:3]} are bad")
    splits = loaded(settings(task, {**data, "skip_bad": True}))
    found, skipped = examples(splits), {one["id"] for one in splits.skipped}
    assert set(found) | skipped == set(expected), f"lost or added: {sorted((set(found) | skipped) ^ set(expected))[:5]}"
    assert not set(found) & skipped
    assert skipped == bad, f"of the refused and the bad: {sorted(skipped ^ bad)[:5]}: {splits.skipped[:3]}"
    for id, values in found.items():
        assert values == expected[id], f"{id} is {values!r:.200}, not {expected[id]!r:.200}"


# --- the rule for cells, written a second time -------------------------------------------------------------


def text_of(cell: Any) -> str | None:
    """The text that a cell is read as; None if it must be refused, or is missing."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bytes):
        try:
            cell = cell.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return None
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**63 else repr(cell)
    if isinstance(cell, Decimal):
        return None if not cell.is_finite() else format(cell.normalize(), "f") if cell % 1 else str(int(cell))
    if not isinstance(cell, str) or re.search("[\ud800-\udfff]", cell):
        return None
    return cell


def content_of(cell: Any) -> str | None:
    found = text_of(cell)
    return (found.replace("\0", "").strip() or None) if found is not None else None


def label_of(cell: Any) -> str | None:
    found = text_of(cell)
    return (unicodedata.normalize("NFC", found).strip() or None) if found is not None else None


def number_of(cell: Any) -> float | None:
    found = text_of(cell)
    if (
        found is None
        or isinstance(cell, bool)
        or not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", found)
    ):
        return None
    value = float(found)
    return float(np.float32(value)) if abs(value) <= float(np.finfo(np.float32).max) else None


def row_of(row: Row, label: Callable[[Any], Any]) -> tuple[Any, Any] | None:
    content, given = content_of(row[0]), label(row[1])
    return None if content is None or given is None else ([content], given)


def shuffled(random: Random, rows: list[Any]) -> list[Any]:
    return [rows[i] for i in random.permutation(len(rows))]

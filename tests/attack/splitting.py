"""Rows with copies, groups and declared splits; and pairs, triples, groups and scores of texts."""

import json
import math
from pathlib import Path
from typing import Any

from attack.campaign import Trial
from attack.expected import (
    SPLIT_NAMES,
    Expected,
    Random,
    accounted,
    content_of,
    label_of,
    loaded,
    number_of,
    settings,
    shuffled,
)
from attack.tables import MISSING
from kerastune.data import Splits


def split_rows(random: Random, folder: Path, n: int) -> Trial:
    """Rows with copies, groups and declared splits: nothing is in two splits, shares hold, no row is lost."""
    count, labels = int(random.integers(30, 200)), int(random.integers(2, 5))
    grouped, declared = bool(n % 2), bool(n % 3 == 0)
    copies = int(random.integers(0, 10))
    rows = [{"text": f"{i} {random.integers(10**9)}", "label": f"l{i % labels}"} for i in range(count)]
    rows += [dict(rows[i]) for i in random.integers(0, count, copies)]
    for row in rows:
        if grouped:
            row["group"] = f"g{int(row['text'].split()[0]) // 3}"
        if declared:
            row["split"] = "test" if int(row["text"].split()[0]) // 3 % 5 == 0 else "train"
    share = float(random.choice([0.1, 0.15, 0.3]))

    def read(given: list[dict[str, Any]]) -> tuple[Splits, dict[str, set[str]]]:
        path = folder / "split.jsonl"
        path.write_text("\n".join(map(json.dumps, given)))
        data = {"source": "jsonl", "path": str(path), "validation_fraction": share, "test_fraction": share}
        data |= {"group_column": "group"} if grouped else {}
        data |= {"split_column": "split"} if declared else {}
        splits = loaded(settings("text_classification", data))
        texts = {name: {json.loads(part.read(i))[0] for i in range(len(part))} for name, part in parts(splits)}
        return splits, texts

    def run() -> None:
        splits, texts = read(rows)
        assert sum(len(part) for _, part in parts(splits)) == len(rows), splits.notes
        assert sum(map(len, texts.values())) == len({row["text"] for row in rows}), "one text in two splits"
        assert read(shuffled(random, rows))[1] == texts, "the order of rows changes the splits"
        if grouped:
            where = {}
            for row in rows:
                split = next(name for name in texts if row["text"] in texts[name])
                assert where.setdefault(row["group"], split) == split, f"group {row['group']} is torn"
        if declared:
            wrong = [r for r in rows if (r["split"] == "test") != (r["text"] in texts["test"])]
            assert not wrong, wrong[:2]
        elif not grouped and not copies:
            for name in ("validation", "test"):
                for label, held in held_by(splits, name):
                    total = sum(row["label"] == label for row in rows)
                    assert abs(held - share * total) <= max(1, share * total / 2), (
                        f"{held} of {total} {label} in {name}"
                    )

    return Trial(f"splits {n}: {count} rows, {labels} labels, grouped {grouped}, declared {declared}", run, "work")


def parts(splits: Splits) -> list[tuple[str, Any]]:
    return [(name, getattr(splits, name)) for name in SPLIT_NAMES]


def held_by(splits: Splits, name: str) -> list[tuple[str, int]]:
    part = getattr(splits, name)
    return [(label, int((part.labels == i).sum())) for i, label in enumerate(splits.labels)]


def embedded(random: Random, folder: Path, n: int) -> Trial:
    """Pairs, triples, groups and scores, with odd cells."""
    kind = ("pairs", "triples", "groups", "scores")[n % 4]
    keys = {
        "pairs": {"anchor_column": "a", "positive_column": "b"},
        "triples": {"anchor_column": "a", "positive_column": "b", "negative_column": "c"},
        "groups": {"text_column": "a", "label_column": "d"},
        "scores": {"text_column": "a", "pair_column": "b", "score_column": "s"},
    }[kind]
    odd = [*MISSING, None, ["x"], "\ud83d", math.nan, {"a": 1}, True, 3, 0.5, "  y  ", "e\u0301"]
    rows: list[dict[str, Any]] = [
        {"a": f"a{i}", "b": f"b{i}", "c": f"c{i}", "d": f"d{i % 3}", "s": i / 7} for i in range(60)
    ]
    for i in random.integers(0, 60, 4):
        key = str(random.choice(["a", "b", "c", "s"]))
        rows[i][key] = odd[random.integers(len(odd))]

    def run() -> None:
        path = folder / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        expected: Expected = {}
        for i, row in enumerate(rows, start=1):
            names = [keys[key] for key in keys if key not in ("label_column", "score_column")]
            texts = [content_of(row[name]) for name in names]
            given = {"groups": label_of, "scores": number_of}.get(kind, lambda cell: 0)(
                row["d" if kind == "groups" else "s"]
            )
            bad = None in texts or given is None or (kind == "triples" and texts[1] == texts[2])
            expected[f"pairs.jsonl, line {i}"] = (
                None if bad else (texts, None if kind in ("pairs", "triples") else given)
            )
        contents = [str(values[0]) for values in expected.values() if values]
        if len(set(contents)) < len(contents):
            return  # an odd cell made a copy, which is left out
        accounted({"source": "jsonl", "path": str(path), **keys}, "text_embedding", expected)

    return Trial(f"{kind} {n}", run, "work")

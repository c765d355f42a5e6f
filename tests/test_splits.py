"""Splits that tell the truth: shares of every label hold, groups stay whole, copies and what is left out are named."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerastune.data import Splits, load
from kerastune.errors import DataError
from kerastune.recipe import Data
from kerastune.recipe.sources import CsvData, FolderData, TableData
from kerastune.tasks.causal_lm.settings import RECIPE as CHATS
from kerastune.tasks.text_embedding.settings import EmbeddingData


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def photos(root: Path, **labels: int) -> Path:
    for at, (label, count) in enumerate(labels.items()):
        for n in range(count):
            picture(root / label / f"{n}.png", at * 10_000 + n)
    return root


def folder(path: Path, **settings: Any) -> Splits:
    return load(FolderData.model_validate({"source": "folder", "path": str(path), **settings}))


def parts(splits: Splits) -> dict[str, Any]:
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def where(splits: Splits) -> dict[str, str]:
    return {id: name for name, part in parts(splits).items() for id in part.ids}


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    return str(caught.value)


def rows(count: int, label: Callable[[int], str] = lambda n: "ab"[n % 2]) -> list[dict[str, str]]:
    return [{"text": f"sentence number {n}", "label": label(n), "who": f"speaker {n // 5}"} for n in range(count)]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def texts(path: Path, **settings: Any) -> Splits:
    return load(TableData.model_validate({"source": path.suffix[1:], "path": str(path), **settings}))


# --- shares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_thirty_eight_texts_have_their_shares(tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    found = texts(jsonl(tmp_path / "a.jsonl", [r | {"text": str(drawn.random())} for r in rows(38)]))
    assert 4 <= len(found.test) <= 8 and 4 <= len(found.validation) <= 8


@pytest.mark.parametrize("seed", range(5))
def test_every_split_holds_its_share_of_every_label(tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    given = [r | {"text": str(drawn.random())} for r in rows(160, lambda n: "aaaaaaaabbbbbbcd"[n % 16])]
    found = texts(jsonl(tmp_path / "a.jsonl", given))
    total = Counter(r["label"] for r in given)
    for part in (found.test, found.validation):
        counts = dict(zip(found.labels, np.bincount(part.labels, minlength=4), strict=True))
        for label, n in total.items():
            assert max(1, n * 0.15 / 2 - 1) <= counts[label] <= n * 0.15 * 1.5 + 1


def test_a_label_of_two_has_one_to_train_on(tmp_path: Path) -> None:
    for seed in range(20):
        drawn = random.Random(seed)
        given = [r | {"text": str(drawn.random())} for r in rows(62, lambda n: "rare" if n > 59 else "ab"[n % 2])]
        found = texts(jsonl(tmp_path / "a.jsonl", given))
        assert found.labels[2] == "rare" and 2 in found.train.labels


def test_files_that_are_added_move_none_in_larger_labels(tmp_path: Path) -> None:
    given = rows(600)
    before = where(texts(jsonl(tmp_path / "a.jsonl", given[:500])))
    after = where(texts(jsonl(tmp_path / "a.jsonl", given)))
    assert {id: after[id] for id in before} == before


def test_files_that_are_added_move_a_few_at_most_in_small_labels(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets", cat=19, dog=19)
    before = where(folder(root))
    for n in range(6):
        picture(root / "cat" / f"new{n}.png", 77_000 + n)
    after = where(folder(root))
    moved = [id for id in before if before[id] != after[id]]
    assert len(moved) <= 2 and all(id.startswith("cat/") for id in moved)


def test_a_set_of_labels_counts_for_its_rarest(tmp_path: Path) -> None:
    given = rows(120, lambda n: "common|rare" if n % 15 == 0 else "common")
    found = texts(jsonl(tmp_path / "a.jsonl", given), label_separator="|")
    assert all(1 <= part.labels[:, 1].sum() <= 2 for part in (found.validation, found.test))


# --- groups ------------------------------------------------------------------------------------------------


def kept_together(found: Splits, group: Callable[[str], str]) -> int:
    """How many groups there are, none of which is in two splits."""
    there: dict[str, set[str]] = {}
    for id, split in where(found).items():
        there.setdefault(group(id), set()).add(split)
    assert all(len(splits) == 1 for splits in there.values())
    assert {split for splits in there.values() for split in splits} == {"train", "validation", "test"}
    return len(there)


def speaker(id: str) -> str:
    return str((int(id.rsplit(" ", 1)[1]) - 1) // 5)


@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
def test_a_group_column_keeps_rows_together(tmp_path: Path, source: str) -> None:
    import pyarrow
    import pyarrow.parquet

    given, path = rows(100), tmp_path / f"a.{source}"
    if source == "jsonl":
        jsonl(path, given)
    elif source == "csv":
        path.write_text("\n".join(["text,label,who", *(",".join(row.values()) for row in given)]))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given), path)
    found = texts(path, group_column="who")
    assert kept_together(found, lambda id: speaker(id.replace("line 101", "line 100"))) if source != "csv" else True
    note = next(note for note in found.notes if "kept together" in note)
    assert note.startswith("20 groups kept together: ")
    assert 5 <= len(found.test) <= 25


@pytest.mark.parametrize("kind", ["pairs", "groups", "numbers", "chats"])
def test_every_task_keeps_groups_together(tmp_path: Path, kind: str) -> None:
    given = [
        {"a": f"a {n}", "b": f"b {n}", "label": "xyz"[n % 3], "score": n % 7, "who": f"w{n // 5}"} for n in range(100)
    ]
    base = {"source": "jsonl", "path": str(jsonl(tmp_path / "a.jsonl", given)), "group_column": "who"}
    settings: dict[str, Data] = {
        "pairs": EmbeddingData.model_validate(base | {"anchor_column": "a", "positive_column": "b"}),
        "groups": EmbeddingData.model_validate(base | {"text_column": "a", "label_column": "label"}),
        "numbers": TableData.model_validate(base | {"text_column": "a", "label_column": "score", "regression": True}),
        "chats": CHATS.model_fields["data"].annotation.model_validate(  # type: ignore[union-attr]
            base | {"prompt_column": "a", "response_column": "b"}
        ),
    }
    assert kept_together(load(settings[kind]), speaker) == 20


def test_folders_inside_label_folders_are_groups_where_the_recipe_says_so(tmp_path: Path) -> None:
    for n in range(80):
        picture(tmp_path / "x" / ("cat", "dog")[n % 2] / f"home {n // 4}" / f"{n}.png", n)
    picture(tmp_path / "x/cat/alone.png", 900)
    found = folder(tmp_path / "x", group_folders=True)
    assert kept_together(found, lambda id: id.split("/")[1]) == 21  # a home's cats and dogs are one group
    assert "1 image in no group folder, each a group of its own: cat/alone.png" in found.notes


def test_a_csv_of_images_keeps_groups_together(tmp_path: Path) -> None:
    root, lines = photos(tmp_path / "x", cat=30, dog=30), []
    for n, path in enumerate(sorted(root.glob("*/*"))):
        lines.append(f"{path.relative_to(root)},{path.parent.name},patient {n % 15}")
    (root / "all.csv").write_text("\n".join(["image,label,patient", *lines]))
    found = load(CsvData(source="csv", path=str(root / "all.csv"), group_column="patient"))
    patient = {line.split(",")[0]: line.split(",")[2] for line in lines}
    assert kept_together(found, patient.__getitem__) == 15


def test_a_row_without_a_group_is_a_problem(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [*rows(40), {"text": "x", "label": "a"}]
    assert "line 41: has no group in column 'who'" in refused(
        lambda: texts(jsonl(tmp_path / "a.jsonl", given), group_column="who")
    )


def test_groups_that_declared_splits_tear_are_refused_or_left_in_the_last(tmp_path: Path) -> None:
    given = [row | {"split": ("train", "train", "validation", "test")[n // 5 % 4]} for n, row in enumerate(rows(80))]
    given[0]["split"] = "test"  # one of speaker 0's five
    read = lambda **more: texts(  # noqa: E731
        jsonl(tmp_path / "a.jsonl", given), group_column="who", split_column="split", **more
    )
    assert "group 'speaker 0': is torn by the declared splits: 4 in train and 1 in test" in refused(read)
    assert kept_together(read(skip_bad=True), speaker) == 16


# --- what is left out --------------------------------------------------------------------------------------


def test_declared_splits_that_are_copies_say_so(tmp_path: Path) -> None:
    for split, first in (("validation", 0), ("test", 50)):
        for n in range(6):
            picture(tmp_path / "x" / split / "ab"[n % 2] / f"{n}.png", first + n)
    for n in range(6):
        picture(tmp_path / "x/train" / "ab"[n % 2] / f"{n}.png", n)
    text = refused(lambda: folder(tmp_path / "x"))
    assert (
        "label 'a': has no training image left: 3 images in train are exact copies of validation images; in test and "
        "validation: 6 images" in text
    )


def test_a_validation_split_of_copies_says_so(tmp_path: Path) -> None:
    for split, first in (("train", 100), ("validation", 0), ("test", 0)):
        for n in range(6):
            picture(tmp_path / "x" / split / "ab"[n % 2] / f"{n}.png", first + n)
    text = refused(lambda: folder(tmp_path / "x"))
    assert "holds 0 images of 0 labels left: 6 images in validation are exact copies of test images" in text


def test_links_that_go_round_in_circles_are_problems_of_their_files(tmp_path: Path) -> None:
    root = photos(tmp_path / "x", cat=20, dog=20)
    (root / "cat/one.png").symlink_to("two.png")
    (root / "cat/two.png").symlink_to("one.png")
    (root / "loop").symlink_to("loop")
    text = refused(lambda: folder(root))
    assert "cat/one.png: cannot be read: Too many levels of symbolic links" in text and "cat/two.png" in text


def test_folders_that_lie_too_deep_are_problems(tmp_path: Path) -> None:
    root = photos(tmp_path / "x", cat=20, dog=20)
    deep = root / "cat" / "/".join("d" * 150)
    deep.mkdir(parents=True)
    assert "lies more than 100 folders deep" in refused(lambda: folder(root))


def test_a_nul_in_a_path_is_refused_in_words(tmp_path: Path) -> None:
    root = photos(tmp_path / "x", cat=20, dog=20)
    lines = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.glob("*/*"))]
    (root / "a.csv").write_text("\n".join(["image,label", *lines, "cat/\0.png,cat"]))
    text = refused(lambda: load(CsvData(source="csv", path=str(root / "a.csv"))))
    assert "line 42: cat/\\x00.png holds a NUL character" in text


def test_a_pipe_named_by_a_csv_is_not_waited_for(tmp_path: Path) -> None:
    root = photos(tmp_path / "x", cat=20, dog=20)
    os.mkfifo(root / "pipe.png")
    lines = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.glob("*/*"))]
    (root / "a.csv").write_text("\n".join(["image,label", *lines, "pipe.png,cat"]))
    assert "line 42: pipe.png is not" in refused(lambda: load(CsvData(source="csv", path=str(root / "a.csv"))))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_no_file_is_refused_and_not_passed_over(tmp_path: Path, split: str) -> None:
    for name in {"train", "test"} - {split}:
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    os.mkfifo(tmp_path / f"{split}.csv")
    with pytest.raises(DataError, match=rf"{split}.csv cannot be read: it is not a regular file"):
        load(TableData.model_validate({"source": "csv", "path": str(tmp_path)}))


def test_files_beside_those_of_the_splits_are_named(tmp_path: Path) -> None:
    for name, part in (("train", rows(40)), ("extra", rows(3))):
        jsonl(tmp_path / f"{name}.jsonl", part)
    read = lambda: load(TableData(source="jsonl", path=str(tmp_path)))  # noqa: E731
    assert read().notes[0] == "1 file left out, not of a split: extra.jsonl"
    (tmp_path / "extra.jsonl").rename(tmp_path / "dev.jsonl")
    assert "Rename it to validation.jsonl" in refused(read)


# --- a few training examples of each label ---------------------------------------------------------------------


def test_that_many_training_examples_of_each_label_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    table = jsonl(tmp_path / "rows.jsonl", rows(200))
    whole, some = texts(table), texts(table, per_label=8)
    assert np.bincount(some.train.labels).tolist() == [8, 8]
    assert (some.validation.ids, some.test.ids) == (whole.validation.ids, whole.test.ids)
    left = len(whole.train) - 16
    assert f"{left} training texts left out: data.per_label = 8 keeps 16" in some.notes


def test_a_larger_draw_holds_a_smaller_one_and_another_seed_draws_others(tmp_path: Path) -> None:
    table = jsonl(tmp_path / "rows.jsonl", rows(200))
    drawn = {n: set(texts(table, per_label=n).train.ids) for n in (8, 16, 32)}
    assert drawn[8] < drawn[16] < drawn[32]
    assert set(texts(table, per_label=8, per_label_seed=1).train.ids) != drawn[8]


def test_a_draw_depends_on_content_alone(tmp_path: Path) -> None:
    given = rows(200)
    there = texts(jsonl(tmp_path / "rows.jsonl", given), per_label=8)
    moved = texts(jsonl(tmp_path / "moved.jsonl", given[::-1]), per_label=8)
    assert set(there.train.digests) == set(moved.train.digests)


def test_copies_do_not_fill_a_draw(tmp_path: Path) -> None:
    table = jsonl(tmp_path / "rows.jsonl", rows(60) * 3)
    drawn = texts(table, per_label=10).train.digests
    assert len(drawn) == len(set(drawn)) == 20


def test_a_label_with_fewer_examples_keeps_all_and_is_named(tmp_path: Path) -> None:
    table = jsonl(tmp_path / "rows.jsonl", rows(100, lambda n: "rare" if n % 20 == 0 else "often"))
    splits = texts(table, per_label=16)
    assert splits.train.truth.counts(splits.labels, splits.train.labels) == {"often": 16, "rare": 3}
    assert "fewer than data.per_label = 16 in train: 'rare' has 3" in splits.notes


def test_of_several_labels_each_has_its_examples(tmp_path: Path) -> None:
    table = jsonl(tmp_path / "rows.jsonl", rows(200, lambda n: "a|b" if n % 3 == 0 else "ab"[n % 2]))
    splits = texts(table, per_label=8, label_separator="|")
    assert (splits.train.labels.sum(axis=0) >= 8).all()
    assert len(splits.train) <= 16


def test_pictures_in_folders_are_drawn_alike(tmp_path: Path) -> None:
    drawn = folder(photos(tmp_path, cats=20, dogs=30), per_label=4)
    assert np.bincount(drawn.train.labels).tolist() == [4, 4]

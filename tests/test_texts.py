"""Texts: rows of files become splits, splits become batches of about one length, and a classifier learns them."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import fine_tune
from kerastune.data import Order, load, spread
from kerastune.errors import DataError, RecipeError
from kerastune.recipe.sources import TableData
from kerastune.tasks import tokens as texts
from kerastune.tasks.learnt import LEARNT
from kerastune.tasks.text_classification import task as text_classification

WORDS = ["cat", "dog", "emu", "yak", "big", "old", "red", "slow"]
PAIRS = [(f"{a} {b} {c}", ("x", "y")[i % 2]) for i, (a, b, c) in enumerate(combinations(WORDS, 3))]


LONG = [{"unfreeze": "all", "epochs": 12, "learning_rate": 2e-2}]


def table(path: Path, content: str | bytes, **settings: Any) -> Any:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(TableData.model_validate({"source": path.suffix[1:], "path": str(path), **settings}))


def csv(rows: list[tuple[str, ...]], header: str = "text,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)])


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    return f"{caught.value.message}\n\nhint: {caught.value.hint}"


# --- files -------------------------------------------------------------------------------------------------


def test_csv_jsonl_and_parquet_give_the_same_splits(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = "\n".join(json.dumps({"text": text, "label": label, "more": 1}) for text, label in PAIRS)
    columns = {"text": [text for text, _ in PAIRS], "label": [label for _, label in PAIRS]}
    pyarrow.parquet.write_table(pyarrow.table(columns), made := tmp_path / "a.parquet")
    found = [table(tmp_path / "a.csv", csv(PAIRS)), table(tmp_path / "a.jsonl", lines)]
    found.append(table(made, made.read_bytes()))
    assert len({splits.fingerprint for splits in found}) == 1
    assert found[0].labels == ("x", "y")
    assert found[0].train.example(0).tolist() == [found[2].train.example(0).tolist()[0]]


def test_a_folder_holds_one_file_a_split(tmp_path: Path) -> None:
    for name, rows in (("train", PAIRS[:30]), ("validation", PAIRS[30:40]), ("test", PAIRS[40:])):
        (tmp_path / f"{name}.csv").write_text(csv(rows))
    splits = load(TableData(source="csv", path=str(tmp_path)))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 10, 16]
    assert splits.test.ids[0] == "test.csv, line 2"
    (tmp_path / "train.csv").unlink()
    assert "holds no train.csv" in refused(lambda: load(TableData(source="csv", path=str(tmp_path))))


def test_bad_rows_are_listed_with_their_lines_or_left_out(tmp_path: Path) -> None:
    bad = ["  ,x", "lost,", "a,b,c", "caf\xe9,x"]
    content = (csv(PAIRS) + "\n" + "\n".join(bad)).encode("latin-1")
    message = refused(lambda: table(tmp_path / "a.csv", content))
    assert message.startswith("4 problems in")
    for line, what in (
        (58, "has no text in column 'text'"),
        (59, "has no label"),
        (60, "has 3 cells where the header"),
    ):
        assert f"a.csv, line {line}: {what}" in message
    assert "a.csv, line 61: byte 0xe9 is not UTF-8" in message
    assert len(table(tmp_path / "a.csv", content, skip_bad=True).skipped) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("text,label\n", "holds no row"),
        ("txt,label\na,b\n", "there is no column 'text' (did you mean 'txt'?)"),
        ("text;label\na;b\n", 'data.delimiter = ";" separates them'),
        ("text,label\na,x\nb,x\n", "Only one label"),
        ("text,label\na,x\n,x\nb,x\n", "line 3: has no text"),
        ("text,label\n" + "a,x\nb,y\n" * 9, "The validation split of"),
        ("text,label\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refused(lambda: table(tmp_path / "a.csv", content))


def test_a_header_without_end_is_cut(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(f"{'c' * 1_000_000},{','.join(map(str, range(20_000)))}\n1,2\n")
    with pytest.raises(DataError) as caught:
        load(TableData(source="csv", path=str(tmp_path / "long.csv")))
    assert len(str(caught.value)) < 1000


def test_lines_that_are_no_json_objects_are_problems(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in PAIRS]
    message = refused(lambda: table(tmp_path / "a.jsonl", "\n".join([*lines, "{", "[1]", '{"text": "x y"}'])))
    assert "line 57: is not valid JSON" in message and "line 58: is '[1]', not a JSON object" in message
    assert "line 59: has no label" in message


def test_one_text_under_two_labels_is_refused(tmp_path: Path) -> None:
    message = refused(lambda: table(tmp_path / "a.csv", csv([*PAIRS, ("cat dog emu", "y")])))
    assert "a.csv, line 58: is the same text as a.csv, line 2: one text, 2 labels" in message


def test_several_labels_and_numbers_are_read_as_such(tmp_path: Path) -> None:
    rows = [(text, ("x|y", "y", "")[i % 3]) for i, (text, _) in enumerate(PAIRS)]
    several = table(tmp_path / "a.csv", csv(rows), label_separator="|")
    assert several.labels == ("x", "y")
    assert sorted(map(tuple, np.unique(several.train.labels, axis=0).tolist())) == [(0, 0), (0, 1), (1, 1)]
    numbers = table(tmp_path / "a.csv", csv([(text, str(i / 4)) for i, (text, _) in enumerate(PAIRS)]), regression=True)
    assert numbers.labels == ("label",) and numbers.train.labels.shape == (len(numbers.train), 1)
    message = refused(lambda: table(tmp_path / "a.csv", csv([*PAIRS[:1], ("b", "nan")]), regression=True))
    assert "the label is 'x', which is no number" in message and "no finite number" in message


def test_calibration_examples_are_spread_over_labels_and_numbers(tmp_path: Path) -> None:
    rows = [(text, str(float(i))) for i, (text, _) in enumerate(PAIRS)]
    split = table(tmp_path / "a.csv", csv(rows), regression=True).train
    chosen = split.labels[spread(split, 10), 0]
    assert np.histogram(chosen, np.quantile(split.labels, np.linspace(0, 1, 6)))[0].min() >= 1


# --- batches -----------------------------------------------------------------------------------------------


def test_buckets_are_the_choice_with_the_least_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 60)
    ends = np.unique(lengths)

    def padded(choice: tuple[int, ...]) -> int:
        return int(sum(min(end for end in choice if end >= length) for length in lengths))

    best = min(padded((*some, int(ends[-1]))) for some in combinations(ends[:-1].tolist(), 2))
    assert padded(texts.buckets(lengths, 3)) == best


def test_batches_hold_texts_of_about_one_length_and_each_text_once() -> None:
    groups = np.random.default_rng(0).integers(0, 3, 50)
    order = Order(50, 8, epochs=2, seed=(1,), groups=groups)
    batches = list(order)
    assert len(batches) == len(order) == 14 and order.shapes == 4
    for epoch in (batches[:7], batches[7:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(50))
        assert sum(len(np.unique(groups[batch])) > 1 for batch in epoch) <= 2  # what was left over, and went up
    assert batches[0].tolist() != batches[7].tolist()
    resumed = list(Order(50, 8, epochs=2, seed=(1,), start=5, groups=groups))
    assert [b.tolist() for b in resumed] == [b.tolist() for b in batches[5:]]


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "DebertaV3"])
def test_a_batch_says_the_same_as_the_preset_itself(family: str, text_recipe: Callable[..., Any]) -> None:
    """Padded to its bucket or to the preset's full length: the logits agree to 1e-5."""
    recipe = text_recipe(family)
    splits = load(recipe.data)
    task = text_classification.build(recipe, recipe.preset, 2, "float32")
    split = splits.validation
    batches = text_classification.batches(task, split, Order(len(split), 4))
    found = np.concatenate([task(x).numpy() for x, _ in batches])
    whole = task.predict([split.example(i).tolist()[0] for i in range(len(split))], verbose=0)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert batches.options().autotune.enabled is False  # nobody waits for tf.data's tuner
    assert len(texts.tokens(task, split).buckets) > (family in ("Bert", "DistilBert"))  # the others cut all off


def test_texts_that_are_cut_off_are_counted(text_recipe: Callable[..., Any]) -> None:
    recipe = text_recipe(data={"max_length": 8})
    splits = load(recipe.data)
    task = text_classification.build(recipe, recipe.preset, 2, "float32")
    longer = sum(len(splits.train.example(i).tolist()[0].split()) + 2 > 8 for i in range(len(splits.train)))
    assert text_classification.describe(task, splits, "tiny")["truncated"]["train"] == longer > 0


def test_a_length_that_the_model_does_not_take_is_refused(text_recipe: Callable[..., Any]) -> None:
    recipe = text_recipe(data={"max_length": 25})
    with pytest.raises(RecipeError, match=r"max_length = 25, but .* takes at most 24 tokens"):
        text_classification.build(recipe, recipe.preset, 2, "float32")


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{}, {"pair_column": "pair"}], ids=["texts", "pairs"])
def test_a_classifier_learns_texts_and_pairs(data: dict[str, Any], text_recipe: Callable[..., Any], tmp_path: Path):
    made = fine_tune(text_recipe(data=data, phases=LONG), tmp_path / "run")
    assert made.record.metrics["test"]["accuracy"] > 0.9
    assert made.record.metric == "accuracy" and made.record.model["sequence_length"] == 20


def test_several_labels_are_learnt_each_for_itself(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    data = {"label_column": "labels", "label_separator": "|"}
    made = fine_tune(text_recipe(data=data, phases=LONG), tmp_path / "run")
    found = made.record.metrics["test"]
    assert found["accuracy"] > 0.45 and found["micro_f1"] > 0.7  # 0.38 say the most frequent set
    _, truth, predictions = made.predictions("test")
    (scores,) = predictions.values()
    assert scores.shape == truth.shape == (len(truth), 3)


def test_numbers_are_learnt(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    made = fine_tune(
        text_recipe(data={"label_column": "rating", "regression": True}, phases=LONG, seed=1), tmp_path / "run"
    )
    assert made.record.metrics["test"]["r2"] > 0.6
    assert made.record.metric == "r2" and "val_r2" in made.history[0]


def test_a_frozen_encoder_runs_once_and_the_losses_are_the_same(text_recipe: Callable[..., Any], tmp_path: Path):
    phases = [{"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}]
    histories = []
    for cache in ("off", "memory", "disk"):
        made = fine_tune(text_recipe(phases=phases, train={"batch_size": 8, "cache": cache}), tmp_path / cache)
        histories.append([row["loss"] for row in made.history])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-5)
    assert histories[1] == histories[2]
    (decision,) = [d for d in made.record.decisions if d.key == "train.cache"]
    assert decision.got == "disk" and decision.bytes_per_example == 8 * 4  # the pooled output


def test_the_statistics_of_each_example_give_the_metric() -> None:
    truth, number = np.array([[0.0], [1.0], [2.0]], np.float32), LEARNT["number"]
    found = {"scores": np.array([[0.0], [1.5], [2.0]], np.float32)}
    expected = 1 - 0.25 / ((truth - 1) ** 2).sum()
    assert number.statistic(number.per_example(truth, found)) == pytest.approx(expected)
    assert number.metrics(("y",), truth, found)["r2"] == pytest.approx(expected)

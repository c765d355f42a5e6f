"""Texts become vectors: pairs, groups and scores are learnt by contrast, judged over whole splits, and searched."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kerastune import export, fine_tune, verify
from kerastune.cli import cli
from kerastune.data import load
from kerastune.errors import ConverterError, DataError, KerastuneError, RecipeError, VerificationError
from kerastune.predicting import inference
from kerastune.predicting import search as searching
from kerastune.progress import Progress
from kerastune.recipe import Export, parse
from kerastune.reporting import report
from kerastune.tasks.learnt import LEARNT
from kerastune.tasks.learnt.statistics import paired
from kerastune.tasks.learnt.vectors import cosines, nearest, ranks, unit
from kerastune.tasks.text_device import RAW
from kerastune.tasks.text_embedding import learning
from kerastune.tasks.text_embedding import task as embedding
from kerastune.tasks.text_embedding.settings import EmbeddingData
from kerastune.verifying import artifact

PAIRED = {"anchor_column": "question", "positive_column": "answer"}
LAYOUTS: dict[str, dict[str, str]] = {
    "pairs": PAIRED,
    "triplets": {**PAIRED, "negative_column": "other"},
    "groups": {"text_column": "question", "label_column": "animal"},
    "scores": {"text_column": "question", "pair_column": "reply", "score_column": "score"},
}
OTHERS = {"cat": "car", "dog": "bus", "emu": "van", "yak": "bike"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV in which the question's animal and words say which vehicle the answer has, and how alike a reply is."""
    path = tmp_path_factory.mktemp("questions") / "all.csv"
    words = ["big", "old", "red", "slow", "fast"]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer", "other", "reply", "animal", "score"])
        for n, (one, two, three) in enumerate(permutations(words, 3)):
            for animal in (list(OTHERS)[n % 4], list(OTHERS)[(n + 1) % 4]):
                wrong = OTHERS[list(OTHERS)[(n + 2) % 4]]
                said = f"{one} {two} {three}"
                vehicle = OTHERS[animal] if n % 2 else wrong
                row = [f"the {animal} is {said}", f"a {said} {OTHERS[animal]}", f"a {said} {wrong}"]
                rows.writerow([*row, f"a {three} {vehicle}", animal, 3 + 2 * (n % 2)])
    return path


@pytest.fixture(scope="module")
def recipe(questions: Path, embedder_preset: Callable[[str], Path]) -> Callable[..., Any]:
    """A recipe on the questions in one layout; keyword arguments replace its top-level keys."""

    def make(layout: str = "pairs", family: str = "Bert", **changes: Any) -> Any:
        values = {
            "name": layout,
            "task": "text_embedding",
            "preset": str(embedder_preset(family)),
            "data": {"source": "csv", "path": str(questions), **LAYOUTS[layout]},
            "train": {"batch_size": 16},
            "phases": [{"unfreeze": "all", "epochs": 8, "learning_rate": 1e-2}],
        }
        return parse({**values, **changes}, "test")

    return make


@pytest.fixture(scope="module")
def tuned(recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on pairs. Tests must not write into it."""
    return fine_tune(recipe("pairs"), tmp_path_factory.mktemp("runs") / "pairs")


def refused(read: Callable[[], object], kind: type[KerastuneError] = KerastuneError) -> str:
    with pytest.raises(kind) as caught:
        read()
    return f"{caught.value.message}\n\nhint: {caught.value.hint}"


# --- data --------------------------------------------------------------------------------------------------


def table(path: Path, content: str, **settings: Any) -> Any:
    path.write_text(content)
    return load(EmbeddingData.model_validate({"source": "csv", "path": str(path), **settings}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "the named columns are none; name those of one kind of data"),
        ({"anchor_column": "a", "label_column": "b"}, "the named columns are anchor_column + label_column"),
        ({"text_colum": "a"}, "data.text_colum: unknown key (did you mean 'text_column'?)"),
        ({**PAIRED, "source": "tsv"}, "data.source: 'tsv' is not one of 'csv', 'jsonl' or 'parquet'"),
    ],
)
def test_columns_that_are_no_kind_of_data_are_refused(data: dict[str, str], message: str, recipe: Any) -> None:
    values = recipe().model_dump(mode="json", exclude_none=True)
    named = {"source": "csv", "path": "a.csv", **data}
    assert message in refused(lambda: parse({**values, "data": named}, "test"), RecipeError)


def test_bad_rows_are_listed_with_their_lines(questions: Path, tmp_path: Path) -> None:
    lines = questions.read_text().rstrip().split("\n")
    bad = ["the cat,,a bus,,cat,1", "the cat,a bus,a bus,,cat,1", "the dog,a van,a bus,x,,high"]
    message = refused(lambda: table(tmp_path / "a.csv", "\n".join(lines + bad), **LAYOUTS["triplets"]), DataError)
    assert message.startswith("2 problems in")
    assert f"line {len(lines) + 1}: has no text in column 'answer'" in message
    assert f"line {len(lines) + 2}: its positive is also its negative" in message
    message = refused(lambda: table(tmp_path / "a.csv", "\n".join(lines + bad[2:]), **LAYOUTS["scores"]), DataError)
    assert f"line {len(lines) + 1}: the score is 'high', which is no number" in message


def test_all_that_belongs_to_one_text_is_in_one_split_and_copies_are_left_out(tmp_path: Path) -> None:
    rows = [f"question {i},answer {i} {j}" for i in range(60) for j in range(3)]
    splits = table(tmp_path / "a.csv", "\n".join(["question,answer", *rows, rows[0]]), **PAIRED)
    parts = [
        {split.example(i).tolist()[0] for i in range(len(split))}
        for split in (splits.train, splits.validation, splits.test)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    assert "1 exact copy of another text left out" in splits.notes
    first = splits.train.labels[:3]  # three pairs of one question
    assert len(set(first[:, 0])) == 1 and len(set(first[:, 1])) == 3


def test_a_split_without_two_texts_of_one_label_is_refused(tmp_path: Path) -> None:
    rows = [f"text {i},label {i % 5},train" for i in range(20)]
    rows += [f"{split} {i},label {i},{split}" for split in ("validation", "test") for i in range(3)]
    settings = {"text_column": "text", "label_column": "label", "split_column": "split"}
    message = refused(lambda: table(tmp_path / "a.csv", "\n".join(["text,label,split", *rows]), **settings))
    assert "holds no two texts with the same label" in message


# --- losses and figures --------------------------------------------------------------------------------------


def infonce(y: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """By hand, one example at a time: vectors [sides, B, D]."""
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    found = []
    for i, (first, second, *_) in enumerate(y):
        own = float(unit[0, i] @ unit[1, i]) / learning.TEMPERATURE
        terms = [np.exp(own)]
        for side in range(1, y.shape[1]):
            for j in range(len(y)):
                is_own = (side, j) == (1, i)
                belongs = y[j, side] in (first, second) or (side == 1 and y[j, 0] == first)
                if not is_own and not belongs:
                    terms.append(np.exp(float(unit[0, i] @ unit[side, j]) / learning.TEMPERATURE))
        found.append(np.log(sum(terms)) - own)
    return np.array(found)


@pytest.mark.parametrize("sides", [2, 3])
def test_the_loss_is_infonce_without_false_negatives(sides: int) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(sides, 6, 5)).astype(np.float32)
    y = np.arange(6 * sides, dtype=np.float32).reshape(6, sides)
    y[2, 1] = y[0, 1]  # the same answer
    y[3, 0] = y[1, 0]  # the same question
    y[5, 1] = y[4, 0]  # the answer is another's question
    found = np.asarray(learning.in_batch_negatives(y, vectors.reshape(-1, 5)))
    np.testing.assert_allclose(found, infonce(y, vectors), rtol=1e-5, atol=1e-5)
    all_apart = np.arange(6 * sides, dtype=np.float32).reshape(6, sides)
    other = np.asarray(learning.in_batch_negatives(all_apart, vectors.reshape(-1, 5)))
    assert (other >= found - 1e-5).all() and (other - found)[:4].max() > 0.1  # each had one text less to miss
    assert other[5] == pytest.approx(found[5], abs=1e-5)


def test_one_label_makes_no_negatives() -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    same = np.zeros((4, 2), np.float32)
    assert np.asarray(learning.in_batch_negatives(same, vectors)) == pytest.approx(np.zeros(4), abs=1e-6)


def test_the_loss_of_scores_is_cosent_on_any_scale() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    scores = np.array([[1.0], [3.0], [3.0], [0.0], [5.0]], np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    cosine = (unit[0] * unit[1]).sum(-1)
    wrong = [np.exp((cosine[j] - cosine[i]) * 20) for i in range(5) for j in range(5) if scores[i] > scores[j]]
    for scale in (1, 100):
        found = np.asarray(learning.cosent(scores * scale, vectors.reshape(-1, 4)))
        np.testing.assert_allclose(found, np.full(5, np.log(1 + sum(wrong))), rtol=1e-5)
    assert np.asarray(learning.cosent(scores[::-1].copy(), vectors.reshape(-1, 4)))[0] != pytest.approx(found[0], 0.01)


def test_ranks_are_those_of_a_search_by_hand() -> None:
    random = np.random.default_rng(0)
    truth = np.array([[0, 1], [0, 2], [3, 4], [5, 0], [6, 4]])  # two answers to 0; 0 is an answer, too
    vectors = random.normal(size=(7, 4))[truth].astype(np.float32)
    lengths = unit(vectors)
    expected = []
    for i, (first, _) in enumerate(truth):
        its = {int(b) for a, b in truth if a == first}
        near = {int(b): float(lengths[i, 0] @ lengths[j, 1]) for j, (_, b) in enumerate(truth) if b != first}
        best = max(near[b] for b in its)
        expected.append(1 + sum(near[b] >= best for b in near if b not in its))
    assert ranks("pairs", truth, vectors).tolist() == expected
    found = LEARNT["pairs"].metrics(("pairs",), truth, {"embeddings": vectors})
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(expected)))
    first = LEARNT["pairs"].per_example(truth, {"embeddings": vectors})
    assert found["recall_at_1"] == np.mean(np.array(expected) == 1) == LEARNT["pairs"].statistic(first)


def test_vectors_that_are_all_the_same_find_nothing() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2])  # the last one has nobody to look for
    found = LEARNT["groups"].metrics(("a", "b", "c"), labels, {"embeddings": np.ones((7, 1, 4), np.float32)})
    assert found["recall_at_1"] == 0 and found["queries"] == 6 and found["texts"] == 7
    grouped = np.eye(3, dtype=np.float32)[labels][:, None]
    assert LEARNT["groups"].metrics(("a", "b", "c"), labels, {"embeddings": grouped})["recall_at_1"] == 1


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["triplets", "groups", "scores"])
def test_every_layout_is_learnt(layout: str, recipe: Callable[..., Any], tmp_path: Path) -> None:
    made = fine_tune(recipe(layout), tmp_path / "run")
    metric = made.record.metric
    before, after = made.record.before["test"][metric], made.record.metrics["test"][metric]
    assert after > before + 0.15 and after > 0.6, (before, after)


def test_pairs_are_learnt_and_the_best_epoch_is_chosen_on_the_whole_split(tuned: Any) -> None:
    record = tuned.record
    assert record.metrics["test"]["recall_at_1"] > (record.before or {})["test"]["recall_at_1"] + 0.3
    best = max(row["val_recall_at_1"] for row in tuned.history)
    assert record.metrics["validation"]["recall_at_1"] == pytest.approx(best, abs=1e-9)
    assert record.model["dimensions"] == 8 and record.model["pooling"] == "mean" and record.model["normalized"]
    (cache,) = [decision for decision in record.decisions if decision.key == "train.cache"]
    assert cache.got == "off" and "nothing to cache" in cache.why


def test_xlm_roberta_learns_with_lora_and_a_kept_cache_is_refused(recipe: Callable[..., Any], tmp_path: Path) -> None:
    lora = {"rank": 4, "targets": ["query", "value", "feedforward"]}
    phases = [{"unfreeze": "top:1", "epochs": 4, "learning_rate": 2e-2, "lora": lora}]
    made = fine_tune(recipe("pairs", "XLMRoberta", phases=phases), tmp_path / "run")
    assert made.history[-1]["loss"] < made.history[0]["loss"]
    asked = recipe("pairs", "XLMRoberta", phases=phases, train={"batch_size": 16, "cache": "memory"})
    assert "cache" in refused(lambda: fine_tune(asked, tmp_path / "kept"))


def test_a_head_that_is_not_there_is_not_trained(recipe: Callable[..., Any], tmp_path: Path) -> None:
    asked = recipe("pairs", phases=[{"unfreeze": "head"}])
    assert "has no head to train" in refused(lambda: fine_tune(asked, tmp_path / "run"), RecipeError)


def test_a_batch_is_its_examples_first_sides_then_their_second(recipe: Callable[..., Any]) -> None:
    asked = recipe("groups")
    task, splits = embedding.build(asked, asked.preset, 0, "float32"), load(asked.data)
    order = embedding.order(task, splits.train, 8, 2, seed=(0,))
    seen = [(x["token_ids"].numpy(), i.numpy()) for x, i in embedding.batches(task, splits.train, order, seed=3)]
    again = embedding.order(task, splits.train, 8, 2, seed=(0,), start=order.steps)
    resumed = [x["token_ids"].numpy() for x, _ in embedding.batches(task, splits.train, again, seed=3)]
    for (one, _), other in zip(seen[order.steps :], resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    words = {tuple(np.asarray(task.preprocessor.tokenizer.tokenize(w))): w for w in OTHERS}
    for tokens, examples in seen:
        animals = [next(w for (t,), w in words.items() if t in row) for row in tokens]
        assert animals[: len(examples)] == animals[len(examples) :]
        assert [splits.labels[splits.train.labels[i]] for i in examples] == animals[: len(examples)]
        assert (tokens[: len(examples)] != tokens[len(examples) :]).any(axis=1).all()


def test_vectors_are_the_presets_own(recipe: Callable[..., Any]) -> None:
    """Each distinct text is embedded once, in batches of about one length: to 1e-5 what KerasHub makes of it."""
    asked = recipe("triplets")
    task, split = embedding.build(asked, asked.preset, 0, "float32"), load(asked.data).validation
    found = embedding.scores("pairs", task, split, 4)
    for i in (0, 5):
        np.testing.assert_allclose(found[i], task.encode_text(split.example(i).tolist(), verbose=0), atol=1e-5)
    exported = embedding.signatures(asked, task)["serving_default"][0]
    row = embedding.inputs(task, [split.example(0).tolist()])[0]
    said = exported(*(row[name][None] for name in embedding.input_names(task)))["embeddings"].numpy()
    np.testing.assert_allclose(said, found[:1, 0], atol=1e-5)
    np.testing.assert_allclose(embedding.reference(asked, task, [split.example(0).tolist()]), said, atol=1e-6)
    assert np.linalg.norm(said) == pytest.approx(1, abs=1e-5)


# --- report and search ---------------------------------------------------------------------------------------


def test_the_report_shows_what_is_found_and_escapes_it(recipe: Callable[..., Any], questions: Path, tmp_path: Path):
    evil = tmp_path / "evil.csv"
    evil.write_text(questions.read_text().replace("a big old", "a <script>big</script> old"))
    for layout in ("pairs", "scores"):
        data = {"source": "csv", "path": str(evil), **LAYOUTS[layout], "test_fraction": 0.5}
        phases = [{"unfreeze": "all", "epochs": 1, "learning_rate": 1e-2}]
        made = fine_tune(recipe(layout, data=data, phases=phases), tmp_path / layout)
        page = report.write(made).read_text()
        assert "<script>" not in page and "before training" in page
        assert (("&lt;script&gt;" in page) and "recall at 10" in page) or layout == "scores"
    assert "spearman" in page


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def index(folder: Path) -> Path:
    texts = ["the cat is big", "a slow red bus", "the yak is fast", "a bike"]
    (folder / "texts.csv").write_text("\n".join(["text", *texts, "a bike"]))
    (folder / "texts.txt").write_text("\n".join([*texts, "", "a bike"]))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


@pytest.mark.parametrize("name", ["texts.csv", "texts.txt", "texts.jsonl"])
def test_search_finds_the_planted_text(name: str, tuned: Any, tmp_path: Path) -> None:
    found = searching.search(tuned, index(tmp_path) / name, "the YAK is fast", top=4)
    assert found[0].found == "the yak is fast" and found[0].similarity == pytest.approx(1, abs=1e-5)
    assert len(found) == 4 and sorted((hit.similarity for hit in found), reverse=True) == [h.similarity for h in found]
    assert found[1].similarity < 0.999


def test_an_index_is_kept_and_refused_with_another_model(tuned: Any, recipe: Any, tmp_path: Path) -> None:
    folder, saved = index(tmp_path), tmp_path / "texts.npz"
    fresh = searching.search(tuned, folder / "texts.csv", "a red bus", save=saved)
    again = searching.search(tuned, saved, "a red bus")
    assert [hit.found for hit in again] == [hit.found for hit in fresh]
    np.testing.assert_allclose([hit.similarity for hit in again], [hit.similarity for hit in fresh], atol=1e-6)
    assert "already exists" in refused(lambda: searching.search(tuned, folder / "texts.csv", "a", save=saved))
    phases = [{"unfreeze": "all", "epochs": 1, "learning_rate": 1e-2}]
    other = fine_tune(recipe("pairs", phases=phases), tmp_path / "other")
    assert "was made with another model" in refused(lambda: searching.search(other, saved, "a red bus"))
    for damage in (b"no archive", saved.read_bytes()[:200]):
        saved.write_bytes(damage)
        assert "is not an index saved by kerastune" in refused(lambda: searching.search(tuned, saved, "a"))


def test_what_a_search_leaves_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('n,text\n1, a cat\n2,a cat\n,\n3,"a\ndog"\n')
    told = Told()
    assert searching._texts(tmp_path / "a.csv", told, "text")[0] == ["a cat", "a\ndog"]
    said = " ".join(told.lines)
    for what in ("1 row: no cell is filled, left out", "spaces around a text removed", "the same text as an earlier"):
        assert what in said


def test_texts_that_cannot_be_searched_say_why(tuned: Any, tmp_path: Path) -> None:
    (bad := tmp_path / "bad.csv").write_text("text,more\na cat,x\n,y\na,b,c\n")
    message = refused(lambda: searching.search(tuned, bad, "a cat"), DataError)
    assert "line 3: has no text in column 'text'" in message and "line 4: has 3 cells" in message
    assert "give --column" in refused(lambda: searching.search(tuned, bad, "a cat", column="texts"), DataError)
    assert "Text 1 is empty" in refused(lambda: searching.search(tuned, index(tmp_path) / "texts.txt", " "))
    assert "is not a .csv" in refused(lambda: searching.search(tuned, tuned.report.with_name("run.json"), "a"))


def test_the_command_line_searches_and_prints_vectors(tuned: Any, tmp_path: Path) -> None:
    arguments = ["search", str(tuned.folder), "--index", str(index(tmp_path) / "texts.csv"), "the yak is fast"]
    said = CliRunner().invoke(cli, [*arguments, "--top", "2", "--json"])
    assert said.exit_code == 0, said.output
    hits = json.loads(said.stdout)
    assert len(hits) == 2 and hits[0]["found"] == "the yak is fast"
    said = CliRunner().invoke(cli, ["predict", str(tuned.folder), "the yak is fast", "a bike", "--json"])
    vectors = np.array([row["embedding"] for row in json.loads(said.stdout)])
    assert vectors.shape == (2, 8)
    assert float(vectors[0] @ vectors[1]) < 0.999 and np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


# --- exports -------------------------------------------------------------------------------------------------

WANTED = [
    Export(target="linux"),
    Export(target="linux", quantize="dynamic", max_accuracy_drop=0.1),
    Export(target="linux", quantize="float16"),
    Export(target="onnxruntime"),
    Export(target="tf-serving"),
]
TOLERANCE = 1e-4
FLOAT = ["linux", "onnxruntime", "tf-serving"]


@pytest.fixture(scope="module")
def made(tuned: Any) -> dict[str, Any]:
    """The artifacts of the run on pairs, by name."""
    return {of.manifest.name: of for of in export(tuned, WANTED)}


@pytest.mark.parametrize("name", FLOAT)
def test_a_float_file_says_keras_s_vectors_of_every_text(made: dict[str, Any], tuned: Any, name: str) -> None:
    """Every side of every validation pair, each distinct text once; within 1e-4 of the largest number."""
    said, allowed = made[name].report, TOLERANCE * made[name].manifest.tolerance.scale
    assert said.passed and allowed < TOLERANCE
    for runtime in said.runtimes.values():
        assert runtime.golden.max_error <= allowed and runtime.validation.outputs.max_error <= allowed
    assert said.validation.metric.examples == tuned.record.metrics["validation"]["queries"]
    assert said.validation.metric.value == tuned.record.metrics["validation"]["recall_at_1"]
    assert said.validation.beside["mrr"].keras == pytest.approx(tuned.record.metrics["validation"]["mrr"])


def test_a_quantised_file_is_judged_by_what_it_finds(made: dict[str, Any], tuned: Any) -> None:
    for name in ("linux-dynamic", "linux-float16"):
        judged = made[name].report.validation
        assert judged.metric.keras == tuned.record.metrics["validation"]["recall_at_1"]
        assert 0 < judged.outputs.max_error < 0.1 and judged.metric.drop <= 0.1


def test_the_manifest_and_the_reader_know_vectors(made: dict[str, Any]) -> None:
    manifest = made["linux"].manifest
    assert manifest.labels == () and manifest.metric == "recall_at_1"
    assert (manifest.outputs[0].name, manifest.outputs[0].shape) == ("embeddings", (1, 8))
    texts = ["the cat is big", "the cat is big", "a bike"]
    command = [sys.executable, "reader.py", ".", *texts, "--check"]
    done = subprocess.run(command, cwd=made["linux"].folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ok: 16 golden texts" in done.stdout and "8 numbers: " in done.stdout and "labels" not in done.stdout
    assert "  1.0000  the cat is big | the cat is big" in done.stdout and "the cat is big | a bike" in done.stdout


@pytest.mark.parametrize("name", FLOAT)
def test_search_finds_in_a_file_what_it_finds_in_keras(made: dict[str, Any], tuned: Any, tmp_path: Path, name: str):
    texts = index(tmp_path) / "texts.csv"
    theirs, ours = (searching.search(of, texts, "a red bus") for of in (tuned, made[name]))
    assert [hit.found for hit in ours] == [hit.found for hit in theirs]
    np.testing.assert_allclose([h.similarity for h in ours], [h.similarity for h in theirs], atol=TOLERANCE)


def test_predict_gives_the_vector_of_each_text(made: dict[str, Any], tuned: Any) -> None:
    theirs, ours = (inference.predict(of, ["a cat", "a bus"]) for of in (tuned, made["linux"]))
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(one.document["embedding"], other.document["embedding"], atol=TOLERANCE)
        assert one.lines[0].startswith("8 numbers of length ")


@pytest.mark.parametrize("name", FLOAT)
def test_a_weight_that_is_off_is_caught(made: dict[str, Any], tuned: Any, copied: Any, name: str) -> None:
    """One number of the token table, found by its bytes in the model; the hash is written anew."""
    task = embedding.load(str(tuned.folder))
    table = task.backbone.token_embedding.embeddings.numpy()
    word = int(np.asarray(task.preprocessor.tokenizer.tokenize("big"))[0])
    of = copied(made[name])
    old, row = table[word].tobytes(), table[word].copy()
    row[0] += 0.05
    files = [one for one in of.folder.rglob("*") if one.is_file() and RAW not in str(one)]
    (path,) = [one for one in files if old in one.read_bytes()]
    path.write_bytes(path.read_bytes().replace(old, row.tobytes()))
    # TensorFlow itself keeps sums of its variables.
    with pytest.raises(
        (VerificationError, ConverterError), match=r"golden texts: largest error|Checksum does not match"
    ):
        verify(artifact.write(of.folder, of.manifest, of.golden), tuned.folder, in_runtimes=[of.manifest.runtime])


@pytest.mark.parametrize("layout", ["groups", "scores"])
def test_groups_and_scores_leave_too(layout: str, recipe: Callable[..., Any], tmp_path: Path) -> None:
    """The plain runtime asks a part of the split, in which each text still has one of its label to find."""
    phases = [{"unfreeze": "all", "epochs": 2, "learning_rate": 1e-2}]
    run = fine_tune(recipe(layout, phases=phases), tmp_path / "run")
    (of,) = export(run, Export(target="linux"))
    assert of.report.passed and set(of.report.runtimes) >= {"litert", "litert-reference"}
    judged = of.report.validation
    assert judged.metric.value == pytest.approx(run.record.metrics["validation"][run.metric], abs=1e-6)
    assert judged.metric.verdict == "same" and judged.metric.drop == pytest.approx(0, abs=1e-3)


def test_a_rank_correlation_that_drops_is_told_from_one_that_does_not() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(400, 2, 8)).astype(np.float32)
    truth = (cosines(vectors) + random.normal(scale=0.1, size=400))[:, None].astype(np.float32)
    near, far = (vectors + random.normal(scale=s, size=vectors.shape).astype(np.float32) for s in (0.001, 1))
    same, worse = (
        paired(LEARNT["scores"], truth, {"embeddings": one}, {"embeddings": vectors}, 0.02) for one in (near, far)
    )
    assert same and same.verdict == "same" and same.examples == 400
    assert worse and worse.verdict == "worse" and worse.p_value < 0.01 and worse.value < same.value - 0.1


def test_the_nearest_is_another_text() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    near = unit(vectors) @ unit(vectors).T - 2 * np.eye(600)
    assert (nearest(vectors) == near.argmax(-1)).all()

"""Language models: conversations become tokens, only answers are learnt, and what is said is said as it was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastune import files, fine_tune, predict
from kerastune.data import load
from kerastune.errors import DataError, RecipeError
from kerastune.modalities.conversation import messages
from kerastune.recipe import parse
from kerastune.records import Trained, to_json
from kerastune.tasks.causal_lm import feeding, generation, learning
from kerastune.tasks.causal_lm import task as causal_lm
from kerastune.training import train

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content }}"
    "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% endif %}"
)
FAMILIES = [("Qwen3", ...), ("GPT2", None), ("Llama3", LLAMA3)]


def made(recipe: Any) -> tuple[Any, Any]:
    """A task and its data."""
    return causal_lm.build(recipe, recipe.preset, 1, "float32"), load(recipe.data)


def recipe_of(make: Callable[..., Any], family: str, template: Any, **changes: Any) -> Any:
    return make(family, **({} if template is ... else {"template": template}), **changes)


# --- what is learnt ----------------------------------------------------------------------------------------


def test_a_conversation_is_the_template_and_the_answer_with_its_end_is_scored(chat_recipe: Callable[..., Any]):
    task, splits = made(chat_recipe())
    (found,) = task.chat.conversations([messages(splits.train.read(0))])
    words = task.preprocessor.tokenizer.detokenize([i for i, on in zip(found.ids, found.scored, strict=True) if on])
    assert task.preprocessor.tokenizer.detokenize(found.ids).startswith("<|im_start|>user\nsun 0?<|im_end|>\n")
    assert words == "sun!<|im_end|>"


@pytest.mark.parametrize(("family", "template"), FAMILIES)
def test_the_loss_is_that_of_the_response_alone(family: str, template: Any, chat_recipe: Callable[..., Any]) -> None:
    """Against a sum over tokens in numpy; to 1e-5."""
    task, splits = made(recipe_of(chat_recipe, family, template))
    x = feeding.example(task, splits.train, 4)
    order = np.argsort(-feeding.spoken(task, splits.train).tokens.lengths, kind="stable")[:4]
    y = learning.truth(task, splits.train)[order]
    logits = np.asarray(task(x), np.float64)
    surprise = []
    for row, i in enumerate(order):
        (said,) = task.chat.conversations([messages(splits.train.read(int(i)))])
        answer = messages(splits.train.read(int(i)))[1]["content"]
        scored = len(answer) + (2 if template is None else 1)  # what ends it, and the plain template's space
        assert sum(said.scored) == scored
        for at in range(len(said.ids) - scored, len(said.ids)):
            p = logits[row, at - 1]
            surprise.append(np.log(np.exp(p - p.max()).sum()) + p.max() - p[said.ids[at]])
    assert float(mean_loss(y, tf.constant(logits))) == pytest.approx(np.mean(surprise), abs=1e-5)


def mean_loss(y: Any, logits: Any) -> Any:
    total, count = learning.loss(y, logits, None)
    return total / count


def test_only_the_response_moves_the_loss(chat_recipe: Callable[..., Any]) -> None:
    task, splits = made(chat_recipe())
    y, logits = learning.truth(task, splits.train)[:1], np.random.default_rng(0).normal(size=(1, 40, 266))
    before = float(mean_loss(y, logits[:, : y.shape[1]]))
    places = {}
    for at in (5, int(np.flatnonzero(y[0] >= 0)[0])):
        changed = logits.copy()
        changed[0, at] += np.linspace(0, 1, 266)
        places[at] = float(mean_loss(y, changed[:, : y.shape[1]]))
    unscored, scored = places.values()
    assert unscored == before and abs(scored - before) > 1e-3


def test_every_turn_of_the_assistant_is_learnt(chat_recipe: Callable[..., Any], tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    task, _ = made(chat_recipe())
    (found,) = task.chat.conversations([turns])
    said = [i for i, on in zip(found.ids, found.scored, strict=True) if on]
    assert task.preprocessor.tokenizer.detokenize(said) == "b<|im_end|>d<|im_end|>"


def test_messages_and_pairs_are_the_same_data(pairs: Path, chat_recipe: Callable[..., Any], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    turns = [[("user", row["prompt"]), ("assistant", row["response"])] for row in rows]
    lines = [
        {"talk": [{"role": a, "content": b} for a, b in one], "split": row["split"]}
        for one, row in zip(turns, rows, strict=True)
    ]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    one = load(chat_recipe().data)
    other = load(chat_recipe(data={"path": str(tmp_path / "talks.jsonl"), "messages_column": "talk"}).data)
    assert one.fingerprint == other.fingerprint and one.train.read(3) == other.train.read(3)


def test_bad_conversations_are_listed_with_their_lines(chat_recipe: Callable[..., Any], tmp_path: Path) -> None:
    talks: list[Any] = [
        None,
        [],
        [{"role": "user", "content": "a"}],
        [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "user", "content": " "}],
    ]
    lines = [json.dumps({"talk": talk, "split": "train"}) for talk in talks]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines), "utf-8")
    with pytest.raises(DataError) as caught:
        load(chat_recipe(data={"path": str(tmp_path / "talks.jsonl"), "messages_column": "talk"}).data)
    message = caught.value.message
    for line, what in enumerate(
        ["no list of", "not end with", "not end with", "'robot'", "only allowed first", "no text"], 1
    ):
        assert f"line {line}: " in message and what in message.splitlines()[line]


def test_what_is_cut_off_before_its_answer_is_refused(chat_recipe: Callable[..., Any]) -> None:
    task, splits = made(chat_recipe(data={"max_length": 20}))
    with pytest.raises(DataError, match="truncated at 20 tokens, before their answer"):
        feeding.spoken(task, splits.train)


# --- chat templates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for m in messages %}{{ m.pop('role') }}{% endfor %}", "unsafe|not safely"),
        ("{{ cycler.__init__.__globals__.os.system('x') }}", "unsafe|undefined"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ raise_exception('x' * 99999) }}", r"fails: x{500}…\."),
        ("{% for %}", "is not usable Jinja"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "special token"),
        ("{{ messages|length }}<|im_end|>", "does not continue its own prompt"),
    ],
)
def test_a_template_that_attacks_or_does_not_fit_is_refused(
    template: str, message: str, chat_recipe: Callable[..., Any]
) -> None:
    recipe = chat_recipe(template=template)
    with pytest.raises(RecipeError, match=message):
        causal_lm.build(recipe, recipe.preset, 1, "float32")


def test_a_text_cannot_speak_as_the_template(chat_recipe: Callable[..., Any]) -> None:
    task, _ = made(chat_recipe())
    with pytest.raises(DataError, match=r"prompt 1: holds '<.im_end.>'"):
        generation.answers(task, [[{"role": "user", "content": "a<|im_end|>b"}]], 4)


def test_a_template_is_found_in_the_tokenizers_settings(chat_preset: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(chat_preset(template=None), tmp_path / "preset"))
    chat = [{"name": "default", "template": "{{ messages[0].content }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat}), "utf-8")
    from kerastune.tasks.causal_lm.chats import PLAIN, _template

    assert _template(str(folder)) == ("{{ messages[0].content }}", "tokenizer_config.json")
    assert _template(str(chat_preset(template=None))) == (PLAIN, "plain")


def test_the_system_speaks_first_where_it_is_told_to(chat_recipe: Callable[..., Any]) -> None:
    task, splits = made(chat_recipe(data={"system": "Be brief."}))
    assert task.chat.render(messages(splits.train.read(0))).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]
    assert "Be brief." not in task.chat.render(own)


def test_prompts_are_cut_into_the_tokens_that_were_trained(chat_recipe: Callable[..., Any]) -> None:
    """KerasHub's direct call and its tf.data path differ on runs of spaces and on "'s", once there are merges."""
    task, _ = made(chat_recipe())
    tokenizer, text = task.preprocessor.tokenizer, "it  's   so"
    (graph,) = tf.data.Dataset.from_tensors([text]).map(tokenizer)
    assert task.chat.encode([text])[0] == graph.to_list()[0]
    assert tokenizer._use_tf_workflow()


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "template"), [*FAMILIES, ("Qwen", ...)])
def test_a_model_learns_its_pairs_by_heart_and_says_them(
    family: str, template: Any, chat_recipe: Callable[..., Any]
) -> None:
    """Qwen's tokenizer pads with the token that ends a text, where KerasHub's `generate` says nothing."""
    task, splits = made(recipe_of(chat_recipe, family, template))
    tokens, y = feeding.spoken(task, splits.train).tokens, tf.constant(learning.truth(task, splits.train))
    x = tokens.rows(np.arange(len(splits.train)), y.shape[1])
    loss, optimizer = mean_loss, keras.optimizers.Adam(1e-2)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            surprise = loss(y, task(x, training=True))
        optimizer.apply(tape.gradient(surprise, task.trainable_variables), task.trainable_variables)
        return surprise

    assert any(step() < 0.01 for _ in range(2000))  # how many steps that takes differs with the CPU's rounding
    talks = [messages(splits.train.read(i)) for i in range(16)]
    assert generation.answers(task, [turns[:1] for turns in talks], 12) == [turns[1]["content"] for turns in talks]


def test_a_likeliest_answer_stays_so_after_one_that_was_drawn(chat_recipe: Callable[..., Any]) -> None:
    task, _ = made(recipe_of(chat_recipe, *FAMILIES[0]))
    talks = [[{"role": "user", "content": text}] for text in ("sun 0?", "sun 0? tide 1? sun 2?")]
    expected = generation.answers(task, talks[1:], 12)
    task.chat.graphs.clear()
    generation.answers(task, talks[:1], 12)
    generation.answers(task, talks[:1], 12, temperature=5.0)
    assert generation.answers(task, talks[1:], 12) == expected  # of another length, so traced again


@pytest.mark.slow
def test_a_run_knows_its_pairs_by_heart(pairs: Path, chat_recipe: Callable[..., Any], tmp_path: Path) -> None:
    """16 pairs, 1,500 times each in one epoch: of several, that which knows the held-out pairs best would be kept."""
    lines = pairs.read_text("utf-8").splitlines()
    (tmp_path / "many.jsonl").write_text("\n".join([*lines[:16] * 1500, *lines[16:]]), "utf-8")
    recipe = chat_recipe(
        data={"path": str(tmp_path / "many.jsonl")},
        phases=[{"epochs": 1, "learning_rate": 1e-2, "lora": False, "schedule": "cosine"}],
        train={"batch_size": 16, "xla": False},
        samples={"count": 0},
    )
    run = fine_tune(recipe, tmp_path / "run")
    turns = [json.loads(line) for line in lines[:16]]
    found = predict(run, [turn["prompt"] for turn in turns], max_tokens=12)
    assert sum(one.document["answer"] == turn["response"] for one, turn in zip(found, turns, strict=True)) >= 15
    assert run.record.before["test"]["perplexity"] > 50


def test_perplexity_is_the_exponential_of_the_loss_of_all_tokens(chat_recipe: Callable[..., Any], tmp_path: Path):
    run = fine_tune(chat_recipe(train={"batch_size": 8, "precision": "float32"}), tmp_path / "run")
    found = run.record.metrics["validation"]
    kept = max(run.history, key=lambda row: (row["val_token_accuracy"], -row["val_loss"]))
    assert found["loss"] == pytest.approx(kept["val_loss"], abs=1e-5)
    assert found["token_accuracy"] == pytest.approx(kept["val_token_accuracy"], abs=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    assert train.evaluate(run)["validation"] == found
    said = run.record.generations
    assert len(said.before) == 2 and list(said.epochs) == ["1.1", "1.2"]


def test_adapters_train_by_default_and_leave_the_base_as_it_was(chat_recipe: Callable[..., Any], tmp_path: Path):
    recipe = chat_recipe(phases=[{"epochs": 1, "learning_rate": 1e-2}])
    assert recipe.phases[0].lora.rank == 8
    run = fine_tune(recipe, tmp_path / "run")
    assert run.record.phases[0].lora.rank == 8
    base, tuned = (causal_lm.build(recipe, folder, 1, "float32") for folder in (recipe.preset, str(run.folder)))
    pairs = zip(base.weights, tuned.weights, strict=True)
    moved = {before.path for before, after in pairs if not np.array_equal(before, after)}
    assert moved and all("query" in name or "value" in name for name in moved)
    assert run.record.phases[0].units[-1] == Trained("head", 0, 0, None)


def test_a_recipe_says_when_there_are_no_adapters_and_reads_itself_back(chat_recipe: Callable[..., Any]) -> None:
    import tomllib

    recipe = chat_recipe(phases=[{"lora": False}, {"unfreeze": "top:1"}, {"unfreeze": "none", "epochs": 0}])
    assert [bool(phase.lora) for phase in recipe.phases] == [False, True, False]
    assert parse(tomllib.loads(recipe.to_toml()), "again") == recipe
    with pytest.raises(RecipeError, match="a language model has none"):
        chat_recipe(phases=[{"unfreeze": "head"}])


def test_a_folder_of_images_is_no_language_model(chat_recipe: Callable[..., Any], preset: Callable[[str], Path]):
    recipe = chat_recipe().model_copy(update={"preset": str(preset("efficientnet"))})
    with pytest.raises(RecipeError, match="cannot be built as a language model"):
        causal_lm.build(recipe, recipe.preset, 1, "float32")


def test_an_interrupted_training_goes_on_to_the_same_bits_and_words(
    chat_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastune import resume
    from kerastune.training import loop

    whole = fine_tune(chat_recipe(), tmp_path / "whole")
    ended = loop.Training._end_epoch

    def stop(self: Any, *args: Any) -> None:
        ended(self, *args)
        if self.at.epoch == 2:
            self.save()
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_end_epoch", stop)
    assert fine_tune(chat_recipe(), tmp_path / "run").record.status == "interrupted"
    monkeypatch.undo()
    resumed = resume(tmp_path / "run")
    for key in ("generations", "metrics", "before"):
        assert getattr(resumed.record, key) == getattr(whole.record, key)
    assert resumed.record.phases[0].ran.frozen_sha256 == whole.record.phases[0].ran.frozen_sha256


def test_the_report_shows_what_was_said_and_shows_markup_as_text(chat_recipe: Callable[..., Any], tmp_path: Path):
    from kerastune import run
    from kerastune.reporting import report

    made_run = fine_tune(chat_recipe(), tmp_path / "run")
    record = to_json(made_run.record)
    record["generations"]["before"][0] = "<script>alert(1)</script>"
    files.write_json(made_run.folder / "run.json", record)
    page = report.write(run.load(made_run.folder)).read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert "Perplexity before" in page and "Answers" in page


def test_a_run_is_asked_on_the_command_line(chat_recipe: Callable[..., Any], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from kerastune.cli import cli

    run = fine_tune(chat_recipe(phases=[{"unfreeze": "none", "epochs": 0}]), tmp_path / "run")
    ask = ["predict", str(run.folder), "sun 0?", "--max-tokens", "6", "--json"]
    drawn = [CliRunner().invoke(cli, [*ask, "--temperature", "2", "--seed", seed]).stdout for seed in "112"]
    assert drawn[0] == drawn[1] != drawn[2]
    assert json.loads(drawn[0])[0]["input"] == "sun 0?"


def test_a_recipe_for_language_models_explains_its_mistakes(pairs: Path, chat_recipe: Callable[..., Any]) -> None:
    for data, message in (
        ({"promt_column": "p"}, "data.promt_column: unknown key (did you mean 'prompt_column'?)"),
        ({"source": "tfds"}, "data.source: 'tfds' is not one of 'csv', 'jsonl' or 'parquet'"),
        ({"today": "tomorrow"}, "data.today: 'tomorrow' is no date such as 2026-01-31"),
    ):
        with pytest.raises(RecipeError) as caught:
            chat_recipe(data=data)
        assert message in caught.value.message
    with pytest.raises(RecipeError, match=r"samples\.coumt: unknown key \(did you mean 'count'"):
        chat_recipe(samples={"coumt": 1})


def test_a_shipped_recipes_data_come_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerastune import read_recipe

    monkeypatch.chdir(tmp_path)
    splits = load(read_recipe("tone").data)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 158
    (tmp_path / "tone.jsonl").write_text("{}", "utf-8")
    assert read_recipe("tone").data.path == str(tmp_path / "tone.jsonl")  # one's own goes before it

"""Lists of messages as people write them: read where their meaning is plain, else refused with the cause."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune.data import load
from kerastune.data.splits import Splits
from kerastune.errors import DataError
from kerastune.modalities.conversation import messages
from kerastune.recipe.sources import ChatData
from kerastune.targets import chats
from kerastune.tasks.causal_lm import task as causal_lm
from kerastune.training.plan import plan

USER, ANSWER = {"role": "user", "content": "tide?"}, {"role": "assistant", "content": "low"}


def talks(path: Path, *given: Any, **settings: Any) -> Splits:
    """The conversations, among others that can be read; the first ones are in train."""
    more = [[{"role": "user", "content": f"sun {n}?"}, ANSWER] for n in range(40)]
    rows = [{"talk": talk, "split": "train"} for talk in given]
    rows += [{"talk": talk, "split": ("validation", "test")[n % 2]} for n, talk in enumerate(more)]
    if path.suffix == ".csv":
        with path.open("w") as file:
            writer = csv.writer(file)
            writer.writerows([("talk", "split"), *((json.dumps(row["talk"]), row["split"]) for row in rows)])
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    values = {"source": path.suffix[1:], "path": str(path), "messages_column": "talk", "split_column": "split"}
    return load(ChatData.model_validate(values | settings))


def read(tmp_path: Path, talk: Any) -> list[dict[str, Any]]:
    return messages(talks(tmp_path / "a.jsonl", talk).train.read(0))


def refused(tmp_path: Path, talk: Any) -> str:
    with pytest.raises(DataError) as caught:
        talks(tmp_path / "a.jsonl", talk)
    return caught.value.message


@pytest.mark.parametrize(
    "talk",
    [
        [{"from": "human", "value": "tide?"}, {"from": "gpt", "value": "low"}],
        [{"role": "user", "content": [{"type": "text", "text": "ti"}, {"type": "text", "text": "de?"}]}, ANSWER],
        [USER, {"role": "assistant", "content": ["low"]}],
        json.dumps([USER, ANSWER]),
        [USER, {**ANSWER, "weight": 1}],
        [USER, {**ANSWER, "tool_calls": None}],
    ],
    ids=["sharegpt", "parts", "strings", "json", "weight", "no call"],
)
def test_other_ways_to_write_it_mean_the_same(tmp_path: Path, talk: Any) -> None:
    assert read(tmp_path, talk) == [USER, ANSWER]


def test_a_csv_holds_lists_of_messages_as_json(tmp_path: Path) -> None:
    assert messages(talks(tmp_path / "a.csv", [USER, ANSWER]).train.read(0)) == [USER, ANSWER]


def test_what_a_tool_says_is_a_turn(tmp_path: Path) -> None:
    tool = {"role": "tool", "content": "12:40"}
    assert read(tmp_path, [USER, {"role": "assistant", "content": "I look."}, tool, ANSWER])[2] == tool


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        ([USER, {**ANSWER, "tool_calls": [{"id": 1}]}], "message 2 calls a tool (tool_calls), which is not learnt"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "message 1 holds a part of type 'image_url'"),
        ([{"from": "human", "value": 3 * [1]}, ANSWER], "message 1 holds a part of type 'whole number'"),
        ([USER, {**ANSWER, "weight": 0.5}], "message 2 has the weight 0.5; only 0 and 1 are supported"),
        ([USER, {**ANSWER, "weight": 0}], "has no message from 'assistant' to learn: all weights are 0"),
        ([{"role": "narrator", "content": "x"}, ANSWER], "message 1 is from 'narrator', not one of"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has no text"),
        ([USER, {"role": "assistant", "content": {"a": 1}}], "message 2 the text is of type object"),
        ("[1", "has no list of messages, but a text that is not JSON"),
        ([USER, {"role": "assistant", "content": "half \ud83d"}], "holds half a character"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_cause_row_and_column(tmp_path: Path, talk: Any, why: str) -> None:
    text = refused(tmp_path, talk)
    assert "a.jsonl, line 1: " in text and why in text and "(column 'talk')" in text


def test_what_was_read_specially_or_not_at_all_is_noted(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "tide?", "id": 7}, {"from": "gpt", "value": "low"}]
    notes = talks(tmp_path / "a.jsonl", talk, [{"role": "developer", "content": "Be kind."}, USER, ANSWER]).notes
    assert "1 row: keys of messages that are not read: 'id'" in notes
    assert "1 row: role 'human' read as 'user'" in notes and "1 row: role 'developer' read as 'system'" in notes


# --- what is learnt ----------------------------------------------------------------------------------------


def test_a_turn_of_weight_0_is_seen_and_not_learnt(chat_recipe: Callable[..., Any]) -> None:
    recipe = chat_recipe()
    chat = causal_lm.build(recipe, recipe.preset, 1, "float32").chat
    turns = [USER, {**ANSWER, "content": "sun"}, USER, {**ANSWER, "content": "moon"}]
    (both,) = chat.conversations([turns])
    (last,) = chat.conversations([[turns[0], {**turns[1], "weight": 0}, *turns[2:]]])
    assert last.ids == both.ids and sum(last.scored) < sum(both.scored)
    assert "moon" in chat.decode([i for i, on in zip(last.ids, last.scored, strict=True) if on])
    assert "sun" not in chat.decode([i for i, on in zip(last.ids, last.scored, strict=True) if on])


def test_a_weight_travels_to_devices(tmp_path: Path) -> None:
    talk = [USER, {**ANSWER, "weight": 0}, USER, ANSWER]
    turns = talks(tmp_path / "a.jsonl", talk).train.example(0)
    assert turns.shape == (4, 2) and np.issubdtype(turns.dtype, np.str_)
    assert chats.messages_of(turns) == [USER, {**ANSWER, "weight": 0}, USER, ANSWER]


def test_a_tool_that_the_template_does_not_write_is_refused(chat_recipe: Callable[..., Any]) -> None:
    template = (
        "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    recipe = chat_recipe(template=template)
    chat = causal_lm.build(recipe, recipe.preset, 1, "float32").chat
    turns = [USER, ANSWER, {"role": "tool", "content": "sun"}, ANSWER]
    with pytest.raises(DataError, match="line 9: the chat template does not write tool messages"):
        chat.refuse_special(["line 9"], [turns])


def test_a_training_that_is_resumed_on_another_day_keeps_its_date(chat_recipe: Callable[..., Any]) -> None:
    template = (
        "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    recipe = chat_recipe(template=template)
    assert recipe.data.today is None
    made = plan(recipe)
    today = made.task.chat.settings["today"]
    assert made.recipe.data.today == today  # and so in recipe.toml, with which a training goes on
    assert ("data.today", today) in [(one.key, one.got) for one in made.decisions]


def test_the_date_of_training_stays_with_the_model(chat_recipe: Callable[..., Any], tmp_path: Path) -> None:
    template = (
        "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    recipe = chat_recipe(template=template, data={"today": "2024-07-26"})
    model = causal_lm.build(recipe, recipe.preset, 1, "float32")
    assert model.chat.render([USER]).startswith("2024-07-26<|im_start|>")
    causal_lm.write_beside(model, tmp_path)
    assert (tmp_path / "chat_today.txt").read_text() == "2024-07-26\n"

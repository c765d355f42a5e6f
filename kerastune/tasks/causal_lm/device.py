"""Tokens and a cache in, logits and the next cache out, without TensorFlow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.data import Split, Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.conversation import CONVERSATION
from kerastune.tasks import text_device
from kerastune.tasks.causal_lm.settings import CausalLM
from kerastune.tasks.contract import Device, Form, Questions, Record, Wanted
from kerastune.tasks.learnt import LEARNT, Learnt

GOLDEN_ANSWERS = 20

_TOKENS = "ids of tokenizer.json: `reading.prefill` tokens of a prompt at a time, then one by one"


def learnt(recipe: CausalLM) -> Learnt:
    """Returns the row for answers."""
    return LEARNT[recipe.data.target]


def form(recipe: CausalLM, wanted: Wanted) -> Form:
    """Returns a form for one function of tokens and a cache, with the signatures that the format supports."""
    signature = {"serving": "serving", "graph": "serving_default", "single": "prefill+decode", "folder": "folder"}
    return Form(signature[wanted.style])


def golden(recipe: CausalLM, splits: Splits) -> list[Example]:
    """Returns validation conversations, filled up with training ones to `GOLDEN_ANSWERS`."""
    found = text_device.golden(recipe, splits)
    more = spread(splits.train, GOLDEN_ANSWERS - len(found))
    return [*found, *(splits.train.example(i) for i in more)]


def audited(recipe: CausalLM, splits: Splits) -> list[list[str]]:
    """Returns the text of every turn."""
    every = [(split, i) for split in (splits.train, splits.validation, splits.test) for i in range(len(split))]
    return [[str(content)] for split, i in every for _, content in split.example(i)]


def manifest(recipe: CausalLM, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes tokens, position and cache in, logits and the next cache out."""
    chat, text = (json.loads((work / f"{name}.json").read_text("utf-8")) for name in ("chat", "text"))
    if wanted.style == "folder":
        return _of_folder(chat, text)
    has_raw = wanted.style == "serving" and (work / "serving_text").is_dir()
    raw = {"raw": text_device.RAW, "raw_needs": "tensorflow_text"} if has_raw else {}
    cache = {"shape": chat["cache"], "dtype": "float32", "range": None}
    return {
        "signatures": list(text_device.SERVING) if wanted.style == "serving" else form.signature.split("+"),
        "reading": {**chat, "checked": text["checked"], **raw},
        "inputs": [
            {"name": "tokens", "shape": [1, None], "dtype": "int32", "range": None, "meaning": _TOKENS},
            {
                "name": "position",
                "shape": [1],
                "dtype": "int32",
                "range": None,
                "meaning": "position of the first token",
            },
            {"name": "kv_cache", **cache, "meaning": "keys and values of all earlier tokens; zeros at the beginning"},
        ],
        "outputs": [_logits(chat), {"name": "kv_cache_next", **cache, "meaning": "the next kv_cache"}],
        "preprocessing": {
            "inside": [],
            "outside": ["render chat_template.jinja", "tokenise with tokenizer.json", "choose each next token"],
        },
    }


def _of_folder(chat: Record, text: Record) -> Record:
    """Returns the entries for a language model that transformers runs with its own cache."""
    tokens = {"dtype": "int64", "range": None, "meaning": "ids of tokenizer.json"}
    return {
        "signatures": ["forward"],
        "reading": {
            **{name: value for name, value in chat.items() if name not in ("cache", "prefill")},
            "checked": text["checked"],
        },
        "inputs": [{"name": "input_ids", "shape": [1, None], **tokens}],
        "outputs": [_logits(chat)],
        "preprocessing": {"inside": [], "outside": ["PreTrainedTokenizerFast.apply_chat_template", "generate"]},
    }


def _logits(chat: Record) -> dict[str, Any]:
    shape, meaning = [1, None, chat["vocabulary"]], "logits of the token after each token"
    return {"name": "logits", "shape": shape, "dtype": "float32", "range": None, "meaning": meaning}


def questions(recipe: CausalLM, split: Split, chosen: Sequence[int]) -> Questions:
    """Returns one question for each conversation, with its answer to score."""
    return Questions((split.example(i) for i in chosen), np.arange(len(chosen)))


DEVICE: Device[CausalLM] = Device(
    modality=CONVERSATION,
    learnt=learnt,
    form=form,
    refusal=text_device.refusal,
    candidates=text_device.candidates,
    golden=golden,
    calibration=text_device.calibration,
    audited=audited,
    manifest=manifest,
    questions=questions,
    sides=lambda recipe: 1,
    serving=text_device.SERVING,
    pipeline_tag="text-generation",
    unit="a token",
    options={"max_tokens": 64, "temperature": 0.0, "seed": 0},
)

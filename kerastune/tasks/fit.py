"""Tells whether a preset knows the language of the texts: tokens a word, and the share of unknown tokens."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kerastune.data import Splits, few
from kerastune.tasks.contract import Model

_TEXTS = 400  # of each split; more change the figures by a percent
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")  # a Han or Kana character is about a word
_LONG = 1.5  # times the tokens a word of plain English: in MiniLM 1.07 for TREC, 1.25 for SMS, 2.1 for Portuguese
_UNKNOWN = 0.02

_ENGLISH = (
    "The train to the coast leaves early in the morning, so we packed our bags the night before and went to bed.",
    "She asked the manager whether the repair would take long, and he said that the parts had been ordered last week.",
    "I bought this coffee machine in spring. It is quiet, easy to clean, and the coffee is hot, but the tank is small.",
    "How many people live in the largest city of Canada, and which river runs through the middle of it?",
    "The doctor measured her blood pressure twice and told her to come back in a month if nothing had changed.",
    "Please send me the report before noon; the meeting was moved to Thursday, and everyone needs time to read it.",
)
"""Plain English: what a preset with an English vocabulary is at home in."""

MULTILINGUAL = (
    "multilingual_e5_small",
    "xlm_roberta_base_multi",
    "distil_bert_base_multi",
    "hf://intfloat/multilingual-e5-small",
    "hf://FacebookAI/xlm-roberta-base",
)
"""Presets that know about a hundred languages, the smallest first."""


def fit(model: Model, splits: Splits) -> dict[str, Any]:
    """Returns "tokens_per_word" and "unknown", the share of unknown tokens, of plain English and of each split.

    Special tokens do not count, nor does truncation. A tokenizer without an unknown token has an "unknown" of 0.
    """
    tokenizer = model.preprocessor.tokenizer
    tokenise = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])  # in a graph, as in training
    unknown = _unknown(tokenizer)
    found = {"english": _figures(tokenise, unknown, _ENGLISH)}
    for name in ("train", "validation", "test"):
        split = few(getattr(splits, name), _TEXTS)
        texts = [text for i in range(len(split)) for text in split.example(i).tolist()]
        found[name] = _figures(tokenise, unknown, texts)
    return found


def warnings(found: dict[str, Any], preset: str) -> list[str]:
    """Returns a sentence if the training texts seem to be in a language that the preset does not know, else nothing."""
    english, train = found["english"], found["train"]
    longer = train["tokens_per_word"] > _LONG * english["tokens_per_word"]
    unknown = train["unknown"] > max(_UNKNOWN, 2 * english["unknown"])
    if not (longer or unknown):
        return []
    return [
        f"the texts may be in a language or a jargon that {preset} does not know: a word of them is "
        f"{train['tokens_per_word']:.2f} tokens, and {train['unknown']:.1%} of the tokens are unknown (plain English: "
        f"{english['tokens_per_word']:.2f}, {english['unknown']:.1%}). Multilingual presets: {', '.join(MULTILINGUAL)}"
    ]


def _figures(tokenise: Callable[[Any], Any], unknown: int | None, texts: Sequence[str]) -> dict[str, float]:
    words = sum(len(_WORD.findall(text)) for text in texts)
    tokens = tokenise(tf.constant(list(texts))).flat_values.numpy()
    share = float((tokens == unknown).mean()) if unknown is not None and len(tokens) else 0.0
    return {"tokens_per_word": round(len(tokens) / max(words, 1), 3), "unknown": round(share, 4)}


def _unknown(tokenizer: Any) -> int | None:
    """Returns the id of the unknown token, or None if there is none."""
    own = getattr(tokenizer, "oov_token", None) or getattr(tokenizer, "unk_token", None) or "<unk>"
    return int(tokenizer.token_to_id(own)) if own in tokenizer.get_vocabulary() else None

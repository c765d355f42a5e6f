"""Batches of conversations as tokens, with the tokens to learn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Order, Split
from kerastune.errors import DataError
from kerastune.modalities.conversation import Message, messages
from kerastune.tasks import tokens as texts
from kerastune.tasks.contract import Model
from kerastune.tasks.image_classification.settings import Augment

Floats = npt.NDArray[np.float32]

INPUTS = {"token_ids", "padding_mask"}
UNSCORED = -1.0
"""The target of tokens that are not learnt."""


@dataclass(frozen=True)
class Lessons:
    """A split's tokenised conversations and next-token targets.

    Attributes:
        targets: id of the next token if it is the assistant's, else -1; float32 [n, longest] (exact up to 2^24).
    """

    tokens: texts.Tokens
    targets: Floats


_known: "WeakKeyDictionary[Split, dict[str, Lessons]]" = WeakKeyDictionary()


def spoken(model: Model, split: Split) -> Lessons:
    """Returns the split's conversations as tokens; tokenises them on first use.

    Raises:
        DataError: a text holds the template's markers, or truncation leaves nothing of an answer.
    """
    known, key = _known.setdefault(split, {}), preprocessing(model)
    if key not in known:
        known[key] = lessons(model, split.ids, [messages(split.read(i)) for i in range(len(split))])
    return known[key]


def lessons(model: Model, names: Sequence[str], conversations: Sequence[Sequence[Message]]) -> Lessons:
    chat, most = model.chat, model.preprocessor.sequence_length
    chat.refuse_special(names, conversations)
    found = chat.conversations(conversations)
    lengths = np.array([min(len(one.ids) - 1, most) for one in found], np.int64)  # the last token has no next one
    longest = int(lengths.max(initial=1))
    ids = np.full((len(found), longest), model.preprocessor.tokenizer.pad_token_id or 0, np.int32)
    targets = np.full((len(found), longest), UNSCORED, np.float32)
    for row, target, one, n in zip(ids, targets, found, lengths, strict=True):
        row[:n] = one.ids[:n]
        target[:n] = np.where(one.scored[1 : n + 1], one.ids[1 : n + 1], UNSCORED)
    if len(unanswered := np.flatnonzero((targets < 0).all(1))):
        listed = ", ".join(names[i] for i in unanswered[:5])
        raise DataError(
            f"{len(unanswered)} conversations are truncated at {most} tokens, before their answer: {listed}.",
            "Raise data.max_length, or shorten their prompts.",
        )
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int32)
    truncated = sum(len(one.ids) - 1 > most for one in found)
    rows = texts.Packed(("token_ids", "padding_mask"))
    rows.append({"token_ids": ids, "padding_mask": mask}, lengths)
    return Lessons(texts.Tokens(rows, lengths, truncated, texts.buckets(lengths)), targets)


def order(
    model: Model, split: Split, batch_size: int, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0
) -> Order:
    """Returns the batches of a split, each with conversations of similar length."""
    return Order(len(split), batch_size, epochs, seed, start, spoken(model, split).tokens.groups)


def batches(
    model: Model, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """Yields batches like `tokens.batches`."""
    return texts.cut(spoken(model, split).tokens, order)


def example(model: Model, split: Split, batch_size: int) -> dict[str, tf.Tensor]:
    """Returns the model inputs of the longest conversations: the largest batch."""
    return texts.longest(spoken(model, split).tokens, batch_size)


def preprocessing(model: Model, augment: Augment | None = None) -> str:
    """Returns a sha256 of everything that determines the inputs made from given conversations."""
    return hashlib.sha256(
        f"{texts.preprocessing(model)}\n{model.chat.source}\n{model.chat.system}\n{model.chat.settings['today']}".encode()
    ).hexdigest()

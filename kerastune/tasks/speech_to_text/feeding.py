"""Batches of sounds as log-mel frames, with the tokens to learn."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Order, Split
from kerastune.data.source import Problem
from kerastune.errors import DataError, listed
from kerastune.modalities import audio
from kerastune.targets.audio import fit
from kerastune.tasks import draws, tokens
from kerastune.tasks.audio_classification.feeding import changed, masked
from kerastune.tasks.audio_classification.settings import SoundAugment
from kerastune.tasks.causal_lm.feeding import UNSCORED
from kerastune.tasks.log_mel import log_mel
from kerastune.tasks.pipeline import ahead
from kerastune.tasks.speech_to_text.model import Transcriber

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_BUCKET = 8  # tokens: transcripts that differ by less are batched together

_known: "WeakKeyDictionary[Split, dict[str, Ints]]" = WeakKeyDictionary()


def written(model: Transcriber, split: Split) -> Ints:
    """Returns prompt, transcript and end token of each example, int32 [n, length + 1], padded with -1.

    Raises:
        DataError: a transcript has more tokens than the model writes.
    """
    known, key = _known.setdefault(split, {}), preprocessing(model)
    if key not in known:
        known[key] = _written(model, split.ids, [str(one) for one in split.labels])
    return known[key]


def _written(model: Transcriber, names: Sequence[str], texts: Sequence[str]) -> Ints:
    settings = model.settings
    prompt, most = settings["prompt"], settings["max_tokens"]
    ids = tokens.ids(model.parts.tokenizer, [f" {text}" for text in texts])  # a word's token has its space
    long = [
        Problem(name, f"has {len(row)} tokens")
        for name, row in zip(names, ids, strict=True)
        if len(row) >= most  # the end token needs a place
    ]
    if long:
        raise DataError(
            f"{len(long)} transcripts are longer than the {most} tokens that the model writes:\n{listed(long)}",
            "Raise max_tokens, or check that these transcripts belong to their sounds.",
        )
    rows = np.full((len(ids), len(prompt) + most + 1), -1, np.int32)
    for row, said in zip(rows, ids, strict=True):
        whole = [*prompt, *said, settings["end"]]
        row[: len(whole)] = whole
    return rows


def targets(model: Transcriber, split: Split) -> Floats:
    """Returns the token after each, where it is part of what is said or its end, else -1; float32 [n, length].

    The first end token is learnt, although its id also pads: transcripts are masked by length.
    """
    following = written(model, split)[:, 1:].astype(np.float32)
    following[:, : len(model.settings["prompt"]) - 1] = UNSCORED
    return following


def order(
    model: Transcriber, split: Split, batch_size: int, epochs: int = 1, seed: Any = None, start: int = 0
) -> Order:
    """Returns the batches of a split, each with transcripts of similar length."""
    lengths = (written(model, split) >= 0).sum(axis=1)
    return Order(len(split), batch_size, epochs, seed, start, np.asarray(lengths // _BUCKET, np.int64))


def windows(model: Transcriber, split: Split, chosen: Sequence[int]) -> Floats:
    """Returns windows of some sounds, float32 [len(chosen), samples]; decodes them in parallel."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: fit(audio.beginning(split.read(int(i)), model.samples), model.samples), chosen)
        return np.stack(list(found))


def batches(
    model: Transcriber,
    split: Split,
    order: Order,
    augment: SoundAugment | None = None,
    seed: int = 0,
    view: int | None = None,
) -> tf.data.Dataset:
    """Yields batches of ({"features": float32 [B, frames, mels], "token_ids": int32 [B, length]}, indices int64 [B]).

    Args:
        augment: random changes to the sounds and their frames, or None.
        seed: determines the changes, together with the epoch and the example.
        view: a number to draw with instead of the epoch, for a cache of augmented views.
    """
    front_end, tokens = log_mel(model.converter()), tf.constant(written(model, split)[:, :-1])

    def sounds(i: tf.Tensor) -> tf.Tensor:
        made = tf.numpy_function(lambda i: windows(model, split, i), [i], tf.float32, stateful=False)
        return tf.ensure_shape(made, [None, model.samples])

    def made(number: tf.Tensor, i: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        heard = sounds(i)
        if augment is None or not augment.any:
            frames = front_end(heard)
        else:
            keys = draws.keys(seed, draws.time(order, number, view), i)
            frames = masked(front_end(changed(heard, augment, keys)), augment, keys)
        return {"features": frames, "token_ids": tf.gather(tokens, i)}, i

    def indices() -> Iterator[npt.NDArray[np.int64]]:
        yield from order

    numbers = tf.data.Dataset.from_generator(indices, output_signature=tf.TensorSpec([None], tf.int64))
    return ahead(numbers.enumerate(order.start).map(made))


def example(model: Transcriber, split: Split, batch_size: int) -> Any:
    """Returns the first batch of model inputs, without augmentation."""
    chosen = np.argsort(-(written(model, split) >= 0).sum(axis=1), kind="stable")[:batch_size]  # the longest ones
    frames = log_mel(model.converter())(tf.constant(windows(model, split, chosen.tolist())))
    return {"features": frames, "token_ids": tf.constant(written(model, split)[chosen, :-1])}


def preprocessing(model: Transcriber, augment: SoundAugment | None = None) -> str:
    """Returns everything that determines the inputs made from given data, for the feature cache's key."""
    converter = {name: value for name, value in model.parts.converter.get_config().items() if name != "name"}
    changes = augment.model_dump() if augment else None
    return json.dumps([converter, model.settings, changes], sort_keys=True, default=str)

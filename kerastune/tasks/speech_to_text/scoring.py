"""Transcribes whole splits with the Keras model, and scores a control set."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import environment
from kerastune.data import Order, Split, Splits, picked, ragged, whole
from kerastune.data.ragged import Ragged
from kerastune.errors import KerastuneError
from kerastune.targets import speech as reader
from kerastune.tasks import traces
from kerastune.tasks.learnt.transcripts import TRANSCRIPT, predictions
from kerastune.tasks.log_mel import log_mel
from kerastune.tasks.speech_to_text.building import prompt_of
from kerastune.tasks.speech_to_text.decoding import (
    cache_shape,
    collected,
    cross_kv,
    encoder,
    limits,
    searching,
    step,
    writing,
)
from kerastune.tasks.speech_to_text.feeding import windows
from kerastune.tasks.speech_to_text.model import Transcriber, pieces
from kerastune.tasks.speech_to_text.settings import SpeechToText

_DECODED = 16  # sounds whose transcripts are written together
_CONTROL = 100  # sounds of a control set that are used, evenly spread

Kept = tuple[str, list[tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]]]
_kept: "WeakKeyDictionary[Split, Kept]" = WeakKeyDictionary()


def transcripts(
    model: Transcriber,
    split: Split,
    each: Callable[[int], None] = lambda done: None,
    prompt: list[int] | None = None,
) -> dict[str, Ragged]:
    """Returns the predictions for a whole split, in its order. Calls `each(n)` when the first n are written."""
    hear, write = _hearing(model), _compiled(model, prompt)
    tokens, margins, done = [], [], 0
    for chosen in Order(len(split), _DECODED):
        found = write(*hear(tf.constant(windows(model, split, chosen.tolist()))))
        tokens.append(found[0].numpy())
        margins.append(found[1].numpy())
        each(done := done + len(chosen))
    return collected(model, np.concatenate(tokens), np.concatenate(margins))


def answers(
    model: Transcriber,
    sounds: Sequence[npt.NDArray[np.float32]],
    timestamps: bool = False,
    beams: int | None = None,
) -> dict[str, Ragged]:
    """Returns the predictions for sounds of any length, as the reader of an artifact writes them.

    Args:
        beams: drafts that are pursued; default: the model's.
        timestamps: also give "segments", float32 [n, 2]: start and end in seconds of each line of "text".

    Raises:
        KerastuneError: the model has no times, or there are too many beams.
    """
    settings = {**model.settings, "cache": cache_shape(model), "timestamps": timestamps}
    settings |= {} if beams is None else {"beams": beams}
    if why := reader.refusal(settings, is_whole=False):
        raise KerastuneError(f"{why[0].upper()}{why[1:]}.")
    spell = partial(reader.text_of, pieces=pieces(model.parts.tokenizer, settings["words"]))
    write = partial(reader.one_by_one, _functions(model), spell, settings)
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for sound in sounds:
        for name, found in reader.transcripts(write, spell, settings, lambda: None, {"sounds": sound[None]}).items():
            rows[name] += found
    said = predictions(rows["tokens"], rows["margins"], [one.tobytes() for one in rows["text"]])
    timed = {"segments": ragged.of_rows(rows["segments"], np.zeros([0, 2], np.float32))} if timestamps else {}
    return {**said, **timed}


def _functions(model: Transcriber) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns what `kerastune.targets.speech` takes for an exported model of two functions."""
    whisper, front_end = model.whisper, log_mel(model.converter())

    def encode(sounds: Any) -> dict[str, Any]:
        return {"cross_kv": cross_kv(whisper, encoder(whisper, front_end(sounds)))}

    def decode(tokens: Any, position: Any, self_kv: Any, cross_kv: Any) -> dict[str, Any]:
        logits, following = step(whisper, tokens, position[0], self_kv, cross_kv)
        return {"logits": logits, "self_kv_next": following}

    encoding, decoding = (tf.function(one, autograph=False) for one in (encode, decode))

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        given = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        found: dict[str, Any] = (decoding if "tokens" in given else encoding)(**given)
        return found

    return run


def validated(recipe: SpeechToText, model: Transcriber, splits: Splits) -> dict[str, float]:
    """Returns the word error rate of the validation split, by decoding.

    What a frozen encoder gives is kept from epoch to epoch, in float16 as in training.
    """
    write, found = _compiled(model), []
    for encoded, limit in _heard(model, splits.validation):
        found.append([one.numpy() for one in write(tf.cast(encoded, tf.float32), tf.constant(limit))])
    tokens, margins = (np.concatenate(parts) for parts in zip(*found, strict=True))
    said = collected(model, tokens, margins)
    each = TRANSCRIPT.per_example(splits.validation.labels, said)
    return {TRANSCRIPT.metric.name: TRANSCRIPT.statistic(each)}


def controlled(recipe: SpeechToText, model: Transcriber, told: Callable[[int, int], None]) -> dict[str, dict[str, Any]]:
    """Returns the figures of the recipe's control set as {"control": …}; empty without one."""
    if recipe.control is None:
        return {}
    split = whole(recipe.control)
    step = max(len(split) // _CONTROL, 1)
    some = picked(split, range(0, len(split), step)[:_CONTROL])
    prompt = prompt_of(model.parts.tokenizer, recipe.control.language or recipe.language, recipe.translate)
    found = transcripts(model, some, lambda done: told(done, len(some)), prompt)
    return {"control": TRANSCRIPT.metrics((), some.labels, found)}


def _hearing(model: Transcriber) -> Callable[[Any], tuple[Any, Any]]:
    """Returns the function from windows to encoder outputs and limits."""

    def trace() -> Any:
        front_end = log_mel(model.converter())

        def hear(sounds: Any) -> tuple[Any, Any]:
            return encoder(model.whisper, front_end(sounds)), limits(sounds, model.settings)

        takes = [tf.TensorSpec([None, model.samples], tf.float32)]
        return tf.function(hear, input_signature=takes, autograph=False)

    found: Callable[[Any], tuple[Any, Any]] = _graph(model, "hear", trace)
    return found


def _compiled(model: Transcriber, prompt: list[int] | None = None) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns the function from encoder outputs and limits to tokens and margins, for many sounds at once."""

    def trace() -> Any:
        if model.settings.get("beams", 1) > 1:
            return searching(model, prompt)
        takes = [tf.TensorSpec([None, None, model.whisper.hidden_dim], tf.float32), tf.TensorSpec([None], tf.int32)]
        return tf.function(writing(model, prompt), input_signature=takes, autograph=False)

    found: Callable[[Any, Any], tuple[Any, Any]] = _graph(model, ("write", *(prompt or ())), trace)
    return found


def _graph(model: Transcriber, name: Any, trace: Callable[[], Any]) -> Any:
    return traces.kept(model.parts.graphs, (name, repr(model.settings)), model.whisper.weights, trace)


def _heard(model: Transcriber, split: Split) -> list[tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]]:
    """Returns encoder outputs and limits in batches; keeps them while the encoder does not change."""
    key, found = _fingerprint(model), _kept.get(split)
    if found and found[0] == key:
        return found[1]
    hear, rows = _hearing(model), []
    for chosen in Order(len(split), _DECODED):
        encoded, limit = hear(tf.constant(windows(model, split, chosen.tolist())))
        rows.append((encoded.numpy().astype(np.float16), limit.numpy()))
    if sum(encoded.nbytes for encoded, _ in rows) < environment.memory_available() / 8:
        _kept[split] = (key, rows)
    return rows


def _fingerprint(model: Transcriber) -> str:
    """Returns a hash of everything that the encoder computes with."""
    whisper, found = model.whisper, hashlib.sha256(repr(model.settings).encode())
    layers = [whisper.encoder_conv_layer_1, whisper.encoder_conv_layer_2, *whisper.encoder_transformer_layers]
    for layer in [*layers, whisper.encoder_position_embedding, whisper.encoder_layer_norm]:
        for weight in layer.weights:
            found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()

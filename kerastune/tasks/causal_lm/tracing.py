"""Exported functions of a language model, how a device uses them, and the reference outputs of Keras."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import keras_private
from kerastune.errors import KerastuneError
from kerastune.formats.graphs import Signature
from kerastune.targets import chats as reader
from kerastune.tasks.causal_lm.chats import Chat, checked, encoded, frame, unmarked
from kerastune.tasks.causal_lm.feeding import UNSCORED, Floats, lessons
from kerastune.tasks.causal_lm.generation import answer_ids, end_ids
from kerastune.tasks.causal_lm.learning import sums
from kerastune.tasks.causal_lm.settings import CausalLM
from kerastune.tasks.contract import Model

ANSWER = 48
"""Maximum tokens of a golden answer."""
_PREFILL = 64  # tokens of a prompt to read at a time
_LENGTH = 512  # tokens in an exported model's cache, or the training length if larger


def signatures(recipe: CausalLM, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an exported model: name -> (function, its inputs).

    All are one function from tokens and a cache of keys and values to logits and the next cache (KerasHub's
    `call_with_cache`): "prefill" for many tokens, "decode" for one, "serving_default" for any number.
    """
    settings = contract(model)

    def step(tokens: tf.Tensor, position: tf.Tensor, kv_cache: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, _, following = model.call_with_cache(tokens, kv_cache, position[0])
        return {"logits": tf.cast(logits, tf.float32), "kv_cache_next": following}  # [1, N, vocabulary], as kv_cache

    def taking(count: int | None) -> Signature:
        return step, [
            tf.TensorSpec([1, count], tf.int32, name="tokens"),
            tf.TensorSpec([1], tf.int32, name="position"),
            tf.TensorSpec(settings["cache"], tf.float32, name="kv_cache"),
        ]

    steps = {"prefill": taking(settings["prefill"]), "decode": taking(1), "serving_default": taking(None)}
    return steps | _of_strings(model, settings)


def _of_strings(model: Model, settings: dict[str, Any]) -> dict[str, Signature]:
    """Returns the signatures for raw prompts, with tensorflow_text: "serve_texts" answers greedily, "serve_scores"
    scores given answers like `scores`. Empty if the template must be rendered for each conversation."""
    chat: Chat = model.chat
    try:
        asked, held = frame(chat), frame(chat, answered=True)
    except ValueError:
        return {}
    stops, special = settings["stops"], sorted(set(chat.special.values()))
    filler = next(i for i in range(len(stops) + 1) if i not in stops)

    def answer(prompts: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = encoded(chat, asked, unmarked(chat, prompts))
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        longest = tf.reduce_max(lengths)
        why = f"a prompt leaves no room in {settings['length']} tokens"
        longest = checked(longest, longest < settings["length"], why)
        width = tf.minimum(longest + ANSWER, settings["length"])
        rows = {
            "token_ids": tf.pad(ids.to_tensor(filler), [[0, 0], [0, width - longest]], constant_values=filler),
            "padding_mask": tf.sequence_mask(lengths, width),
        }
        model.sampler = keras_hub.samplers.GreedySampler()
        said = tf.cast(model.generate_step(rows, stop_token_ids=stops)["token_ids"], tf.int32)  # [B, width]
        ended = tf.reduce_any(said[:, :, None] == stops, axis=-1) & ~rows["padding_mask"]
        is_said = ~rows["padding_mask"] & (tf.cumsum(tf.cast(ended, tf.int32), axis=1) == 0)
        is_said &= tf.range(width)[None] < lengths[:, None] + ANSWER
        tokens = tf.ragged.boolean_mask(said, is_said)
        is_word = is_said & ~tf.reduce_any(said[:, :, None] == special, axis=-1)
        words = model.preprocessor.tokenizer.detokenize(tf.ragged.boolean_mask(said, is_word))
        return {"answers": tf.strings.strip(words), "tokens": tokens.to_tensor(-1, shape=[None, ANSWER])}

    def score(prompts: tf.Tensor, answers: tf.Tensor) -> dict[str, tf.Tensor]:
        given = [unmarked(chat, prompts), unmarked(chat, answers)]
        ids, first = encoded(chat, held, *given), encoded(chat, asked, given[0]).row_lengths()
        whole = ids[:, : settings["scored"] + 1].to_tensor(filler)  # [B, N + 1]
        places = tf.range(tf.shape(whole, tf.int64)[1])[None]
        is_answer = (places >= first[:, None]) & (places < ids.row_lengths()[:, None])
        y = tf.where(is_answer, tf.cast(whole, tf.float32), UNSCORED)[:, 1:]
        mask = tf.cast(places < ids.row_lengths()[:, None], tf.int32)[:, :-1]
        return {"sums": sums(y, model({"token_ids": whole[:, :-1], "padding_mask": mask}, training=False))}

    texts = {name: tf.TensorSpec([None], tf.string, name=name) for name in ("prompts", "answers")}
    return {"serve_texts": (answer, [texts["prompts"]]), "serve_scores": (score, list(texts.values()))}


@functools.cache  # tracing a large model takes half a minute
def contract(model: Model) -> dict[str, Any]:
    """Returns what a device needs for a conversation, as export/chats.py describes.

    Raises:
        KerastuneError: the model's cache works differently.
    """
    most = getattr(model.backbone, "max_sequence_length", None) or math.inf
    length = int(min(max(_LENGTH, model.preprocessor.sequence_length), most))
    try:
        build = tf.function(keras_private.caching(model))
        traced = build.get_concrete_function(tf.TensorSpec([1, length], tf.int32))
        cache = traced.structured_outputs[1].shape.as_list()
    except (TypeError, AttributeError) as error:
        raise KerastuneError(
            f"A {type(model).__name__} cannot be exported: its cache of keys and values is not one tensor.",
            "The run folder is a KerasHub preset: load it with from_preset, or use kerastune predict.",
        ) from error
    return {
        **model.chat.settings,
        "stops": end_ids(model),
        # A chunk that reached beyond the cache would be shifted, and overwrite earlier tokens.
        "prefill": max(count for count in range(1, _PREFILL + 1) if length % count == 0),
        "cache": cache,
        "length": length,
        "vocabulary": int(model.output_shape[-1]),
        "scored": model.preprocessor.sequence_length,
        "max_tokens": ANSWER,
    }


def inputs(model: Model, examples: Sequence[Any]) -> list[dict[str, npt.NDArray[Any]]]:
    """Returns the beginning of each conversation as inputs of "prefill", without the leading 1."""
    settings = contract(model)
    prompts = model.chat.prompts([reader.messages_of(turns) for turns in examples])
    rows = [ids[: settings["prefill"]] for ids in prompts]
    padded = [np.pad(row, (0, settings["prefill"] - len(row))).astype(np.int32) for row in rows]
    cache = np.zeros(settings["cache"][1:], np.float32)
    return [{"tokens": row, "position": np.zeros([], np.int32), "kv_cache": cache} for row in padded]


def reference(recipe: CausalLM, model: Model, examples: Sequence[Any]) -> Floats:
    """Returns the Keras model's own scores, float32 [n, 3], one conversation at a time, without a graph or a cache."""
    found = lessons(
        model, [f"example {i}" for i in range(len(examples))], [reader.messages_of(turns) for turns in examples]
    )
    said = []
    for i, n in enumerate(found.tokens.lengths):
        x = found.tokens.rows(np.array([i]), int(n))
        said.append(sums(tf.constant(found.targets[i : i + 1, :n]), model(x, training=False)).numpy())
    return np.concatenate(said)


def golden_answers(model: Model, examples: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
    """Returns Keras's greedy answer in place of the last turn of each conversation.

    Returns:
        "answers", int32 [n, ANSWER], padded with -1; and "margins", float32 [n, ANSWER + 1]: the lead in nats of each
        token, including the end token, over the second most likely one. If it is 0, both are right.
    """
    conversations = [reader.messages_of(turns)[:-1] for turns in examples]
    prompts = model.chat.prompts(conversations)
    said = answer_ids(model, prompts, ANSWER)
    answers = np.full((len(said), ANSWER), -1, np.int32)
    margins = np.full((len(said), ANSWER + 1), np.inf, np.float32)
    for i, (prompt, ids) in enumerate(zip(prompts, said, strict=True)):
        whole = np.array([prompt + ids], np.int32)
        logits = model({"token_ids": whole, "padding_mask": np.ones_like(whole)}, training=False).numpy()[0]
        best = np.sort(logits[len(prompt) - 1 :], axis=-1)[:, -2:]
        answers[i, : len(ids)] = ids
        margins[i, : len(best)] = best[:, 1] - best[:, 0]
    return {"answers": answers, "margins": margins}

"""Causal language models: prompts and responses, with the loss on the responses only, on any KerasHub CausalLM."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets, run
from kerastune.data import Order, Split, Splits, spread
from kerastune.errors import DataError, KerastuneError, RecipeError
from kerastune.recipe import Recipe
from kerastune.targets import chats as reader
from kerastune.tasks import tokens as texts
from kerastune.tasks.causal_lm.chats import Chat, Message, chat_of, checked, encoded, file_of, frame, unmarked
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.text_classification.task import SERVING as SERVING
from kerastune.tasks.text_classification.task import Signature, set_length
from kerastune.tasks.tokens import mixing as mixing

Task: TypeAlias = Any  # a keras_hub.models.CausalLM; KerasHub has no types
Floats = npt.NDArray[np.float32]

FREE = True
"""Batches differ in length: all axes but the first."""
BEFORE = GENERATES = True
"""The model is asked before training and after each epoch."""

_INPUTS = {"token_ids", "padding_mask"}
_UNSCORED = -1.0


def build(recipe: Recipe, preset: str, num_outputs: int, precision: str) -> Task:
    """The preset's language model, as it is.

    Args:
        preset: what `recipe.preset` resolves to.
        num_outputs: not used: the outputs are the vocabulary.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset holds no language model that takes text alone, or its chat template cannot be used.
    """
    keras.config.set_dtype_policy(precision)
    unread, parts = _unread(recipe, preset), {}
    try:
        with assets.reaching(preset):
            if unread:
                parts["backbone"] = keras_hub.models.Backbone.from_preset(preset, dtype=precision, **unread)
            task = keras_hub.models.CausalLM.from_preset(preset, dtype=precision, **parts)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a language model: {error}",
            "Use a preset of a decoder (GPT-2, Llama, Qwen, Gemma, …).",
        ) from error
    if (names := {one.name for one in task.inputs}) != _INPUTS:
        raise RecipeError(
            f"preset = {recipe.preset!r} takes {', '.join(sorted(names))}, not a text alone.",
            "Use a preset of a decoder (GPT-2, Llama, Qwen, Gemma, …).",
        )
    set_length(recipe, task)
    task.chat = chat_of(preset, task.preprocessor, getattr(recipe.data, "system", None))
    return task


_ROPE = {
    "rope_frequency_adjustment_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_pretraining_sequence_length": "original_max_position_embeddings",
}


def _unread(recipe: Recipe, preset: str) -> dict[str, Any]:
    """What KerasHub 0.32 passes over in a Hugging Face config, as a backbone's arguments: a Llama's epsilon, and the
    scaling of positions where transformers 5 writes it."""
    config = json.loads(path.read_text("utf-8")) if (path := file_of(preset, "config.json")) else {}
    if (family := config.get("model_type")) not in ("llama", "mistral", "qwen2", "qwen3"):
        return {}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" and (family, kind) != ("llama", "llama3"):
        raise RecipeError(
            f"preset = {recipe.preset!r} scales its positions by {kind!r}, which KerasHub does not read for {family}: "
            "it would be another model.",
            "Use another preset.",
        )
    scaled = {name: rope[key] for name, key in _ROPE.items()} if kind == "llama3" else {}
    return {"layer_norm_epsilon": config["rms_norm_eps"], **scaled} if family == "llama" else {}


def load(folder: str, precision: str = "float32") -> Task:
    """A tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    task = keras_hub.models.CausalLM.from_preset(folder, dtype=precision)
    task.chat = chat_of(folder, task.preprocessor, getattr(run.recipe_of(Path(folder)).data, "system", None))
    return task


def write_beside(task: Task, folder: Path) -> None:
    """Writes what KerasHub's preset does not hold: the chat template."""
    (folder / reader.TEMPLATE).write_text(task.chat.source, "utf-8")


def prepare(recipe: Recipe, task: Task, splits: Splits) -> None:
    """Nothing starts from the data."""


def describe(task: Task, splits: Splits) -> dict[str, Any]:
    """What run.json says of the inputs: the template, lengths in tokens, and what is learnt and cut off."""
    parts = {name: spoken(task, getattr(splits, name)) for name in ("train", "validation", "test")}
    return {
        "chat_template": task.chat.origin,
        "sequence_length": task.preprocessor.sequence_length,
        "buckets": list(parts["train"].tokens.buckets),
        "truncated": {name: part.tokens.truncated for name, part in parts.items()},
        "tokens": {name: int(part.tokens.lengths.sum()) for name, part in parts.items()},
        "response_tokens": {name: int((part.targets >= 0).sum()) for name, part in parts.items()},
    }


# --- conversations as batches ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lessons:
    """A split's conversations: what the model sees, and what it is to say next.

    Attributes:
        targets: the next token's id where it is the assistant's, else -1; float32 [n, longest] (exact up to 2^24).
    """

    tokens: texts.Tokens
    targets: Floats


_known: "WeakKeyDictionary[Split, dict[str, Lessons]]" = WeakKeyDictionary()


def spoken(task: Task, split: Split) -> Lessons:
    """The split's conversations as tokens; tokenised when they are first asked for.

    Raises:
        DataError: a text holds the template's marks, or nothing of an answer is left of it.
    """
    known, key = _known.setdefault(split, {}), preprocessing(task)
    if key not in known:
        known[key] = _lessons(task, split.ids, [split.messages(i) for i in range(len(split))])
    return known[key]


def _lessons(task: Task, names: Sequence[str], conversations: Sequence[Sequence[Message]]) -> Lessons:
    chat, most = task.chat, task.preprocessor.sequence_length
    chat.refuse_special(names, conversations)
    found = chat.conversations(conversations)
    lengths = np.array([min(len(one.ids) - 1, most) for one in found], np.int64)  # the last token has no next one
    longest = int(lengths.max(initial=1))
    ids = np.full((len(found), longest), task.preprocessor.tokenizer.pad_token_id or 0, np.int32)
    targets = np.full((len(found), longest), _UNSCORED, np.float32)
    for row, target, one, n in zip(ids, targets, found, lengths, strict=True):
        row[:n] = one.ids[:n]
        target[:n] = np.where(one.scored[1 : n + 1], one.ids[1 : n + 1], _UNSCORED)
    if len(unanswered := np.flatnonzero((targets < 0).all(1))):
        listed = ", ".join(names[i] for i in unanswered[:5])
        raise DataError(
            f"{len(unanswered)} conversations are cut off at {most} tokens, before their answer: {listed}.",
            "Raise data.max_length, or shorten their prompts.",
        )
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int32)
    truncated = sum(len(one.ids) - 1 > most for one in found)
    rows = {"token_ids": ids, "padding_mask": mask}
    return Lessons(texts.Tokens(rows, lengths, truncated, texts.buckets(lengths)), targets)


def order(
    task: Task, split: Split, batch_size: int, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0
) -> Order:
    """The batches of a split, each of conversations of about one length."""
    return Order(len(split), batch_size, epochs, seed, start, spoken(task, split).tokens.groups)


def batches(
    task: Task, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """As `texts.batches`."""
    return texts.cut(spoken(task, split).tokens, order)


def example(task: Task, split: Split, batch_size: int) -> dict[str, tf.Tensor]:
    """Model inputs of the longest conversations: the largest batch there is."""
    return texts.longest(spoken(task, split).tokens, batch_size)


def preprocessing(task: Task, augment: Augment | None = None) -> str:
    """sha256 of everything that decides which inputs the same conversations make."""
    return hashlib.sha256(f"{texts.preprocessing(task)}\n{task.chat.source}\n{task.chat.system}".encode()).hexdigest()


# --- loss and scores ---------------------------------------------------------------------------------------


def truth(task: Task, split: Split) -> Floats:
    """What the outputs are compared with: the next token's id where it is scored, else -1; float32 [n, longest]."""
    return spoken(task, split).targets


def targets(
    target: str, num_classes: int, truth: Floats, smoothing: float = 0.0, balanced: bool = False
) -> tuple[Floats, Floats]:
    """The truth, and each conversation's weight in the loss, float32 [n]: tokens count, so all are 1."""
    return truth, np.ones(len(truth), np.float32)


def count(y: tf.Tensor) -> tf.Tensor:
    """What a batch's loss is the mean over: its scored tokens."""
    return tf.reduce_sum(tf.cast(y >= 0, tf.float32))


def loss(target: str) -> Callable[..., tf.Tensor]:
    """Cross-entropy in nats, the mean over the batch's scored tokens."""

    def mean(y: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        surprise, _, scored = _by_token(y, logits)
        return tf.reduce_sum(surprise) / tf.maximum(tf.reduce_sum(scored), 1)

    return mean


class TokenAccuracy(keras.metrics.Mean):  # type: ignore[misc]
    """The share of scored tokens that the model finds most likely, given all before them."""

    def update_state(self, y: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        _, right, scored = _by_token(y, logits)
        super().update_state(right, sample_weight=scored)


def metric(target: str) -> keras.metrics.Metric:
    """The metric that chooses the best epoch; higher is better, 1 is perfect."""
    return TokenAccuracy(name="token_accuracy")


def _by_token(y: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of each token, float32 [B, L]: cross-entropy in nats, whether it is right, whether it is scored (0 where not)."""
    y = y[:, : tf.shape(logits)[1]]
    logits = tf.cast(logits, tf.float32)
    scored = tf.cast(y >= 0, tf.float32)
    ids = tf.cast(tf.maximum(y, 0), tf.int32)
    surprise = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits) * scored
    right = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == ids, tf.float32) * scored
    return surprise, right, scored


def scores(
    target: str, task: Task, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Floats:
    """Of each conversation: cross-entropy in nats, tokens that are right, and scored tokens; float32 [n, 3] of sums.

    `each(n)` is called as the first n conversations are done.
    """

    def sums(x: dict[str, tf.Tensor], y: tf.Tensor) -> tf.Tensor:
        return _sums(y, task(x, training=False))

    specs = {name: tf.TensorSpec([None, None], tf.int32) for name in sorted(_INPUTS)}
    forward = tf.function(sums, input_signature=[specs, tf.TensorSpec([None, None])])
    known = truth(task, split)
    found = np.empty((len(split), 3), np.float32)
    done = 0
    for x, i in batches(task, split, order(task, split, batch_size)):
        found[i.numpy()] = forward(x, tf.constant(known[i.numpy()])).numpy()
        each(done := done + len(i))
    return found


def _sums(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Of each conversation, as in `scores`: float32 [B, 3]."""
    return tf.stack([tf.reduce_sum(part, axis=1) for part in _by_token(y, logits)], axis=1)


# --- generation --------------------------------------------------------------------------------------------


def sampled(recipe: Recipe, splits: Splits) -> list[list[Message]]:
    """The conversations of the validation split that the recipe's samples answer anew."""
    wanted = getattr(recipe, "samples").count  # noqa: B009  of a CausalLM recipe only
    return [splits.validation.messages(i) for i in sorted(spread(splits.validation, wanted))]


def samples(recipe: Recipe, task: Task, splits: Splits) -> list[str]:
    """What the model says, greedily, in place of the last turn of each sampled conversation."""
    prompts = [turns[:-1] for turns in sampled(recipe, splits)]
    return answers(task, prompts, getattr(recipe, "samples").max_tokens) if prompts else []  # noqa: B009


def answers(
    task: Task, conversations: Sequence[Sequence[Message]], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """What the model says next in each conversation, without the prompt.

    KerasHub's `generate` tokenises in another way than training does, and ends before its first token where the
    token that ends a text also pads; so the tokens are made and padded here.

    Args:
        max_tokens: where an answer is cut off that does not end.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn (1: as likely as the model says).
        seed: of the draws.

    Raises:
        KerastuneError: a prompt leaves the model no room to answer.
    """
    chat: Chat = task.chat
    chat.refuse_special([f"prompt {i}" for i in range(1, len(conversations) + 1)], conversations)
    return [chat.decode(ids) for ids in _answers(task, conversations, max_tokens, temperature, seed)]


def _answers(
    task: Task, conversations: Sequence[Sequence[Message]], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[list[int]]:
    """The ids of what the model says next, without what ends it."""
    chat: Chat = task.chat
    prompts = [chat.prompt(turns) for turns in conversations]
    longest = max(map(len, prompts))
    most = getattr(task.backbone, "max_sequence_length", None) or math.inf
    if longest >= most:
        raise KerastuneError(f"A prompt has {longest} tokens, and the model takes {most}, answer included.")
    width = int(min(longest + max_tokens, most))
    stops = _stops(task)
    filler = next(i for i in range(len(stops) + 1) if i not in stops)
    ids = np.full((len(prompts), width), filler, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    mask = np.arange(width) < np.array([[len(prompt)] for prompt in prompts])
    samplers = keras_hub.samplers
    drawn = samplers.RandomSampler(temperature=temperature, seed=seed) if temperature else None
    task.sampler = drawn or samplers.GreedySampler()
    step = tf.function(task.generate_step)  # traced anew: adapters come and go
    said = step({"token_ids": ids, "padding_mask": mask}, stop_token_ids=stops)["token_ids"].numpy()
    return [
        reader.until(row[len(prompt) : len(prompt) + max_tokens].tolist(), stops)
        for row, prompt in zip(said, prompts, strict=True)
    ]


def _stops(task: Task) -> list[int]:
    """Ids that end an answer."""
    return sorted({task.chat.stop, int(task.preprocessor.tokenizer.end_token_id)})


# --- what the device sees ----------------------------------------------------------------------------------

ANSWER = 48
"""Tokens of a golden answer, at most."""
_PREFILL = 64  # tokens of a prompt that are read at a time
_LENGTH = 512  # tokens that an exported model's cache holds, or as many as it was trained with


def signatures(recipe: Recipe, task: Task) -> dict[str, Signature]:
    """What an exported model may answer to: name -> (function, its inputs).

    All are one function of some tokens and a cache of keys and values, which says what comes next and the next cache
    (KerasHub's `call_with_cache`): "prefill" of many tokens, "decode" of one, "serving_default" of any number.
    """
    settings = contract(task)

    def step(tokens: tf.Tensor, position: tf.Tensor, kv_cache: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, _, following = task.call_with_cache(tokens, kv_cache, position[0])
        return {"logits": tf.cast(logits, tf.float32), "kv_cache_next": following}  # [1, N, vocabulary], as kv_cache

    def taking(count: int | None) -> Signature:
        return step, [
            tf.TensorSpec([1, count], tf.int32, name="tokens"),
            tf.TensorSpec([1], tf.int32, name="position"),
            tf.TensorSpec(settings["cache"], tf.float32, name="kv_cache"),
        ]

    steps = {"prefill": taking(settings["prefill"]), "decode": taking(1), "serving_default": taking(None)}
    return steps | _of_strings(task, settings)


def _of_strings(task: Task, settings: dict[str, Any]) -> dict[str, Signature]:
    """What takes prompts as they are, with tensorflow_text: "serve_texts" answers them greedily, "serve_scores" says as
    `scores` does what given answers are worth. None where the template must be rendered for each conversation."""
    chat: Chat = task.chat
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
        task.sampler = keras_hub.samplers.GreedySampler()
        said = tf.cast(task.generate_step(rows, stop_token_ids=stops)["token_ids"], tf.int32)  # [B, width]
        ended = tf.reduce_any(said[:, :, None] == stops, axis=-1) & ~rows["padding_mask"]
        is_said = ~rows["padding_mask"] & (tf.cumsum(tf.cast(ended, tf.int32), axis=1) == 0)
        is_said &= tf.range(width)[None] < lengths[:, None] + ANSWER
        tokens = tf.ragged.boolean_mask(said, is_said)
        is_word = is_said & ~tf.reduce_any(said[:, :, None] == special, axis=-1)
        words = task.preprocessor.tokenizer.detokenize(tf.ragged.boolean_mask(said, is_word))
        return {"answers": tf.strings.strip(words), "tokens": tokens.to_tensor(-1, shape=[None, ANSWER])}

    def score(prompts: tf.Tensor, answers: tf.Tensor) -> dict[str, tf.Tensor]:
        given = [unmarked(chat, prompts), unmarked(chat, answers)]
        ids, first = encoded(chat, held, *given), encoded(chat, asked, given[0]).row_lengths()
        whole = ids[:, : settings["scored"] + 1].to_tensor(filler)  # [B, N + 1]
        places = tf.range(tf.shape(whole, tf.int64)[1])[None]
        is_answer = (places >= first[:, None]) & (places < ids.row_lengths()[:, None])
        y = tf.where(is_answer, tf.cast(whole, tf.float32), _UNSCORED)[:, 1:]
        mask = tf.cast(places < ids.row_lengths()[:, None], tf.int32)[:, :-1]
        return {"scores": _sums(y, task({"token_ids": whole[:, :-1], "padding_mask": mask}, training=False))}

    texts = {name: tf.TensorSpec([None], tf.string, name=name) for name in ("prompts", "answers")}
    return {"serve_texts": (answer, [texts["prompts"]]), "serve_scores": (score, list(texts.values()))}


@functools.cache  # to trace a large model takes half a minute
def contract(task: Task) -> dict[str, Any]:
    """What a device needs to know to converse, as export/chats.py describes it.

    Raises:
        KerastuneError: the model keeps what it has read in another way.
    """
    most = getattr(task.backbone, "max_sequence_length", None) or math.inf
    length = int(min(max(_LENGTH, task.preprocessor.sequence_length), most))
    try:
        traced = tf.function(task._build_cache).get_concrete_function(tf.TensorSpec([1, length], tf.int32))
        cache = traced.structured_outputs[1].shape.as_list()
    except (TypeError, AttributeError) as error:
        raise KerastuneError(
            f"A {type(task).__name__} cannot be exported: its cache of keys and values is not one tensor.",
            "The run folder is a KerasHub preset: from_preset loads it, and kerastune predict asks it.",
        ) from error
    return {
        **task.chat.settings,
        "stops": _stops(task),
        # A part that reached beyond the cache would be moved, and written over others.
        "prefill": max(count for count in range(1, _PREFILL + 1) if length % count == 0),
        "cache": cache,
        "length": length,
        "vocabulary": int(task.output_shape[-1]),
        "scored": task.preprocessor.sequence_length,
        "max_tokens": ANSWER,
    }


def inputs(task: Task, examples: Sequence[Any]) -> list[dict[str, npt.NDArray[Any]]]:
    """The beginning of each conversation as "prefill" takes it, without the leading 1."""
    settings = contract(task)
    rows = [task.chat.prompt(reader.messages_of(turns))[: settings["prefill"]] for turns in examples]
    padded = [np.pad(row, (0, settings["prefill"] - len(row))).astype(np.int32) for row in rows]
    cache = np.zeros(settings["cache"][1:], np.float32)
    return [{"tokens": row, "position": np.zeros([], np.int32), "kv_cache": cache} for row in padded]


def reference(recipe: Recipe, task: Task, examples: Sequence[Any]) -> Floats:
    """What the Keras model itself says, outside any graph and without a cache, of one conversation after the other:
    as `scores`, float32 [n, 3]."""
    found = _lessons(
        task, [f"example {i}" for i in range(len(examples))], [reader.messages_of(turns) for turns in examples]
    )
    said = []
    for i, n in enumerate(found.tokens.lengths):
        x = {name: row[i : i + 1, :n] for name, row in found.tokens.rows.items()}
        said.append(_sums(tf.constant(found.targets[i : i + 1, :n]), task(x, training=False)).numpy())
    return np.concatenate(said)


def golden_answers(task: Task, examples: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
    """What Keras says greedily in place of the last turn of each conversation.

    Returns:
        "answers", int32 [n, ANSWER], -1 behind the end; and "margins", float32 [n, ANSWER + 1]: by how much each token,
        and the one that ended it, was likelier than the next likeliest, in nats. Where that is 0, both are right.
    """
    conversations = [reader.messages_of(turns)[:-1] for turns in examples]
    said = _answers(task, conversations, ANSWER)
    answers = np.full((len(said), ANSWER), -1, np.int32)
    margins = np.full((len(said), ANSWER + 1), np.inf, np.float32)
    for i, (turns, ids) in enumerate(zip(conversations, said, strict=True)):
        prompt = task.chat.prompt(turns)
        whole = np.array([prompt + ids], np.int32)
        logits = task({"token_ids": whole, "padding_mask": np.ones_like(whole)}, training=False).numpy()[0]
        best = np.sort(logits[len(prompt) - 1 :], axis=-1)[:, -2:]
        answers[i, : len(ids)] = ids
        margins[i, : len(best)] = best[:, 1] - best[:, 0]
    return {"answers": answers, "margins": margins}

"""Causal language models: prompts and responses, with the loss on responses only, for any KerasHub CausalLM."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets, keras_private
from kerastune.data import Order, Split, Splits, spread
from kerastune.errors import DataError, KerastuneError, RecipeError
from kerastune.files import write_json
from kerastune.formats.graphs import Signature
from kerastune.modalities.conversation import Message, messages
from kerastune.targets import chats as reader
from kerastune.tasks import text_models
from kerastune.tasks import tokens as texts
from kerastune.tasks.causal_lm import hugging_face
from kerastune.tasks.causal_lm.chats import Chat, chat_of, checked, encoded, file_of, frame, unmarked, write
from kerastune.tasks.causal_lm.settings import CausalLM
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Learning, Model, Targets, Task
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.pipeline import with_truth
from kerastune.tasks.text_models import set_length

Floats = npt.NDArray[np.float32]

_INPUTS = {"token_ids", "padding_mask"}
_UNSCORED = -1.0


def build(recipe: CausalLM, preset: str, num_outputs: int, precision: str) -> Model:
    """Returns the preset's unchanged language model.

    Args:
        preset: the resolved `recipe.preset`.
        num_outputs: unused; the outputs are the vocabulary.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is not a text-only language model, or its chat template cannot be used.
    """
    keras.config.set_dtype_policy(precision)
    unread, parts = _unread(recipe, preset), {}
    try:
        with assets.reaching(preset):
            if unread:
                parts["backbone"] = keras_hub.models.Backbone.from_preset(preset, dtype=precision, **unread)
            model = keras_hub.models.CausalLM.from_preset(preset, dtype=precision, **parts)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a language model: {error}",
            "Use a preset of a decoder (GPT-2, Llama, Qwen, Gemma, …).",
        ) from error
    if (names := {one.name for one in model.inputs}) != _INPUTS:
        raise RecipeError(
            f"preset = {recipe.preset!r} takes {', '.join(sorted(names))}, not only text.",
            "Use a preset of a decoder (GPT-2, Llama, Qwen, Gemma, …).",
        )
    set_length(recipe, model)
    model.chat = chat_of(preset, model.preprocessor, recipe.data)
    return model


_ROPE = {
    "rope_frequency_adjustment_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_pretraining_sequence_length": "original_max_position_embeddings",
}


def _unread(recipe: CausalLM, preset: str) -> dict[str, Any]:
    """Returns backbone arguments that KerasHub 0.32 ignores in a Hugging Face config: a Llama's epsilon, and the
    position scaling that transformers 5 writes."""
    config = json.loads(path.read_text("utf-8")) if (path := file_of(preset, "config.json")) else {}
    if (family := config.get("model_type")) not in ("llama", "mistral", "qwen2", "qwen3"):
        return {}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" and (family, kind) != ("llama", "llama3"):
        raise RecipeError(
            f"preset = {recipe.preset!r} scales its positions by {kind!r}, which KerasHub does not read for {family}: "
            "it would be a different model.",
            "Use another preset.",
        )
    scaled = {name: rope[key] for name, key in _ROPE.items()} if kind == "llama3" else {}
    return {"layer_norm_epsilon": config["rms_norm_eps"], **scaled} if family == "llama" else {}


def load(folder: str, recipe: CausalLM, precision: str = "float32") -> Model:
    """Loads a tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    model = keras_hub.models.CausalLM.from_preset(folder, dtype=precision)
    model.chat = chat_of(folder, model.preprocessor, recipe.data)
    return model


def write_beside(model: Model, folder: Path) -> None:
    """Writes the chat template, which KerasHub's preset cannot hold."""
    write(model.chat, folder)


def describe(model: Model, splits: Splits) -> dict[str, Any]:
    """Returns the template, lengths in tokens, and counts of learnt and truncated tokens, for run.json."""
    parts = {name: spoken(model, getattr(splits, name)) for name in ("train", "validation", "test")}
    return {
        "chat_template": model.chat.origin,
        "sequence_length": model.preprocessor.sequence_length,
        "buckets": list(parts["train"].tokens.buckets),
        "truncated": {name: part.tokens.truncated for name, part in parts.items()},
        "tokens": {name: int(part.tokens.lengths.sum()) for name, part in parts.items()},
        "response_tokens": {name: int((part.targets >= 0).sum()) for name, part in parts.items()},
    }


# --- conversations as batches ------------------------------------------------------------------------------


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
        known[key] = _lessons(model, split.ids, [messages(split.read(i)) for i in range(len(split))])
    return known[key]


def _lessons(model: Model, names: Sequence[str], conversations: Sequence[Sequence[Message]]) -> Lessons:
    chat, most = model.chat, model.preprocessor.sequence_length
    chat.refuse_special(names, conversations)
    found = chat.conversations(conversations)
    lengths = np.array([min(len(one.ids) - 1, most) for one in found], np.int64)  # the last token has no next one
    longest = int(lengths.max(initial=1))
    ids = np.full((len(found), longest), model.preprocessor.tokenizer.pad_token_id or 0, np.int32)
    targets = np.full((len(found), longest), _UNSCORED, np.float32)
    for row, target, one, n in zip(ids, targets, found, lengths, strict=True):
        row[:n] = one.ids[:n]
        target[:n] = np.where(one.scored[1 : n + 1], one.ids[1 : n + 1], _UNSCORED)
    if len(unanswered := np.flatnonzero((targets < 0).all(1))):
        listed = ", ".join(names[i] for i in unanswered[:5])
        raise DataError(
            f"{len(unanswered)} conversations are truncated at {most} tokens, before their answer: {listed}.",
            "Raise data.max_length, or shorten their prompts.",
        )
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int32)
    truncated = sum(len(one.ids) - 1 > most for one in found)
    rows = {"token_ids": ids, "padding_mask": mask}
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


# --- loss and scores ---------------------------------------------------------------------------------------


def truth(model: Model, split: Split) -> Floats:
    """Returns training targets: the next token's id if it is scored, else -1; float32 [n, longest]."""
    return spoken(model, split).targets


def loss(truth: tf.Tensor, outputs: tf.Tensor, weights: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sum of the cross-entropies of a batch's scored tokens in nats, and their number."""
    entropy, _, scored = _by_token(truth, outputs)
    return tf.reduce_sum(entropy), tf.maximum(tf.reduce_sum(scored), 1)


class TokenAccuracy(keras.metrics.Mean):  # type: ignore[misc]
    """Share of scored tokens that are the model's most likely ones, given all earlier tokens."""

    def update_state(self, y: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        _, right, scored = _by_token(y, logits)
        super().update_state(right, sample_weight=scored)


def metric() -> keras.metrics.Metric:
    """Returns the metric that selects the best epoch; higher is better, 1 is perfect."""
    return TokenAccuracy(name="token_accuracy")


def _by_token(y: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns each token's cross-entropy in nats, correctness, and whether it is scored (else 0): float32 [B, L]."""
    y = y[:, : tf.shape(logits)[1]]
    logits = tf.cast(logits, tf.float32)
    scored = tf.cast(y >= 0, tf.float32)
    ids = tf.cast(tf.maximum(y, 0), tf.int32)
    surprise = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits) * scored
    right = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == ids, tf.float32) * scored
    return surprise, right, scored


def scores(model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None) -> Floats:
    """Returns each conversation's cross-entropy in nats and numbers of correct and scored tokens, float32 [n, 3].

    Calls `each(n)` when the first n conversations are done.
    """

    def sums(x: dict[str, tf.Tensor], y: tf.Tensor) -> tf.Tensor:
        return _sums(y, model(x, training=False))

    specs = {name: tf.TensorSpec([None, None], tf.int32) for name in sorted(_INPUTS)}
    forward = tf.function(sums, input_signature=[specs, tf.TensorSpec([None, None])])
    known = truth(model, split)
    found = np.empty((len(split), 3), np.float32)
    done = 0
    for x, i in batches(model, split, order(model, split, batch_size)):
        found[i.numpy()] = forward(x, tf.constant(known[i.numpy()])).numpy()
        each(done := done + len(i))
    return found


def _sums(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the sums of `scores` for each conversation: float32 [B, 3]."""
    return tf.stack([tf.reduce_sum(part, axis=1) for part in _by_token(y, logits)], axis=1)


# --- generation --------------------------------------------------------------------------------------------


def sampled(recipe: CausalLM, splits: Splits) -> list[list[Message]]:
    """Returns the validation conversations that the model answers for the recipe's samples."""
    wanted = recipe.samples.count
    return [messages(splits.validation.read(i)) for i in sorted(spread(splits.validation, wanted))]


def samples(recipe: CausalLM, model: Model, splits: Splits) -> list[str]:
    """Returns the model's greedy answer in place of the last turn of each sampled conversation."""
    prompts = [turns[:-1] for turns in sampled(recipe, splits)]
    return answers(model, prompts, recipe.samples.max_tokens) if prompts else []


def answers(
    model: Model, conversations: Sequence[Sequence[Message]], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """Returns the model's next message in each conversation, without the prompt.

    KerasHub's `generate` tokenises differently from training, and stops before its first token if the end token also
    pads, so tokens are made and padded here.

    Args:
        max_tokens: maximum length of an answer.
        temperature: 0 takes the most likely token; above 0, tokens are sampled (1: from the model's distribution).
        seed: the sampling seed.

    Raises:
        KerastuneError: a prompt leaves no room for an answer.
    """
    chat: Chat = model.chat
    chat.refuse_special([f"prompt {i}" for i in range(1, len(conversations) + 1)], conversations)
    return [chat.decode(ids) for ids in _answers(model, conversations, max_tokens, temperature, seed)]


def _answers(
    model: Model, conversations: Sequence[Sequence[Message]], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[list[int]]:
    """Returns the ids of the model's next messages, without end tokens."""
    chat: Chat = model.chat
    prompts = [chat.prompt(turns) for turns in conversations]
    longest = max(map(len, prompts))
    most = getattr(model.backbone, "max_sequence_length", None) or math.inf
    if longest >= most:
        raise KerastuneError(f"A prompt has {longest} tokens, but the model takes {most}, including the answer.")
    width = int(min(longest + max_tokens, most))
    stops = _stops(model)
    filler = next(i for i in range(len(stops) + 1) if i not in stops)
    ids = np.full((len(prompts), width), filler, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    mask = np.arange(width) < np.array([[len(prompt)] for prompt in prompts])
    samplers = keras_hub.samplers
    drawn = samplers.RandomSampler(temperature=temperature, seed=seed) if temperature else None
    model.sampler = drawn or samplers.GreedySampler()
    step = tf.function(model.generate_step)  # a new trace, because adapters come and go
    said = step({"token_ids": ids, "padding_mask": mask}, stop_token_ids=stops)["token_ids"].numpy()
    return [
        reader.until(row[len(prompt) : len(prompt) + max_tokens].tolist(), stops)
        for row, prompt in zip(said, prompts, strict=True)
    ]


def _stops(model: Model) -> list[int]:
    """Returns the ids that end an answer."""
    return sorted({model.chat.stop, int(model.preprocessor.tokenizer.end_token_id)})


# --- what the device sees ----------------------------------------------------------------------------------

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
        y = tf.where(is_answer, tf.cast(whole, tf.float32), _UNSCORED)[:, 1:]
        mask = tf.cast(places < ids.row_lengths()[:, None], tf.int32)[:, :-1]
        return {"sums": _sums(y, model({"token_ids": whole[:, :-1], "padding_mask": mask}, training=False))}

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
        "stops": _stops(model),
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
    rows = [model.chat.prompt(reader.messages_of(turns))[: settings["prefill"]] for turns in examples]
    padded = [np.pad(row, (0, settings["prefill"] - len(row))).astype(np.int32) for row in rows]
    cache = np.zeros(settings["cache"][1:], np.float32)
    return [{"tokens": row, "position": np.zeros([], np.int32), "kv_cache": cache} for row in padded]


def reference(recipe: CausalLM, model: Model, examples: Sequence[Any]) -> Floats:
    """Returns the Keras model's own scores, float32 [n, 3], one conversation at a time, without a graph or a cache."""
    found = _lessons(
        model, [f"example {i}" for i in range(len(examples))], [reader.messages_of(turns) for turns in examples]
    )
    said = []
    for i, n in enumerate(found.tokens.lengths):
        x = {name: row[i : i + 1, :n] for name, row in found.tokens.rows.items()}
        said.append(_sums(tf.constant(found.targets[i : i + 1, :n]), model(x, training=False)).numpy())
    return np.concatenate(said)


def golden_answers(model: Model, examples: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
    """Returns Keras's greedy answer in place of the last turn of each conversation.

    Returns:
        "answers", int32 [n, ANSWER], padded with -1; and "margins", float32 [n, ANSWER + 1]: the lead in nats of each
        token, including the end token, over the second most likely one. If it is 0, both are right.
    """
    conversations = [reader.messages_of(turns)[:-1] for turns in examples]
    said = _answers(model, conversations, ANSWER)
    answers = np.full((len(said), ANSWER), -1, np.int32)
    margins = np.full((len(said), ANSWER + 1), np.inf, np.float32)
    for i, (turns, ids) in enumerate(zip(conversations, said, strict=True)):
        prompt = model.chat.prompt(turns)
        whole = np.array([prompt + ids], np.int32)
        logits = model({"token_ids": whole, "padding_mask": np.ones_like(whole)}, training=False).numpy()[0]
        best = np.sort(logits[len(prompt) - 1 :], axis=-1)[:, -2:]
        answers[i, : len(ids)] = ids
        margins[i, : len(best)] = best[:, 1] - best[:, 0]
    return {"answers": answers, "margins": margins}


# --- the row -------------------------------------------------------------------------------------------------


def _targets(recipe: CausalLM, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    known = truth(model, getattr(splits, name))
    return Targets(known, np.ones(len(known), np.float32))  # tokens are counted, so each conversation has weight 1


def _batches(
    recipe: CausalLM, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    return with_truth(batches(model, split, order), targets)


def _answer(recipe: CausalLM, model: Model, examples: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the texts of the answers, one prompt at a time: a batch would need a cache for each."""
    asked = (reader.messages_of(turns) for turns in examples)
    return {"texts": np.array([answers(model, [turns], **options)[0] for turns in asked])}


def trace(recipe: CausalLM, model: Model, work: Path, wanted: Sequence[str]) -> None:
    """Writes the tokenizer, the chat template, the settings for devices, and Keras's answers."""
    text_models.write_tokenizer(model, work, 1)
    calibration, golden = (_stored(work / f"{name}.npz") for name in ("calibration", "golden"))
    text_models.write_calibration(inputs(model, calibration), work)
    write_json(work / "chat.json", contract(model))
    write_beside(model, work / "tokenizer")
    np.savez(work / "answers.npz", allow_pickle=False, **golden_answers(model, golden))


def _stored(path: Path) -> list[Any]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def _write_folder(recipe: CausalLM, model: Model, work: Path, folder: Path) -> None:
    hugging_face.write(model, contract(model), work / "tokenizer", folder)


TASK: Task[CausalLM] = Task(
    building=Building(
        build=build,
        prepare=lambda recipe, model, splits: None,
        describe=lambda recipe, model, splits: describe(model, splits),
        load=load,
        write_beside=write_beside,
        vary=lambda model, inputs: None,  # its outputs already differ between texts
        largest_product=text_models.largest_product,
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model),
        shapes="bucketed",
    ),
    learning=Learning(
        targets=_targets,
        loss=lambda recipe: loss,
        meter=lambda recipe: metric(),
        validated=None,
        starts=True,
        sampled=sampled,
        samples=samples,
    ),
    predict=lambda recipe, model, split, batch_size, told: {"sums": scores(model, split, batch_size, told)},
    answer=_answer,
    signatures=signatures,
    trace=trace,
    reference=lambda recipe, model, examples: {"sums": reference(recipe, model, examples)},
    folder=_write_folder,
)

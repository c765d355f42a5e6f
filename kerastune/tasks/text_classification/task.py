"""Text classification: labels, or a number, for a text or a pair, on any KerasHub backbone with a TextClassifier."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets
from kerastune.data import Split, Splits
from kerastune.errors import RecipeError
from kerastune.recipe import Recipe
from kerastune.tasks.labels import activated
from kerastune.tasks.labels import count as count
from kerastune.tasks.labels import loss as loss
from kerastune.tasks.labels import metric as metric
from kerastune.tasks.labels import scatter as scatter
from kerastune.tasks.labels import targets as targets
from kerastune.tasks.labels import truth as truth
from kerastune.tasks.tokens import Ints, batches, order, tokenised, tokens
from kerastune.tasks.tokens import example as example
from kerastune.tasks.tokens import mixing as mixing
from kerastune.tasks.tokens import preprocessing as preprocessing

Task: TypeAlias = Any  # a keras_hub.models.TextClassifier; KerasHub has no types
Scores = npt.NDArray[np.float32]
Signature: TypeAlias = tuple[Callable[..., dict[str, tf.Tensor]], list[tf.TensorSpec]]
"""A function of tensors to named tensors, and the names, shapes and dtypes of what it takes."""

FREE = True
"""Batches differ in length: all axes but the first."""
BEFORE = GENERATES = False


def build(recipe: Recipe, preset: str, num_outputs: int, precision: str) -> Task:
    """The preset's backbone under a new, randomly initialised head of `num_outputs` logits.

    Args:
        preset: what `recipe.preset` resolves to.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset holds no text classifier, or cannot take texts of that length.
    """
    keras.config.set_dtype_policy(precision)  # the head follows the global policy, the backbone its own
    try:
        with assets.reaching(preset):
            backbone = keras_hub.models.Backbone.from_preset(preset, dtype=precision)
            task = keras_hub.models.TextClassifier.from_preset(preset, backbone=backbone, num_classes=num_outputs)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a text classifier: {error}",
            "Use a preset of a text encoder (BERT, RoBERTa, DistilBERT, DeBERTa, …).",
        ) from error
    set_length(recipe, task)
    return task


def set_length(recipe: Recipe, task: Task) -> None:
    """Lets the preprocessor cut texts off where the recipe, the preset or the model says."""
    if task.preprocessor is None:
        raise RecipeError(
            f"preset = {recipe.preset!r} brings no preprocessor, so nothing says how texts become model inputs.",
            "Save the preset with its preprocessor (task.save_to_preset), or use another.",
        )
    asked, most = getattr(recipe.data, "max_length", None), getattr(task.backbone, "max_sequence_length", None)
    if asked and most and asked > most:
        raise RecipeError(f"data.max_length = {asked}, and {recipe.preset} takes {most} tokens at most.")
    own = asked or task.preprocessor.sequence_length or most or 512
    task.preprocessor.sequence_length = min(own, most or own)


def prepare(recipe: Recipe, task: Task, splits: Splits) -> None:
    """A model of numbers starts at their mean: the head then learns how they differ."""
    if recipe.data.target == "number":
        head = next(layer for layer in reversed(task.layers) if isinstance(layer, keras.layers.Dense))
        head.bias.assign(splits.train.labels.mean(axis=0))


def describe(task: Task, splits: Splits) -> dict[str, Any]:
    """What run.json says of the inputs: lengths in tokens, and how many texts were cut off."""
    parts = {name: tokens(task, getattr(splits, name)) for name in ("train", "validation", "test")}
    return {
        "sequence_length": task.preprocessor.sequence_length,
        "buckets": list(parts["train"].buckets),
        "truncated": {name: part.truncated for name, part in parts.items()},
    }


def load(folder: str, precision: str = "float32") -> Task:
    """A tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    return keras_hub.models.TextClassifier.from_preset(folder, dtype=precision)


def scores(
    target: str, task: Task, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Scores:
    """What `labels.activated` makes of a whole split: float32 [n, num_classes], in the split's order.

    `each(n)` is called as the first n examples are done.
    """
    forward = tf.function(
        lambda x: activated(target, task(x, training=False)),
        input_signature=[{k: tf.TensorSpec([None, None], tf.int32) for k in tokens(task, split).rows}],
    )
    found = np.empty((len(split), task.num_classes), np.float32)
    done = 0
    for x, i in batches(task, split, order(task, split, batch_size)):
        found[i.numpy()] = forward(x).numpy()
        each(done := done + len(i))
    return found


# --- what the device sees ----------------------------------------------------------------------------------


def device_function(target: str, task: Task) -> Callable[..., dict[str, tf.Tensor]]:
    """Token ids in, scores out: int32 [B, L] an input, in the order of `input_names` -> {"scores": float32 [B, K]}."""
    names = input_names(task)

    def device(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = task(dict(zip(names, tensors, strict=True)), training=False)
        return {"scores": tf.identity(activated(target, logits), name="scores")}

    return device


def text_function(device: Callable[..., dict[str, tf.Tensor]], task: Task) -> Callable[..., dict[str, tf.Tensor]]:
    """A function of token ids as one of raw texts, with tensorflow_text: string [B], one or two of them."""
    names = input_names(task)

    def whole(*texts: tf.Tensor) -> dict[str, tf.Tensor]:
        # With a target beside it: the preprocessor would take a bare pair for a text and its target.
        x, _ = task.preprocessor((texts if len(texts) > 1 else texts[0], tf.zeros_like(texts[0], tf.float32)))
        if "padding_mask" in x:  # padded to the longest text, not to the longest that there may be
            longest = tf.reduce_max(tf.reduce_sum(tf.cast(x["padding_mask"], tf.int32), axis=1))
            x = {name: value[:, :longest] for name, value in x.items()}
        return device(*(tf.cast(x[name], tf.int32) for name in names))

    return whole


def input_names(task: Task) -> list[str]:
    """What an exported model takes, in order."""
    return sorted(one.name for one in task.inputs)


SERVING = ("serving_default",)
"""The signatures that TensorFlow Serving answers to. `serve_texts` has operators that it may lack, and stands apart."""


def signatures(recipe: Recipe, task: Task) -> dict[str, Signature]:
    """What an exported model may answer to: name -> (function, its inputs).

    "any_length" is `serving_default` for one text, "fixed_length" for one that is padded to the longest there may be.
    """
    sides = ("texts", "pairs") if getattr(recipe.data, "paired", False) else ("texts",)
    return signed(device_function(recipe.data.target, task), task, sides)


def signed(tokens: Callable[..., dict[str, tf.Tensor]], task: Task, sides: Sequence[str]) -> dict[str, Signature]:
    """The signatures of a function of token ids; `sides` name the raw texts that it takes."""
    names, texts = input_names(task), text_function(tokens, task)

    def specs(*shape: int | None) -> list[tf.TensorSpec]:
        return [tf.TensorSpec(shape, tf.int32, name=name) for name in names]

    return {
        "serving_default": (tokens, specs(None, None)),
        "serve_texts": (texts, [tf.TensorSpec([None], tf.string, name=name) for name in sides]),
        "any_length": (tokens, specs(1, None)),
        "fixed_length": (tokens, specs(1, task.preprocessor.sequence_length)),
    }


def inputs(task: Task, examples: Sequence[Sequence[str]]) -> list[dict[str, Ints]]:
    """Each example as an exported model takes it, int32 [L] by name."""
    found = tokenised(task.preprocessor, examples)
    return [{name: row[i, :end] for name, row in found.rows.items()} for i, end in enumerate(found.lengths)]


def reference(recipe: Recipe, task: Task, examples: Sequence[Sequence[str]]) -> Scores:
    """What the Keras model itself says, outside any graph, of one text or pair after the other: float32 [n, K]."""
    said = [
        activated(recipe.data.target, task({name: row[None] for name, row in x.items()}, training=False)).numpy()
        for x in inputs(task, examples)
    ]
    return np.concatenate(said)

"""Text classification: labels, or a number, for a text or a pair, on any KerasHub backbone with a TextClassifier."""

from collections.abc import Callable
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
from kerastune.tasks.labels import loss as loss
from kerastune.tasks.labels import metric as metric
from kerastune.tasks.labels import targets as targets
from kerastune.tasks.texts import batches, order, tokens
from kerastune.tasks.texts import example as example
from kerastune.tasks.texts import mixing as mixing
from kerastune.tasks.texts import preprocessing as preprocessing

Task: TypeAlias = Any  # a keras_hub.models.TextClassifier; KerasHub has no types
Scores = npt.NDArray[np.float32]

FREE = True
"""Batches differ in length: all axes but the first."""


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

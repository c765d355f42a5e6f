"""Text classification: labels or a number for a text or a pair, with any KerasHub backbone with a TextClassifier."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets
from kerastune.data import Split, Splits
from kerastune.errors import RecipeError, shortened
from kerastune.formats.graphs import Signature
from kerastune.records import Decision
from kerastune.tasks import fit, losses, text_models
from kerastune.tasks.contract import Building, Model, Task
from kerastune.tasks.losses import activated
from kerastune.tasks.text_classification import choosing, pooled
from kerastune.tasks.text_classification.settings import TextClassification
from kerastune.tasks.text_models import input_names, inputs, set_length, signed
from kerastune.tasks.tokens import batches, order, tokens

Scores = npt.NDArray[np.float32]


def build(recipe: TextClassification, preset: str, num_outputs: int, precision: str) -> Model:
    """Builds the preset's backbone with a new, randomly initialised head of `num_outputs` logits.

    With `head = "auto"` it is KerasHub's own, until `settled` has measured.

    Args:
        preset: the resolved `recipe.preset`.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is not a text classifier, or does not support that length.
    """
    keras.config.set_dtype_policy(precision)  # the head follows the global policy, the backbone its own
    try:
        with assets.reaching(preset):
            backbone = keras_hub.models.Backbone.from_preset(preset, dtype=precision)
            model = keras_hub.models.TextClassifier.from_preset(preset, backbone=backbone, num_classes=num_outputs)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a text classifier: {shortened(str(error), 500)}",
            "Use a preset of a text encoder (BERT, RoBERTa, DistilBERT, DeBERTa, …).",
        ) from error
    set_length(recipe, model)
    if recipe.head in ("auto", "pooler"):
        return model
    if recipe.head not in pooled.vectors(model.backbone):
        raise RecipeError(
            f"head = {recipe.head!r}: the inputs of {type(model.backbone).__name__} do not tell words from padding.",
            'Use head = "pooler" or "cls".',
        )
    return pooled.with_pooling(model, recipe.head, recipe.seed)


def settled(
    recipe: TextClassification, model: Model, splits: Splits
) -> tuple[TextClassification, Model, list[Decision]]:
    """Returns the recipe and the model with the head that `auto` chooses."""
    if recipe.head != "auto":
        return recipe, model, []
    decision = choosing.choose(model, splits.train, choosing.own_pooling(assets.resolve_preset(recipe.preset)))
    head = str(decision.got)
    if head != "pooler":
        model = pooled.with_pooling(model, head, recipe.seed)
    return recipe.model_copy(update={"head": head}), model, [decision]


def describe(model: Model, splits: Splits, preset: str) -> dict[str, Any]:
    """Returns lengths in tokens, the number of truncated texts, the head, and how the tokens fit, for run.json."""
    parts = {name: tokens(model, getattr(splits, name)) for name in ("train", "validation", "test")}
    suits = fit.fit(model, splits)
    return {
        "sequence_length": model.preprocessor.sequence_length,
        "buckets": list(parts["train"].buckets),
        "truncated": {name: part.truncated for name, part in parts.items()},
        "head": getattr(model, "pooling", "pooler"),
        "tokens": suits,
        "warnings": fit.warnings(suits, preset),
    }


def load(folder: str, precision: str = "float32") -> Model:
    """Loads a tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    return pooled.load(Path(folder), precision) or keras_hub.models.TextClassifier.from_preset(folder, dtype=precision)


def scores(
    target: str, model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Scores:
    """Returns the scores (`losses.activated`) of a whole split: float32 [n, num_classes], in its order.

    Calls `each(n)` when the first n examples are done.
    """
    forward = tf.function(
        lambda x: activated(target, model(x, training=False)),
        input_signature=[{k: tf.TensorSpec([None, None], tf.int32) for k in tokens(model, split).rows.names}],
    )
    found = np.empty((len(split), model.num_classes), np.float32)
    done = 0
    for x, i in batches(model, split, order(model, split, batch_size)):
        found[i.numpy()] = forward(x).numpy()
        each(done := done + len(i))
    return found


# --- what the device sees ----------------------------------------------------------------------------------


def device_function(target: str, model: Model) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns the function from token ids, int32 [B, L] each (`input_names`), to {"scores": float32 [B, K]}."""
    names = input_names(model)

    def device(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(dict(zip(names, tensors, strict=True)), training=False)
        return {"scores": tf.identity(activated(target, logits), name="scores")}

    return device


def signatures(recipe: TextClassification, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an exported model: name -> (function, its inputs).

    "any_length" is `serving_default` for one text, "fixed_length" for one that is padded to the longest there may be.
    """
    sides = ("texts", "pairs") if recipe.data.paired else ("texts",)
    return signed(device_function(recipe.data.target, model), model, sides)


def reference(recipe: TextClassification, model: Model, examples: Sequence[Any]) -> Scores:
    """Returns the Keras model's own scores, outside any graph, one text or pair at a time: float32 [n, K]."""
    said = [
        activated(recipe.data.target, model({name: row[None] for name, row in x.items()}, training=False)).numpy()
        for x in inputs(model, examples)
    ]
    return np.concatenate(said)


def _target(recipe: TextClassification) -> str:
    return recipe.data.target


TASK: Task[TextClassification] = Task(
    building=Building(
        build=lambda recipe, preset, splits, precision: build(recipe, preset, len(splits.labels), precision),
        prepare=losses.start_at_the_mean,
        describe=lambda recipe, model, splits: describe(model, splits, recipe.preset),
        load=lambda folder, recipe, precision: load(folder, precision),
        write_beside=lambda model, folder: None,
        # Untrained, texts differ little: a head that told them further apart would tell rounding apart.
        vary=lambda model, inputs: losses.vary(model, inputs, 0.2),
        largest_product=text_models.largest_product,
        settled=settled,
    ),
    feeding=text_models.FEEDING,
    learning=losses.learning(_target),
    predict=lambda recipe, model, split, batch_size, told: {
        "scores": scores(recipe.data.target, model, split, batch_size, told)
    },
    answer=lambda recipe, model, examples, options: {"scores": reference(recipe, model, examples)},
    signatures=signatures,
    trace=lambda recipe, model, work, wanted: text_models.trace(model, work, 1 + recipe.data.paired),
    reference=lambda recipe, model, examples: {"scores": reference(recipe, model, examples)},
)

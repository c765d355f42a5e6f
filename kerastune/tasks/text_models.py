"""Parts that all text models share: lengths, signatures, batches, and tokenizers for devices."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerastune.data import Order, Split
from kerastune.errors import RecipeError
from kerastune.files import write_json
from kerastune.formats.graphs import Signature
from kerastune.tasks import tokenizer
from kerastune.tasks import tokens as texts
from kerastune.tasks.contract import Changes, Dataset, Feeding, Model, Targets
from kerastune.tasks.pipeline import with_truth
from kerastune.tasks.tokens import Ints, tokenised

TextRecipe = Any  # a recipe whose data have `max_length`

_BLOCK = 4096  # texts tokenised at a time
_SHOWN = 10  # texts quoted in a manifest because devices tokenise them differently


def set_length(recipe: TextRecipe, model: Model) -> None:
    """Sets the preprocessor's maximum length from the recipe, the preset or the model."""
    if model.preprocessor is None:
        raise RecipeError(
            f"preset = {recipe.preset!r} has no preprocessor, so nothing defines how texts become model inputs.",
            "Save the preset with its preprocessor (model.save_to_preset), or use another.",
        )
    asked, most = recipe.data.max_length, getattr(model.backbone, "max_sequence_length", None)
    if asked and most and asked > most:
        raise RecipeError(f"data.max_length = {asked}, but {recipe.preset} takes at most {most} tokens.")
    own = asked or model.preprocessor.sequence_length or most or 512
    model.preprocessor.sequence_length = min(own, most or own)


def text_function(device: Callable[..., dict[str, tf.Tensor]], model: Model) -> Callable[..., dict[str, tf.Tensor]]:
    """Turns a function of token ids into one of one or two raw texts, string [B], with tensorflow_text."""
    names = input_names(model)

    def whole(*texts: tf.Tensor) -> dict[str, tf.Tensor]:
        # With a dummy target: the preprocessor would take a bare pair for a text and its target.
        x, _ = model.preprocessor((texts if len(texts) > 1 else texts[0], tf.zeros_like(texts[0], tf.float32)))
        if "padding_mask" in x:  # padded to the longest text, not to the maximum length
            longest = tf.reduce_max(tf.reduce_sum(tf.cast(x["padding_mask"], tf.int32), axis=1))
            x = {name: value[:, :longest] for name, value in x.items()}
        return device(*(tf.cast(x[name], tf.int32) for name in names))

    return whole


def input_names(model: Model) -> list[str]:
    """Returns the inputs of an exported model, in order."""
    return sorted(one.name for one in model.inputs)


def signed(tokens: Callable[..., dict[str, tf.Tensor]], model: Model, sides: Sequence[str]) -> dict[str, Signature]:
    """Returns the signatures of a function of token ids; `sides` name its raw texts."""
    names, texts = input_names(model), text_function(tokens, model)

    def specs(*shape: int | None) -> list[tf.TensorSpec]:
        return [tf.TensorSpec(shape, tf.int32, name=name) for name in names]

    return {
        "serving_default": (tokens, specs(None, None)),
        "serve_texts": (texts, [tf.TensorSpec([None], tf.string, name=name) for name in sides]),
        "any_length": (tokens, specs(1, None)),
        "fixed_length": (tokens, specs(1, model.preprocessor.sequence_length)),
    }


def inputs(model: Model, examples: Sequence[Any]) -> list[dict[str, Ints]]:
    """Returns each example as inputs of an exported model, int32 [L] by name."""
    found = tokenised(model.preprocessor, examples)
    rows = (found.rows(np.array([i]), int(end)) for i, end in enumerate(found.lengths))
    return [{name: row[0] for name, row in one.items()} for one in rows]


def largest_product(model: Model) -> Any:
    """Returns the largest kernel of the backbone: text models spend their time in matrix products."""
    kernels = [weight for weight in model.backbone.weights if "kernel" in weight.name]
    return max(kernels, key=lambda weight: int(np.prod(weight.shape)))


def _batches(
    recipe: TextRecipe, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    return with_truth(texts.batches(model, split, order), targets)


FEEDING: Feeding[Any] = Feeding(
    order=lambda recipe, *rest: texts.order(*rest),
    batches=_batches,
    example=lambda recipe, model, split, batch_size: texts.example(model, split, batch_size),
    fingerprint=lambda recipe, model, changed: texts.preprocessing(model),
    shapes="bucketed",
)
"""Batches of texts of similar length."""


def write_tokenizer(model: Model, work: Path, sides: int) -> dict[str, Any]:
    """Writes tokenizer.json, and counts the audited texts that a device would tokenise differently.

    Returns:
        How to pack ids, as export/texts.py describes; also written to WORK/text.json.
    """
    (work / "tokenizer").mkdir()
    packing = tokenizer.write(model.preprocessor, work / "tokenizer")
    parts: list[list[str]] = json.loads((work / "audited.json").read_text("utf-8"))
    parts += [[text] * sides for text in tokenizer.NASTY]
    blocks = [parts[at : at + _BLOCK] for at in range(0, len(parts), _BLOCK)]
    differences = partial(tokenizer.differences, model.preprocessor, work / "tokenizer", packing)
    apart = [one for block in blocks for one in differences(block)]
    checked = {"texts": len(parts), "differ": len(apart), "examples": [one["text"] for one in apart[:_SHOWN]]}
    write_json(work / "text.json", {**packing, "pairs": sides > 1, "checked": checked})
    return packing


def write_calibration(rows: Sequence[dict[str, Any]], work: Path) -> dict[str, Any]:
    """Writes the calibration examples as model inputs to WORK/calibration.npz, and returns them."""
    named = {f"{i:03}/{key}": row for i, one in enumerate(rows) for key, row in one.items()}
    np.savez(work / "calibration.npz", allow_pickle=False, **named)
    return named


def trace(model: Model, work: Path, sides: int) -> None:
    """Writes the tokenizer and the calibration examples as tokens, for a model with one output."""
    packing = write_tokenizer(model, work, sides)
    with np.load(work / "calibration.npz", allow_pickle=False) as stored:
        examples = [stored[name].tolist() for name in stored.files]
    named = write_calibration(inputs(model, examples), work)
    padded = {key: _padded(row, packing, key.endswith("token_ids")) for key, row in named.items()}
    np.savez(work / "calibration_fixed.npz", allow_pickle=False, **padded)


def _padded(row: Any, packing: dict[str, Any], is_tokens: bool) -> Any:
    room = packing["sequence_length"] - len(row)
    return np.pad(row, (0, room), constant_values=packing["pad"] if is_tokens else 0)

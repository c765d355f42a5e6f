"""Image classification: labels or a number for an image, with any KerasHub backbone that has an ImageClassifier.

The preset's own image converter prepares pixels, both in training and inside every exported graph: float32 0..255 RGB
-> resize -> scale and offset. A difference between the two is the most common deployment bug.
"""

import json
from collections.abc import Callable
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from kerastune import assets, keras_private
from kerastune.data import Order, Split
from kerastune.errors import RecipeError, shortened
from kerastune.tasks import draws, losses
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Model, Targets, Task
from kerastune.tasks.image_backbones import at_size
from kerastune.tasks.image_classification.feeding import (
    batches,
    decoded,
    example,
    order,
    preprocessing,
    training,
)
from kerastune.tasks.image_classification.mixing import mixing, weighed
from kerastune.tasks.image_classification.settings import ImageClassification
from kerastune.tasks.image_classification.tracing import Scores, reference, signatures, trace
from kerastune.tasks.losses import activated
from kerastune.tasks.pipeline import with_truth


def build(recipe: ImageClassification, preset: str, num_outputs: int, precision: str) -> Model:
    """Builds the preset's backbone with a new, randomly initialised head of `num_outputs` logits.

    Args:
        preset: the resolved `recipe.preset`.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is not an image classifier, or does not support the image size.
    """
    image_size: int | None = recipe.data.image_size
    keras.config.set_dtype_policy(precision)  # the head follows the global policy, the backbone its own
    try:
        with assets.reaching(preset):
            backbone = at_size(
                keras_hub.models.Backbone.from_preset(preset, dtype=precision),
                (image_size, image_size) if image_size else None,
            )
            model = keras_hub.models.ImageClassifier.from_preset(
                preset, backbone=backbone, num_classes=num_outputs, activation="linear"
            )
    except ValueError as error:
        raise RecipeError(
            f"preset = {preset!r} cannot be built as an image classifier"
            + (f" at image_size = {image_size}" if image_size else "")
            + f": {shortened(str(error), 500)}",
            "Use a preset of an image backbone (EfficientNet, MobileNet, ResNet, ViT, …); leave out "
            "data.image_size for backbones with position embeddings.",
        ) from error
    if model.preprocessor is not None and model.preprocessor.image_converter is None:
        model.preprocessor.image_converter = hugging_face_converter(preset, model.preprocessor)
    if model.preprocessor is None or model.preprocessor.image_converter is None:
        raise RecipeError(
            f"preset = {preset!r} has no image converter, so nothing defines how pixels become model inputs.",
            "Save the preset with its preprocessor (model.save_to_preset), or use another.",
        )
    converter = model.preprocessor.image_converter
    own = backbone.input_shape[1:3]
    size = own if None not in own else (image_size, image_size) if image_size else converter.image_size
    if size is None:
        raise RecipeError(f"preset = {preset!r} does not define its image size.", "Set data.image_size.")
    converter.image_size = (int(size[0]), int(size[1]))
    return model


def hugging_face_converter(preset: str, preprocessor: Any) -> Any:
    """Returns the image converter that a Hugging Face checkpoint describes, which KerasHub 0.32 does not read.

    Returns None if the checkpoint has no preprocessor_config.json.
    """
    path = keras_private.preset_file(preset, "preprocessor_config.json")
    if path is None:
        return None
    config = json.loads(path.read_text("utf-8"))
    ones, zeros = [1.0] * 3, [0.0] * 3
    deviation = config.get("image_std", ones) if config.get("do_normalize", True) else ones
    mean = config.get("image_mean", zeros) if config.get("do_normalize", True) else zeros
    rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    size = config.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    return preprocessor.image_converter_cls(
        image_size=(side, side) if side else None,
        scale=[rescale / d for d in deviation],
        offset=[-m / d for m, d in zip(mean, deviation, strict=True)],
        interpolation={0: "nearest", 3: "bicubic"}.get(config.get("resample", 2), "bilinear"),  # PIL's numbers
        crop_to_aspect_ratio=bool(config.get("do_center_crop", False)),
    )


def load(folder: str, precision: str = "float32") -> Model:
    """Loads a tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    return keras_hub.models.ImageClassifier.from_preset(folder, dtype=precision)


def describe(model: Model) -> dict[str, Any]:
    """Returns the height and width in pixels, for run.json."""
    return {"image_size": list(model.preprocessor.image_converter.image_size)}


# --- scoring --------------------------------------------------------------------------------------------------


def scores(
    target: str, model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Scores:
    """Returns the scores (`losses.activated`) of a whole split: float32 [n, K], in its order.

    Calls `each(n)` when the first n examples are done.
    """
    forward = tf.function(lambda x: activated(target, model(x, training=False)))
    found: list[Scores] = []
    done = 0
    for x, _ in batches(model, split, order(model, split, batch_size)):
        found.append(forward(x).numpy())
        done += len(found[-1])
        each(done)
    return np.concatenate(found)


# --- the row --------------------------------------------------------------------------------------------------


def _batches(
    recipe: ImageClassification, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    if changes is None:
        return with_truth(training(model, split, order), targets)
    augment = recipe.augment
    found = with_truth(training(model, split, order, augment, changes.seed, changes.view), targets)
    mix = mixing(augment) if changes.view is None else None
    if mix is None:
        return found

    def mixed(number: Any, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        x, y, weights, i = batch
        keys = draws.keys(changes.seed, draws.time(order, number, None), i)
        if recipe.train.class_weights == "none":
            return *mix(keys, x, y), weights, i
        return *weighed(mix, keys, x, y, weights), i

    return found.enumerate(order.start).map(mixed)


def _target(recipe: ImageClassification) -> str:
    return recipe.data.target


TASK: Task[ImageClassification] = Task(
    building=Building(
        build=lambda recipe, preset, splits, precision: build(recipe, preset, len(splits.labels), precision),
        prepare=losses.start_at_the_mean,
        describe=lambda recipe, model, splits: describe(model),
        load=lambda folder, recipe, precision: load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=losses.vary,
        largest_product=lambda model: None,  # a matrix product says nothing about convolutions
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model, recipe.augment if changed else None),
        shapes="fixed",
        decoded=lambda recipe, *rest: decoded(*rest),
        parts=lambda recipe: not (recipe.augment.mixup or recipe.augment.cutmix),
    ),
    learning=losses.learning(_target),
    predict=lambda recipe, model, split, batch_size, told: {
        "scores": scores(recipe.data.target, model, split, batch_size, told)
    },
    answer=lambda recipe, model, examples, options: {"scores": reference(recipe.data.target, model, examples)},
    signatures=lambda recipe, model: signatures(recipe.data.target, model),
    trace=trace,
    reference=lambda recipe, model, examples: {"scores": reference(recipe.data.target, model, examples)},
)

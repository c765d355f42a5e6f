"""Backbones of images: at another size, and under another head."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import keras
import keras_hub

from kerastune import assets
from kerastune.data import Splits
from kerastune.errors import RecipeError, shortened
from kerastune.tasks.contract import Model

_FEW_STEPS = 300  # of the optimizer


class Presets(Protocol):
    """A task's module about presets that have its head already."""

    @property
    def BACKBONES(self) -> tuple[str, ...]: ...
    def refuse_own_head(self, recipe: Any, backbone: Any) -> None: ...
    def build(self, preset: str, classes: int, size: tuple[int, int], precision: str) -> Model: ...


def build(
    recipe: Any,
    preset: str,
    splits: Splits,
    precision: str,
    presets: Presets,
    one: str,
    new: Callable[[Any, Any], Model],
) -> Model:
    """Builds a task's model on the preset's backbone, with a new head; of a preset that has the head, with its own.

    Args:
        one: the model in words: "a detector".
        new: (backbone at the recipe's size, image converter) -> the model with a new head.

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: its backbone has no feature maps, or nothing says how pixels become its inputs.
    """
    size = (recipe.data.image_size, recipe.data.image_size)
    keras.config.set_dtype_policy(precision)
    try:
        with assets.reaching(preset):
            backbone = keras_hub.models.Backbone.from_preset(preset, dtype=precision)
            converter = stretching(preset, size)
        if type(backbone).__name__ in presets.BACKBONES:
            presets.refuse_own_head(recipe, backbone)
            with assets.reaching(preset):
                return presets.build(preset, len(splits.labels), size, precision)
        return new(at_size(backbone, size), converter)
    except ValueError as error:
        raise RecipeError(
            f"preset = {preset!r} cannot be the backbone of {one} at image_size = {size[0]}: "
            f"{shortened(str(error), 500)}",
            "Use a preset of a convolutional image backbone (EfficientNet, MobileNet, ResNet, …).",
        ) from error


def at_size(backbone: Any, size: tuple[int, int] | None) -> Any:
    """Returns the backbone for another height and width. Families name the setting differently and ignore others."""
    if size is None or backbone.input_shape[1:3] in [(None, None), size]:
        return backbone
    config = backbone.get_config()
    key = "image_shape" if "image_shape" in config else "input_shape"
    resized = type(backbone).from_config({**config, key: (*size, 3)})
    resized.set_weights(backbone.get_weights())
    return resized


def stretching(preset: str, size: tuple[int, int]) -> Any:
    """Returns the preset's image converter for a height and width, which pictures are stretched to."""
    converter = keras_hub.layers.ImageConverter.from_preset(preset, dtype="float32")
    settings = {"image_size": size, "crop_to_aspect_ratio": False, "pad_to_aspect_ratio": False, "antialias": False}
    return type(converter).from_config({**converter.get_config(), **settings})


def few_steps(recipe: Any, count: int) -> list[str]:
    """Returns a warning if `count` training pictures make too few optimizer steps for a head that begins with nothing:
    one that places things needs some hundred (recipes/README.md)."""
    steps = sum(phase.epochs for phase in recipe.phases) * math.ceil(count / recipe.train.batch_size)
    if not 0 < steps < _FEW_STEPS:
        return []
    times = math.ceil(_FEW_STEPS / steps)
    return [
        f"{steps} optimizer steps are few for a head that begins with nothing: with {count} training pictures, "
        f"{times} times as many phases.epochs find far more"
    ]

"""KerasHub's own segmenters, DeepLabV3 and SegFormer, which keep their pretrained values when the classes change."""

from types import SimpleNamespace
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from kerastune.errors import RecipeError
from kerastune.tasks.image_backbones import stretching
from kerastune.tasks.image_segmentation.settings import ImageSegmentation, Segmenter
from kerastune.tasks.resized import resized

_LAST = {"DeepLabV3Backbone": "output_conv", "SegFormerBackbone": "output_segmentation_head"}
"""The layer of the classes, by the class of the backbone."""
BACKBONES = tuple(_LAST)
"""Classes of backbones that are segmenters already, but for their last layer."""
_ENLARGES = "backbone_output_upsampling"  # DeepLabV3's last layer


@keras.saving.register_keras_serializable("kerastune")
class PresetSegmenter(keras.Model):  # type: ignore[misc]
    """Inputs of a KerasHub segmenter [B, H, W, 3] -> logits of each class in its cells, float32 [B, h, w, K].

    KerasHub enlarges DeepLabV3's features, and SegFormer's logits, to the size of the inputs. Enlarging commutes with
    the last convolution, of 1 x 1, and comes last here.

    Args:
        backbone: one of `BACKBONES`.
        converter: the image converter that makes its inputs.
        classes: their number, K.
        dropped: the share of the features that training leaves out.
    """

    def __init__(self, backbone: Any, converter: Any, classes: int, dropped: float) -> None:
        last = backbone.layers[-1]
        x = last.input if last.name == _ENLARGES else backbone.output
        x = keras.layers.Dropout(dropped, name="dropout")(x)
        logits = keras.layers.Conv2D(classes, 1, name="logits")(x)
        super().__init__(inputs=backbone.input, outputs=ops.cast(logits, "float32"), name="preset_segmenter")
        self.backbone = backbone
        self.preprocessor = SimpleNamespace(image_converter=converter)
        self._given = {"classes": classes, "dropped": dropped}

    @property
    def classes(self) -> int:
        """Returns the number of classes."""
        return int(self._given["classes"])

    def get_config(self) -> dict[str, Any]:
        parts = {"backbone": self.backbone, "converter": self.preprocessor.image_converter}
        return {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()} | self._given

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PresetSegmenter":
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("backbone", "converter")}
        return cls(**{**config, **parts})


def refuse_own_head(recipe: ImageSegmentation, backbone: Any) -> None:
    """Raises RecipeError for settings of a new head, which a preset's segmenter does not get."""
    if recipe.segmenter.width != Segmenter().width:
        kind = type(backbone).__name__.removesuffix("Backbone")
        raise RecipeError(
            f"preset = {recipe.preset!r} is a segmenter ({kind}) with a head of its own; segmenter.width is that of "
            "another.",
            "Leave it out.",
        )


def build(preset: str, classes: int, size: tuple[int, int], precision: str) -> PresetSegmenter:
    """Loads a preset's segmenter for other classes and another size.

    Of other classes than the preset's number, each begins at the mean of those.

    Args:
        preset: one of a KerasHub segmenter.
        precision: a Keras dtype policy.

    Returns:
        The segmenter; its `kept` is the share of its values that are the preset's.

    Raises:
        ValueError: KerasHub's own, if it cannot be built for this size.
    """
    old = keras_hub.models.ImageSegmenter.from_preset(preset, dtype=precision, preprocessor=None)
    dropped = old.dropout.rate if hasattr(old, "dropout") else 0.0
    model = PresetSegmenter(resized(old.backbone, size), stretching(preset, size), classes, dropped)
    theirs = [np.asarray(weight) for weight in getattr(old, _LAST[type(old.backbone).__name__]).weights]
    is_same = theirs[0].shape[-1] == classes
    last = model.get_layer("logits")
    for mine, value in zip(last.weights, theirs, strict=False):  # DeepLabV3's has no bias
        mine.assign(value if is_same else np.broadcast_to(value.mean(-1, keepdims=True), mine.shape))
    mine, total = last.count_params(), model.count_params()
    model.kept = 1.0 if is_same else 1 - mine / total
    return model

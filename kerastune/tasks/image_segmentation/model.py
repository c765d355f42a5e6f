"""The model: a backbone, and a light DeepLabV3+ on its feature maps (Chen et al. 2018, arXiv:1802.02611)."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

FINE, COARSE, COARSEST = 2, 4, 5
"""Levels of the feature maps: level n has cells of 2**n pixels. They tell borders, surroundings, and kinds of things. A
small backbone that lacks the last two has its coarsest one instead."""
CELL = 2**FINE
"""Pixels of a cell of the logits."""

_RATES = (2, 4, 6)  # of the dilated convolutions
_DETAILS = 32  # channels that are kept of the fine map
_DROPPED = 0.2  # of the channels that tell what a thing is, while training
_REFINED = 2  # separable convolutions after the two are joined


@keras.saving.register_keras_serializable("kerastune")
class ImageSegmenter(keras.Model):  # type: ignore[misc]
    """Inputs of a backbone [B, S, S, 3] -> logits of each class in cells of 4 pixels, float32 [B, S/4, S/4, K].

    The last convolution, of 1 x 1, comes before the logits are enlarged: the two commute, and so a fraction of the
    memory is needed.

    Args:
        backbone: a KerasHub backbone with `pyramid_outputs`, for pictures of the converter's size.
        converter: the KerasHub image converter that makes its inputs.
        classes: their number, K.
        width: channels of the head.

    Raises:
        ValueError: the backbone has no feature maps of 4 and of 8 or 16 pixels a cell.
    """

    def __init__(self, backbone: Any, converter: Any, classes: int, width: int) -> None:
        maps = {int(name[1:]): x for name, x in getattr(backbone, "pyramid_outputs", {}).items()}
        coarse = max((level for level in maps if FINE < level <= COARSE), default=None)
        if FINE not in maps or coarse is None:
            levels = ", ".join(f"P{level}" for level in sorted(maps)) or "none"
            raise ValueError(f"it has no feature maps P{FINE} and P{FINE + 1} or P{COARSE} (it has {levels})")
        rows, columns = (side // 2**coarse for side in converter.image_size)
        x = maps[coarse]
        if COARSEST in maps:
            told = _convolved(maps[COARSEST], width, 1, name="kind")
            told = keras.layers.SpatialDropout2D(_DROPPED, name="kind_dropout")(told)
            enlarge = keras.layers.UpSampling2D(2 ** (COARSEST - coarse), interpolation="bilinear", name="kind_enlarge")
            told = enlarge(told)
            x = keras.layers.Concatenate(name="kind_join")([x, told])
        x = _surroundings(x, (rows, columns), width)
        x = keras.layers.UpSampling2D(2 ** (coarse - FINE), interpolation="bilinear", name="enlarge")(x)
        x = keras.layers.Concatenate(name="join")([x, _convolved(maps[FINE], _DETAILS, 1, name="details")])
        for n in range(_REFINED):
            x = _convolved(x, width, 3, name=f"refine_{n}")
        logits = keras.layers.Conv2D(classes, 1, name="logits")(x)
        super().__init__(inputs=backbone.input, outputs=ops.cast(logits, "float32"), name="image_segmenter")
        self.backbone = backbone
        self.preprocessor = SimpleNamespace(image_converter=converter)
        self._given = {"classes": classes, "width": width}

    @property
    def classes(self) -> int:
        """Returns the number of classes."""
        return self._given["classes"]

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "converter": keras.saving.serialize_keras_object(self.preprocessor.image_converter),
            **self._given,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ImageSegmenter":
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("backbone", "converter")}
        return cls(**{**config, **parts})


def _surroundings(x: Tensor, cells: tuple[int, int], width: int) -> Tensor:
    """Looks at a map at several distances, and at all of it (atrous spatial pyramid pooling)."""
    parts = [_convolved(x, width, 1, name="around_0")]
    parts += [_convolved(x, width, 3, rate, name=f"around_{rate}") for rate in _RATES]
    whole = keras.layers.GlobalAveragePooling2D(keepdims=True, name="whole_pool")(x)
    whole = keras.layers.Conv2D(width, 1, activation="relu", name="whole")(whole)
    parts.append(keras.layers.UpSampling2D(cells, name="whole_spread")(whole))
    return _convolved(keras.layers.Concatenate(name="around")(parts), width, 1, name="project")


def _convolved(x: Tensor, width: int, side: int, rate: int = 1, name: str = "") -> Tensor:
    if side > 1:
        depthwise = keras.layers.DepthwiseConv2D(
            side, dilation_rate=rate, padding="same", use_bias=False, name=f"{name}_depthwise"
        )
        x = depthwise(x)
    x = keras.layers.Conv2D(width, 1, use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(momentum=0.95, epsilon=1e-3, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def vary(model: ImageSegmenter, inputs: Any) -> None:
    """Draws the last convolution at random, so that an untrained model outlines something else in every picture."""
    kernel, bias = model.get_layer("logits").weights
    kernel.assign(keras.random.normal(kernel.shape, seed=0))
    bias.assign(ops.zeros(bias.shape))
    found = np.asarray(model(inputs, training=False), np.float32)
    scale = 2.0 / np.maximum(found.std(axis=(0, 1, 2)), 1e-6)
    kernel.assign(kernel * scale)
    bias.assign(-found.mean(axis=(0, 1, 2)) * scale)

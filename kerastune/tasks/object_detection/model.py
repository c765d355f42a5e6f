"""The model: a backbone, a light pyramid, and two networks that all its levels share (RetinaNet; Lin et al. 2017,
arXiv:1708.02002)."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastune.tasks import pyramid
from kerastune.tasks.object_detection import anchors

_PRIOR = 0.01  # the probability of each class at every anchor, before training
_CONVOLUTIONS = 2


@keras.saving.register_keras_serializable("kerastune")
class ObjectDetector(keras.Model):  # type: ignore[misc]
    """Inputs of a backbone [B, S, S, 3] -> {"class_logits", "box_deltas"}.

    - class_logits: float32 [B, A, K], the sigmoid of which is the probability of each class at each anchor.
    - box_deltas: float32 [B, A, 4], by which each anchor becomes a box: the shift of its centre in shares of its width
      and height, and the logarithms by which these change.

    Args:
        backbone: a KerasHub backbone with `pyramid_outputs`, for pictures of the converter's size.
        converter: the KerasHub image converter that makes its inputs.
        classes: their number, K.
        width: channels of pyramid and networks.
        anchor_scale: as in `anchors.anchors`.

    Raises:
        ValueError: the backbone has no feature map of 8 pixels a cell.
    """

    def __init__(self, backbone: Any, converter: Any, classes: int, width: int, anchor_scale: float) -> None:
        size = int(converter.image_size[0])
        levels = anchors.levels(size)
        maps = pyramid.light(pyramid.maps_of(backbone, levels[0], min(levels[-1], 5)), width, levels[-1])
        kinds = {"class_logits": classes, "box_deltas": 4}
        outputs = {name: _shared(maps, size, width, count, name) for name, count in kinds.items()}
        super().__init__(inputs=backbone.input, outputs=outputs, name="object_detector")
        self.backbone = backbone
        self.preprocessor = SimpleNamespace(image_converter=converter)
        self._given = {"classes": classes, "width": width, "anchor_scale": float(anchor_scale)}

    @property
    def anchors(self) -> anchors.Floats:
        """Returns the anchors, float32 [A, 4], in shares of the picture."""
        return anchors.anchors(self.preprocessor.image_converter.image_size[0], self._given["anchor_scale"])

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "converter": keras.saving.serialize_keras_object(self.preprocessor.image_converter),
            **self._given,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ObjectDetector":
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("backbone", "converter")}
        return cls(**{**config, **parts})


def _shared(maps: pyramid.Maps, size: int, width: int, count: int, name: str) -> Any:
    """Returns a network's outputs for all anchors, [B, A, count]; the same layers look at every level."""
    small = keras.initializers.RandomNormal(stddev=0.01)
    start = -np.log((1 - _PRIOR) / _PRIOR) if name == "class_logits" else 0.0
    layers = [
        keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"{name}_conv_{n}")
        for n in range(_CONVOLUTIONS)
    ]
    last = keras.layers.Conv2D(
        len(anchors.SHAPES) * count,
        3,
        padding="same",
        kernel_initializer=small,
        bias_initializer=keras.initializers.Constant(float(start)),
        name=f"{name}_last",
    )
    found = []
    for level in sorted(maps):
        x = maps[level]
        for layer in layers:
            x = layer(x)
        found.append(pyramid.flattened(last(x), anchors.cells(size, level) ** 2, count))
    return ops.cast(ops.concatenate(found, axis=1), "float32")


def vary(model: ObjectDetector, inputs: Any) -> None:
    """Draws the last convolutions at random, so that an untrained model finds something else in every picture."""
    for name, deviation, mean in (("class_logits", 1.5, -4.0), ("box_deltas", 0.3, 0.0)):
        kernel, bias = model.get_layer(f"{name}_last").weights
        kernel.assign(keras.random.normal(kernel.shape, seed=len(name)))
        bias.assign(ops.zeros(bias.shape))
        found = np.asarray(model(inputs, training=False)[name], np.float32).reshape(-1, bias.shape[0])
        scale = deviation / np.maximum(found.std(axis=0), 1e-6)  # from cell to cell, or a hair decides what is best
        kernel.assign(kernel * scale)
        bias.assign(mean - found.mean(axis=0) * scale)

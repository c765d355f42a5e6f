"""KerasHub's own detectors, RetinaNet and D-FINE, which keep their pretrained values when the classes change.

KerasHub's constructors draw D-FINE at random, and RetinaNet's box head too, if the number of classes is another.
"""

from types import SimpleNamespace
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from kerastune.errors import RecipeError
from kerastune.tasks.image_backbones import stretching
from kerastune.tasks.object_detection.anchors import Floats
from kerastune.tasks.object_detection.settings import BoxHead, ObjectDetection
from kerastune.tasks.resized import sized

Tensor = Any

_WHOLE = (0.0, 0.0, 1.0, 1.0)


@keras.saving.register_keras_serializable("kerastune")
class PresetDetector(keras.Model):  # type: ignore[misc]
    """Inputs of a KerasHub detector [B, H, W, 3] -> the outputs of `ObjectDetector`, and what they refer to.

    - class_logits, box_deltas: float32 [B, A, K] and [B, A, 4]. D-FINE's queries are boxes, not corrections of anchors:
      their anchor is the whole picture.
    - anchors: float32 [B, A, 4], the same for every picture.
    - earlier_logits, earlier_deltas: float32 [B, L, A, K] and [B, L, A, 4], D-FINE's answers before the last, from
      which it learns as well.

    Args:
        detector: a `RetinaNetObjectDetector` or a `DFineObjectDetector`.
        converter: the image converter that makes its inputs.

    Raises:
        ValueError: it is another detector.
    """

    def __init__(self, detector: Any, converter: Any) -> None:
        kind = type(detector).__name__
        if kind not in _READERS:
            raise ValueError(f"{kind} is not one of {', '.join(_READERS)}")
        size = tuple(converter.image_size)
        inputs = keras.Input((*size, 3), name="images")
        outputs = {name: ops.cast(x, "float32") for name, x in _READERS[kind](detector, detector(inputs)).items()}
        fixed = anchors_of(detector, size)
        outputs["anchors"] = ops.zeros_like(outputs["box_deltas"]) + fixed
        super().__init__(inputs=inputs, outputs=outputs, name="preset_detector")
        self.detector, self.backbone, self.anchors = detector, detector.backbone, fixed
        self.preprocessor = SimpleNamespace(image_converter=converter)

    def get_config(self) -> dict[str, Any]:
        parts = {"detector": self.detector, "converter": self.preprocessor.image_converter}
        config = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        config["detector"].pop("compile_config", None)  # KerasHub compiles each with an optimizer of its own
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PresetDetector":
        return cls(**{name: keras.saving.deserialize_keras_object(config[name]) for name in ("detector", "converter")})


def _of_retinanet(detector: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"class_logits": outputs["cls_logits"], "box_deltas": outputs["bbox_regression"]}


def _of_dfine(detector: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    def deltas(boxes: Tensor) -> Tensor:  # centre and sides in shares of the picture
        return ops.concatenate([boxes[..., :2] - 0.5, ops.log(ops.maximum(boxes[..., 2:], 1e-6))], axis=-1)

    logits, boxes = outputs["intermediate_logits"], outputs["intermediate_reference_points"]
    first = (outputs["enc_topk_logits"][:, None], outputs["enc_topk_bboxes"][:, None])
    return {
        "class_logits": logits[:, -1],
        "box_deltas": deltas(boxes[:, -1]),
        "earlier_logits": ops.concatenate([first[0], logits[:, :-1]], axis=1),
        "earlier_deltas": deltas(ops.concatenate([first[1], boxes[:, :-1]], axis=1)),
    }


_READERS = {"RetinaNetObjectDetector": _of_retinanet, "DFineObjectDetector": _of_dfine}
BACKBONES = ("RetinaNetBackbone", "DFineBackbone")
"""Classes of backbones that are detectors already, but for their heads."""


def anchors_of(detector: Any, size: tuple[int, int]) -> Floats:
    """Returns the anchors that a detector's boxes refer to, float32 [A, 4], in shares of the picture."""
    if (generator := getattr(detector, "anchor_generator", None)) is None:
        return np.tile(np.array(_WHOLE, np.float32), (detector.backbone.num_queries, 1))
    found = generator(np.zeros((1, *size, 3), np.float32))
    corners = keras.utils.bounding_boxes.convert_format(
        ops.concatenate(list(found.values()), axis=0),
        source=generator.bounding_box_format,
        target="rel_xyxy",
        height=size[0],
        width=size[1],
    )
    return np.asarray(corners, np.float32)


def refuse_own_head(recipe: ObjectDetection, backbone: Any) -> None:
    """Raises RecipeError for settings of a new head, which a preset's detector does not get."""
    kind = type(backbone).__name__.removesuffix("Backbone")
    if recipe.detector != BoxHead():
        raise RecipeError(
            f"preset = {recipe.preset!r} is a detector ({kind}) with a head of its own; [detector] describes another.",
            "Leave out [detector].",
        )
    for number, phase in enumerate(recipe.phases):
        if kind == "DFine" and phase.unfreeze in ("head", "gradual"):
            raise RecipeError(
                f"phases.{number}.unfreeze = {phase.unfreeze!r}: D-FINE has its layers of the classes inside its "
                "decoder, so it has no head to train alone.",
                'Use "all", or "match:class_embed|enc_score_head".',
            )


def build(preset: str, classes: int, size: tuple[int, int], precision: str) -> PresetDetector:
    """Loads a preset's detector for other classes and another size.

    Layers of the classes begin at the mean of the old classes, so that what is nothing stays nothing.

    Args:
        preset: one of a KerasHub detector.
        precision: a Keras dtype policy.

    Returns:
        The detector; its `kept` is the share of its values that are the preset's.

    Raises:
        ValueError: KerasHub's own, if it cannot be built for this size.
    """
    old = keras_hub.models.ObjectDetector.from_preset(preset, dtype=precision, preprocessor=None)
    new, kept = with_classes(old, classes, size)
    model = PresetDetector(new, stretching(preset, size))
    model.kept = kept
    return model


def with_classes(detector: Any, classes: int, size: tuple[int, int]) -> tuple[Any, float]:
    """Returns a detector with the values of another, but for layers of the classes, and the share that was kept."""
    kind = type(detector.backbone)
    config = sized(detector.backbone.get_config(), size)
    if "num_labels" in config:
        config["num_labels"] = classes
    settings = {**detector.get_config(), "num_classes": classes, "backbone": kind.from_config(config)}
    settings["preprocessor"] = None
    new = type(detector).from_config(
        {key: value for key, value in settings.items() if key not in ("name", "trainable")}
    )
    kept = total = 0
    for mine, theirs in zip(new.weights, detector.weights, strict=True):
        value = np.asarray(theirs)
        count = int(np.prod(mine.shape))
        total += count
        if mine.shape == value.shape:
            mine.assign(value)
            kept += count
        else:
            mine.assign(_of_new_classes(value, tuple(mine.shape), classes))
    return new, kept / total


def _of_new_classes(value: Any, shape: tuple[int, ...], classes: int) -> Any:
    """Returns the mean over the old classes for every new one; classes vary fastest along the last axis."""
    old = value.shape[-1] * classes // shape[-1]
    if value.shape[:-1] != shape[:-1] or old * shape[-1] != value.shape[-1] * classes:
        raise ValueError(f"a weight of shape {value.shape} cannot be one of shape {shape} for {classes} classes")
    mean = value.reshape(*value.shape[:-1], -1, old).mean(-1, keepdims=True)
    return np.broadcast_to(mean, (*mean.shape[:-1], classes)).reshape(shape)

"""Exported functions of an image model, how a device prepares their inputs, and the reference outputs of Keras."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.files import write_json
from kerastune.formats.graphs import Signature
from kerastune.recipe import Recipe
from kerastune.targets import images as reader
from kerastune.tasks.contract import Model
from kerastune.tasks.image_classification import decoding
from kerastune.tasks.image_classification.feeding import normaliser
from kerastune.tasks.losses import activated

Scores = npt.NDArray[np.float32]


Answer = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]
"""From a model's inputs, float32 [B, h, w, 3], and the pictures' own heights and widths, int32 [B or 1, 2], to named
outputs."""


def device_function(answer: Answer, model: Model, resize: bool = True) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function from raw pixels, uint8 [B, H, W, 3] of any size, to named outputs.

    Without `resize`, images must have the model's size; the operators would only cost memory.
    """
    converter = model.preprocessor.image_converter if resize else normaliser(model)

    def device(images: tf.Tensor) -> dict[str, tf.Tensor]:
        x = converter(tf.cast(images, tf.float32))  # [B, h, w, 3], the size the model was trained at
        return answer(x, tf.shape(images)[None, 1:3])

    return device


def bytes_function(answer: Answer, model: Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function from encoded JPEG or PNG files, string [B], to named outputs."""
    converter = model.preprocessor.image_converter
    height, width = converter.image_size

    def decode(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:  # string [] -> float32 [h, w, 3], int32 [2]
        image = decoding.decode(encoded)
        return tf.ensure_shape(converter(image), [height, width, 3]), tf.shape(image)[:2]

    def device(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        specs = (tf.TensorSpec([height, width, 3], tf.float32), tf.TensorSpec([2], tf.int32))
        return answer(*tf.map_fn(decode, image_bytes, fn_output_signature=specs))

    return device


def signatures(target: str, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an exported model of labels or numbers, whose output is "scores", float32 [B, K]."""
    return signatures_of(
        lambda x, size: {"scores": tf.identity(activated(target, model(x, training=False)), name="scores")}, model
    )


def signatures_of(answer: Answer, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an exported model: name -> (function, its inputs).

    "any_size" is `serving_default` for one image; the "fixed" ones take an image of the model's size.
    """
    images, sized = device_function(answer, model), device_function(answer, model, resize=False)
    height, width = model.preprocessor.image_converter.image_size
    sizes, fixed = [None, None, 3], [1, height, width, 3]
    return {
        "serving_default": (images, [tf.TensorSpec([None, *sizes], tf.uint8, name="images")]),
        "serve_bytes": (bytes_function(answer, model), [tf.TensorSpec([None], tf.string, name="image_bytes")]),
        "any_size": (images, [tf.TensorSpec([1, *sizes], tf.uint8, name="images")]),
        "fixed_uint8": (sized, [tf.TensorSpec(fixed, tf.uint8, name="images")]),
        "fixed_float32": (sized, [tf.TensorSpec(fixed, tf.float32, name="images")]),
    }


def resizing(model: Model) -> dict[str, Any]:
    """Returns how the model's image converter resizes, for devices that resize images themselves."""
    converter = model.preprocessor.image_converter
    height, width = converter.image_size
    return {
        "height": height,
        "width": width,
        "interpolation": converter.interpolation,
        "crop_to_aspect_ratio": bool(converter.crop_to_aspect_ratio),
        "pad_to_aspect_ratio": bool(converter.pad_to_aspect_ratio),
        "antialias": bool(converter.antialias),
    }


def reference(target: str, model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> Scores:
    """Returns the Keras model's own scores, outside any graph: uint8 [H, W, 3] each -> float32 [n, K]."""
    converter = model.preprocessor.image_converter
    logits = [
        np.asarray(model(converter(np.asarray(image, np.float32)[None]), training=False), np.float64)
        for image in images
    ]
    return np.asarray(_activated(target, np.concatenate(logits)), np.float32)


def _activated(target: str, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Computes `losses.activated` in double precision."""
    if target == "number":
        return logits
    if target == "labels":
        return np.asarray(1 / (1 + np.exp(-logits)))
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def trace(recipe: Recipe, model: Model, work: Path, wanted: Sequence[str]) -> None:
    """Writes how the model resizes and, if a device resizes images itself, the examples as it will see them."""
    settings = resizing(model)
    write_json(work / "image.json", settings)
    if any("/fixed" in one for one in wanted):
        _resize_examples(work, settings)


def _resize_examples(work: Path, settings: dict[str, Any]) -> None:
    if settings["antialias"] or settings["interpolation"] not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"no device can resize like this model ({settings}); use a target with images of any size")
    outside = {**settings, "resize": "outside"}
    for name in ("golden", "calibration"):
        with np.load(work / f"{name}.npz", allow_pickle=False) as stored:
            images = {key: reader.fit(stored[key], outside) for key in stored.files}
        if name == "calibration":
            # int8 inputs must span 0..255 exactly, so that a pixel's byte is its int8 value.
            next(iter(images.values()))[0, :2] = [[0], [255]]
        np.savez(work / f"{name}_fixed.npz", allow_pickle=False, **images)

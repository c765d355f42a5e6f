"""Object detection: boxes in pictures, by a light head on any KerasHub backbone with a feature pyramid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Split, Splits, ragged
from kerastune.formats.graphs import Signature
from kerastune.records import Decision
from kerastune.tasks import geometry, image_backbones, registered
from kerastune.tasks.contract import Building, Model, Task, Told
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.image_classification.tracing import signatures_of, trace
from kerastune.tasks.learnt.contract import Predictions
from kerastune.tasks.moving import moving
from kerastune.tasks.object_detection import anchors, decoding, presets
from kerastune.tasks.object_detection.learning import LEARNING
from kerastune.tasks.object_detection.model import ObjectDetector, vary
from kerastune.tasks.object_detection.settings import ObjectDetection

OUTPUTS = ("class_logits", "box_deltas")
"""A detector's outputs in a file, besides the detections. In training it may have more."""

_LEAST_COVERED = 0.8  # of the boxes; below it there is a warning


def build(recipe: ObjectDetection, preset: str, splits: Splits, precision: str) -> Model:
    """Builds the detector; raises as `image_backbones.build`."""

    def new(backbone: Any, converter: Any) -> Model:
        return ObjectDetector(backbone, converter, len(splits.labels), recipe.detector.width, _scale(recipe, splits))

    return image_backbones.build(recipe, preset, splits, precision, presets, "a detector", new)


def _scale(recipe: ObjectDetection, splits: Splits) -> float:
    asked = recipe.detector.anchor_scale
    return anchors.best_scale(splits.train.labels, recipe.data.image_size) if asked == "auto" else asked


def settled(recipe: ObjectDetection, model: Model, splits: Splits) -> tuple[ObjectDetection, Model, list[Decision]]:
    """Returns the recipe with the scale of the anchors, and how many boxes these cover."""
    if isinstance(model, presets.PresetDetector):
        why = f"{model.kept:.1%} of its values are the preset's; those of the classes begin at the mean of its classes"
        return recipe, model, [Decision("detector", "auto", type(model.detector).__name__, why)]
    size, asked = recipe.data.image_size, recipe.detector.anchor_scale
    scale = _scale(recipe, splits)
    share, count = anchors.coverage(splits.train.labels, size, scale)
    sides = [round(scale * 2**level) for level in anchors.levels(size)]
    why = (
        f"anchors from {sides[0]} to {round(sides[-1] * 2 ** (2 / 3))} pixels overlap {share:.1%} of {count:,} "
        f"training boxes by {anchors.COVERED:g} or more at image_size = {size}"
    )
    if share < _LEAST_COVERED:
        why += "; the others will hardly be found: are they smaller? a larger data.image_size would help"
    decision = Decision("detector.anchor_scale", str(asked), str(scale), why)
    detector = recipe.detector.model_copy(update={"anchor_scale": scale})
    return recipe.model_copy(update={"detector": detector}), model, [decision]


def describe(recipe: ObjectDetection, model: ObjectDetector, splits: Splits) -> dict[str, Any]:
    """Returns the size of pictures and the number of anchors, for run.json, and a warning about few steps."""
    size = list(model.preprocessor.image_converter.image_size)
    if isinstance(model, presets.PresetDetector):
        return {"image_size": size, "anchors": len(model.anchors)}
    share, _ = anchors.coverage(splits.train.labels, size[0], float(recipe.detector.anchor_scale))
    found = {"image_size": size, "anchors": len(model.anchors), "boxes_covered": share}
    return {**found, "warnings": image_backbones.few_steps(recipe, len(splits.train))}


# --- batches -------------------------------------------------------------------------------------------------


def _moved(truth: tf.Tensor, windows: tf.Tensor) -> tf.Tensor:
    """Returns boxes float32 [B, M, 6] as they lie in windows, those that are out of view as none, at the end."""
    boxes, seen = geometry.boxes(truth[..., 1:5], windows)
    label = tf.where(seen & (truth[..., 0] >= 0), truth[..., 0], -1.0)
    rows = tf.concat([label[..., None], boxes, truth[..., 5:]], -1)
    order = tf.argsort(tf.cast(label < 0, tf.int32), axis=-1, stable=True)  # boxes first
    return tf.gather(rows, order, batch_dims=1)


# --- scoring -------------------------------------------------------------------------------------------------


def predict(recipe: ObjectDetection, model: Model, split: Split, batch_size: int, told: Told) -> Predictions:
    """Returns the detections for a whole split, in its order, in pixels of each picture."""
    fixed = model.anchors
    forward = tf.function(lambda x: decoding.detections(model(x, training=False), fixed), autograph=False)
    found, done = [np.zeros((0, 100, 6), np.float32)], 0
    for x, _ in feeding.batches(model, split, feeding.order(model, split, batch_size)):
        found.append(forward(x).numpy())
        done += len(x)
        told(done)
    sizes = np.array([rows["corners"][0, 2:] for rows in split.labels], np.float32)
    return {"detections": _in_pixels(np.concatenate(found), sizes)}


def _in_pixels(found: npt.NDArray[np.float32], sizes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns detections [n, 100, 6] in pixels of pictures of these widths and heights, [n, 2]."""
    ones = np.ones((len(sizes), 2), np.float32)
    return np.asarray(found * np.concatenate([sizes, sizes, ones], 1)[:, None])


def reference(model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> Predictions:
    """Returns Keras's own outputs, outside any graph, one picture at a time."""
    found = []
    for image in images:
        x = model.preprocessor.image_converter(np.asarray(image, np.float32)[None])
        outputs = {name: np.asarray(value) for name, value in model(x, training=False).items() if name in OUTPUTS}
        detections = decoding.detections(outputs, model.anchors).numpy()
        size = np.array([[image.shape[1], image.shape[0]]], np.float32)
        found.append({"detections": _in_pixels(detections, size), **outputs})
    return ragged.concatenated(found)


def signatures(model: Model) -> dict[str, Signature]:
    """Returns the signatures of an image model, with detections in pixels of the picture, and what they are made of."""
    fixed = model.anchors

    def answer(x: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(x, training=False)
        height, width = tf.split(tf.cast(size, tf.float32), 2, axis=-1)  # [B or 1, 1] each
        one = tf.ones_like(width)
        scale = tf.concat([width, height, width, height, one, one], axis=-1)
        raw = {name: outputs[name] for name in OUTPUTS}
        found = {"detections": decoding.detections(outputs, fixed) * scale[:, None], **raw}
        return {name: tf.identity(output, name=name) for name, output in found.items()}

    found = signatures_of(answer, model)
    sized, specs = found["fixed_uint8"]
    found["fixed_mediapipe"] = (lambda images: _located(sized(images)["detections"], specs[0].shape[1:3]), specs)
    return found


def _located(detections: tf.Tensor, size: Sequence[int]) -> dict[str, tf.Tensor]:
    """Returns detections in pixels of a picture of this height and width as MediaPipe's ObjectDetector reads them."""
    height, width = size
    scores = detections[..., 4]
    found = {
        "boxes": detections[..., :4] / tf.constant([width, height, width, height], tf.float32),
        "box_scores": scores,
        "classes": detections[..., 5],
        "count": tf.reduce_sum(tf.cast(scores > 0, tf.float32), axis=-1),
    }
    return {name: tf.identity(output, name=name) for name, output in found.items()}


TASK: Task[ObjectDetection] = Task(
    building=Building(
        build=build,
        prepare=lambda recipe, model, splits: None,
        describe=describe,
        load=lambda folder, recipe, precision: registered.load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=lambda model, inputs: None if isinstance(model, presets.PresetDetector) else vary(model, inputs),
        largest_product=lambda model: None,  # a matrix product says nothing about convolutions
        settled=settled,
    ),
    feeding=moving(lambda recipe: recipe.augment, _moved),
    learning=LEARNING,
    predict=predict,
    answer=lambda recipe, model, examples, options: reference(model, examples),
    signatures=lambda recipe, model: signatures(model),
    trace=trace,
    reference=lambda recipe, model, examples: reference(model, examples),
)

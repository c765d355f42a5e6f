"""Image segmentation: a light DeepLabV3+ on any KerasHub backbone with a feature pyramid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Split, Splits, masks, ragged
from kerastune.formats.graphs import Signature
from kerastune.records import Decision
from kerastune.tasks import geometry, image_backbones, registered
from kerastune.tasks.contract import Building, Model, Task, Told
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.image_classification.tracing import signatures_of, trace
from kerastune.tasks.image_segmentation import presets
from kerastune.tasks.image_segmentation.learning import LEARNING
from kerastune.tasks.image_segmentation.model import ImageSegmenter, vary
from kerastune.tasks.image_segmentation.settings import ImageSegmentation
from kerastune.tasks.learnt.contract import Predictions
from kerastune.tasks.moving import moving


def build(recipe: ImageSegmentation, preset: str, splits: Splits, precision: str) -> Model:
    """Builds the segmenter; raises as `image_backbones.build`."""

    def new(backbone: Any, converter: Any) -> Model:
        return ImageSegmenter(backbone, converter, len(splits.labels), recipe.segmenter.width)

    return image_backbones.build(recipe, preset, splits, precision, presets, "a segmenter", new)


def settled(recipe: ImageSegmentation, model: Model, splits: Splits) -> tuple[ImageSegmentation, Model, list[Decision]]:
    """Returns the recipe and the model as they are, and what a preset's segmenter kept."""
    if not isinstance(model, presets.PresetSegmenter):
        return recipe, model, []
    why = f"{model.kept:.1%} of its values are the preset's; other classes than its own begin at the mean of those"
    return recipe, model, [Decision("segmenter", "auto", type(model.backbone).__name__.removesuffix("Backbone"), why)]


def describe(recipe: ImageSegmentation, model: ImageSegmenter, splits: Splits) -> dict[str, Any]:
    """Returns the size of pictures, the share of pixels that each class has in training, and the colours of the
    classes, for run.json, and a warning about few steps."""
    counts = np.zeros(masks.IGNORED + 1, np.int64)
    for row in splits.train.labels:
        counts += np.bincount(masks.unpacked(row).reshape(-1), minlength=masks.IGNORED + 1)
    total = max(int(counts.sum()), 1)
    shares = {label: float(counts[n] / total) for n, label in enumerate(splits.labels)}
    has_new_head = not isinstance(model, presets.PresetSegmenter)
    return {
        "image_size": list(model.preprocessor.image_converter.image_size),
        "shares_of_pixels": shares,
        "ignored_share": float(counts[masks.IGNORED] / total),
        "colors": list(splits.colors),
        "warnings": image_backbones.few_steps(recipe, len(splits.train)) if has_new_head else [],
    }


# --- batches -------------------------------------------------------------------------------------------------


def _moved(truth: tuple[tf.Tensor, tf.Tensor], windows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mask, by_class = truth
    return moved_masks(mask, windows), by_class


def moved_masks(mask: tf.Tensor, windows: tf.Tensor) -> tf.Tensor:
    """Returns what is seen of masks uint8 [B, S, S]; outside of them, pixels are ignored."""
    shifted = tf.cast(mask, tf.float32)[..., None] + 1  # 0 is outside
    found = tf.cast(geometry.pictures(shifted, windows, "nearest")[..., 0], tf.int32) - 1
    return tf.ensure_shape(tf.cast(tf.where(found < 0, masks.IGNORED, found), tf.uint8), mask.shape)


# --- scoring -------------------------------------------------------------------------------------------------


def mapped(logits: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns the class of each pixel of pictures, uint8 [B, H, W], as `at_pixels` does."""
    return at_pixels(logits, size)["class_map"]


def at_pixels(logits: tf.Tensor, size: tf.Tensor, probabilities: bool = False) -> dict[str, tf.Tensor]:
    """Returns what a model says of each pixel of pictures.

    Args:
        logits: float32 [B, h, w, K].
        size: the pictures' height and width, int32 [1, 2] for all of them; or [B, 2], and then maps are padded with
            `masks.IGNORED` to the largest, and probabilities with 0.

    Returns:
        "class_map", uint8 [B, H, W]; and, if asked for, "probabilities", float32 [B, H, W, K].
    """

    def one_size(some: tf.Tensor, height_and_width: tf.Tensor) -> dict[str, tf.Tensor]:
        enlarged = tf.image.resize(some, height_and_width)
        found = {"class_map": tf.cast(tf.argmax(enlarged, -1, tf.int32), tf.uint8)}
        return found | ({"probabilities": tf.nn.softmax(enlarged)} if probabilities else {})

    if size.shape[0] == 1:
        return one_size(logits, size[0])
    largest = tf.reduce_max(size, axis=0)

    def padded(pair: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        below, right = tf.unstack(largest - pair[1])
        found = {name: output[0] for name, output in one_size(pair[0][None], pair[1]).items()}
        added = {name: [[0, below], [0, right], [0, 0]][: output.shape.rank] for name, output in found.items()}
        outside = {"class_map": masks.IGNORED, "probabilities": 0}
        return {
            name: tf.pad(output, added[name], constant_values=tf.constant(outside[name], output.dtype))
            for name, output in found.items()
        }

    specs = {"class_map": tf.TensorSpec([None, None], tf.uint8)}
    if probabilities:
        specs["probabilities"] = tf.TensorSpec([None, None, logits.shape[-1]], tf.float32)
    found: dict[str, tf.Tensor] = tf.map_fn(padded, (logits, size), fn_output_signature=specs)
    return found


def predict(recipe: ImageSegmentation, model: Model, split: Split, batch_size: int, told: Told) -> Predictions:
    """Returns the class maps of a whole split, in its order and at the pictures' own size."""
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    shown = tf.function(
        mapped, input_signature=[tf.TensorSpec([1, None, None, model.classes]), tf.TensorSpec([1, 2], tf.int32)]
    )
    sizes = [masks.size(row) for row in split.labels]
    maps = list[npt.NDArray[np.uint8]]()
    for x, _ in feeding.batches(model, split, feeding.order(model, split, batch_size)):
        for one in forward(x):
            maps.append(shown(one[None], [sizes[len(maps)]])[0].numpy())
        told(len(maps))
    return {"class_map": ragged.of_maps(maps, np.zeros(0, np.uint8))}


def reference(recipe: ImageSegmentation, model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> Predictions:
    """Returns Keras's own outputs, outside any graph, one picture at a time."""
    maps, logits = dict[str, list[npt.NDArray[Any]]](), list[npt.NDArray[np.float32]]()
    for image in images:
        x = model.preprocessor.image_converter(np.asarray(image, np.float32)[None])
        cells = tf.convert_to_tensor(model(x, training=False))
        logits.append(cells.numpy())
        found = at_pixels(cells, tf.constant([image.shape[:2]]), recipe.segmenter.probabilities)
        for name, output in found.items():
            maps.setdefault(name, []).append(output[0].numpy())
    joined = {name: ragged.of_maps(several, several[0][:0, 0]) for name, several in maps.items()}
    return {**joined, "logits": np.concatenate(logits)}


def signatures(recipe: ImageSegmentation, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an image model, with what it says of each pixel of the picture, and what that is made
    of."""

    def answer(x: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.convert_to_tensor(model(x, training=False))
        found = at_pixels(logits, size, recipe.segmenter.probabilities) | {"logits": logits}
        return {name: tf.identity(output, name=name) for name, output in found.items()}

    found = signatures_of(answer, model)
    cells = signatures_of(lambda x, size: {"logits": tf.identity(model(x, training=False), name="logits")}, model)
    return found | {f"{name}_mediapipe": one for name, one in cells.items() if name.startswith("fixed")}


TASK: Task[ImageSegmentation] = Task(
    building=Building(
        build=build,
        prepare=lambda recipe, model, splits: None,
        describe=describe,
        load=lambda folder, recipe, precision: registered.load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=vary,
        largest_product=lambda model: None,  # a matrix product says nothing about convolutions
        settled=settled,
    ),
    feeding=moving(lambda recipe: recipe.augment, _moved),
    learning=LEARNING,
    predict=predict,
    answer=lambda recipe, model, examples, options: reference(recipe, model, examples),
    signatures=signatures,
    trace=trace,
    reference=reference,
)

"""Anomaly detection: a frozen backbone, and statistics of good pictures instead of a trained head."""

from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets
from kerastune.data import Order, Split, Splits, ragged
from kerastune.data.source import some
from kerastune.errors import DataError, RecipeError
from kerastune.formats.graphs import Signature
from kerastune.modalities.image import upright_size
from kerastune.targets.images import unfit
from kerastune.tasks import registered
from kerastune.tasks.anomaly_detection import fitting
from kerastune.tasks.anomaly_detection.model import TILE, AnomalyDetector, seen_size
from kerastune.tasks.anomaly_detection.settings import AnomalyDetection
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Learning, Model, Targets, Task, Told
from kerastune.tasks.image_backbones import at_size
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.image_classification.tracing import signatures_of, trace
from kerastune.tasks.learnt.contract import Predictions
from kerastune.tasks.losses import no_answers, no_samples
from kerastune.tasks.pipeline import with_truth

_MOST_PIXELS = 2**25
_SMALLER = 2.0  # times: what is made smaller by more is said


def build(recipe: AnomalyDetection, preset: str, splits: Splits, precision: str) -> Model:
    """Builds the detector on the preset's backbone, for pictures of the data's size, without statistics.

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: its backbone has no feature maps, or nothing says how pixels become its inputs.
        DataError: the training pictures have several sizes, and the recipe names none; or there are too few.
    """
    fitting.require_enough(recipe, splits)
    size = _size(recipe, splits)
    keras.config.set_dtype_policy(precision)
    try:
        with assets.reaching(preset):
            backbone = keras_hub.models.Backbone.from_preset(preset, dtype=precision)
            converter = keras_hub.layers.ImageConverter.from_preset(preset)
        backbone = at_size(backbone, seen_size(size, backbone, TILE))
        backbone.trainable = False
        scale = 1.0 if converter.scale is None else converter.scale
        return AnomalyDetector(
            backbone, size, scale, converter.offset, recipe.detector.scores, recipe.detector.bank_size, TILE
        )
    except ValueError as error:
        raise RecipeError(
            f"preset = {preset!r} cannot be the backbone for pictures of {size[1]} x {size[0]} pixels: {error}",
            "Use a preset of a convolutional image backbone (EfficientNet, MobileNet, ResNet, …).",
        ) from error


def _size(recipe: AnomalyDetection, splits: Splits) -> tuple[int, int]:
    """Returns the height and width of all pictures, or the asked ones."""
    if asked := recipe.data.image_size:
        return asked, asked
    sizes = set(_sizes(splits.train))
    if len(sizes) > 1:
        smallest, largest = min(sizes), max(sizes)
        raise DataError(
            f"The training pictures have {len(sizes):,} sizes, from {smallest[1]} x {smallest[0]} to "
            f"{largest[1]} x {largest[0]} pixels.",
            "Set data.image_size, the side of the squares to resize them to; or take pictures of one size.",
        )
    ((height, width),) = sizes
    if height * width > _MOST_PIXELS or min(height, width) < 16:
        raise DataError(
            f"The training pictures have {width} x {height} pixels, but only 16 x 16 to {_MOST_PIXELS:,} pixels can be "
            "looked at as they are.",
            "Cut all pictures into parts of one size, also those that are asked about later; or set data.image_size, "
            "if defects survive that.",
        )
    others = [
        f"{id} ({size[1]} x {size[0]})"
        for split in (splits.validation, splits.test)
        for id, size in zip(split.ids, _sizes(split), strict=True)
        if size != (height, width)
    ]
    if others:
        raise DataError(
            f"The training pictures have {width} x {height} pixels and are looked at as they are, but others for "
            f"validation or test have another size: {some(others)}.",
            "Take pictures of one size; or set data.image_size, the side of the squares to resize them to.",
        )
    return height, width


def _sizes(split: Split) -> list[tuple[int, int]]:
    """Returns the height and width of each picture of a split, from its header."""
    found = [upright_size(split.read(i)) for i in range(len(split))]
    return [size[::-1] for size in found if size]


def describe(recipe: AnomalyDetection, model: AnomalyDetector, splits: Splits) -> dict[str, Any]:
    """Returns the sizes of pictures and cells for run.json, and a warning where pictures are made much smaller."""
    found = {"image_size": list(model.image_size), "cell": model.cell, "scores": list(recipe.detector.scores)}
    if recipe.data.image_size is None:
        return found
    largest = max(_sizes(splits.train), key=lambda size: max(size))
    times = max(before / after for before, after in zip(largest, model.image_size, strict=True))
    if times <= _SMALLER:
        return found
    height, width = largest
    warning = (
        f"pictures of {width} x {height} pixels are made {times:.1f} times smaller (data.image_size = "
        f"{recipe.data.image_size}): defects of fewer pixels across vanish"
    )
    return {**found, "warnings": [warning]}


# --- scoring -------------------------------------------------------------------------------------------------


def predict(recipe: AnomalyDetection, model: Model, split: Split, batch_size: int, told: Told) -> Predictions:
    """Returns the outputs for a whole split, in its order."""
    forward = tf.function(lambda x: model(x, training=False), input_signature=[model.takes], autograph=False)
    found, done = [], 0
    for x, _ in feeding.batches(model, split, fitting.order(model, split, batch_size)):
        found.append({name: output.numpy() for name, output in forward(x).items()})
        done += len(x)
        told(done)
    return ragged.concatenated(found)


def reference(model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> Predictions:
    """Returns Keras's own outputs, outside any graph, one picture at a time."""
    found = []
    for image in images:
        x = model.image_converter(np.asarray(image, np.float32)[None])
        found.append({name: np.asarray(output) for name, output in model(x, training=False).items()})
    return ragged.concatenated(found)


def answer(recipe: AnomalyDetection, model: Model, images: Sequence[npt.NDArray[np.uint8]]) -> Predictions:
    """Returns the outputs for new pictures.

    Raises:
        DataError: the model looks at pictures as they are, and some have another size.
    """
    height, width = model.image_size
    settings = {"own_size": recipe.data.image_size is None, "height": height, "width": width}
    problems = [f"Example {n}: {why}" for n, image in enumerate(images, 1) if (why := unfit(image, settings))]
    if problems:
        raise DataError("\n".join(problems) + ".")
    return reference(model, images)


def signatures(model: Model) -> dict[str, Signature]:
    """Returns the signatures of an image model, with this task's outputs."""

    def answer(x: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.identity(output, name=name) for name, output in model(x, training=False).items()}

    return signatures_of(answer, model)


# --- the row -------------------------------------------------------------------------------------------------


def _targets(recipe: AnomalyDetection, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    kinds = getattr(splits, name).labels["kind"]
    return Targets(kinds, np.ones(len(kinds), np.float32))


def _batches(
    recipe: AnomalyDetection, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    return with_truth(feeding.batches(model, split, order), targets)


def _no_loss(truth: Any, outputs: Any, weights: Any) -> Any:
    raise AssertionError("statistics have no loss")


TASK: Task[AnomalyDetection] = Task(
    building=Building(
        build=build,
        prepare=lambda recipe, model, splits: None,
        describe=describe,
        load=lambda folder, recipe, precision: registered.load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=fitting.vary,
        largest_product=lambda model: None,
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: fitting.order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: feeding.example(
            model, split, fitting.order(model, split, batch_size).batch_size
        ),
        fingerprint=lambda recipe, model, changed: feeding.preprocessing(model),
        shapes="fixed",
    ),
    learning=Learning(
        joint=lambda recipe: "its statistics take one pass, without gradients",
        targets=_targets,
        loss=lambda recipe: _no_loss,
        meter=lambda recipe: keras.metrics.Mean(name="balanced_accuracy"),
        validated=None,
        starts=False,
        sampled=no_samples,
        samples=no_answers,
        fit=fitting.fit,
    ),
    predict=predict,
    answer=lambda recipe, model, examples, options: answer(recipe, model, examples),
    signatures=lambda recipe, model: signatures(model),
    trace=trace,
    reference=lambda recipe, model, examples: reference(model, examples),
)

"""Batches of images: decoded, resized, augmented and normalised."""

import json
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastune import keras_private
from kerastune.data import Order, Split
from kerastune.modalities import image as pixels
from kerastune.tasks.contract import Model
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.pipeline import ahead, in_order


def order(
    model: Model, split: Split, batch_size: int, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0
) -> Order:
    return Order(len(split), batch_size, epochs, seed, start)


def example(model: Model, split: Split, batch_size: int) -> tf.Tensor:
    """Returns the first batch of model inputs, without augmentation."""
    x, _ = next(iter(batches(model, split, order(model, split, batch_size))))
    return x


def batches(
    model: Model, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """Yields batches of (model inputs float32 [B, H, W, 3], indices into the split int64 [B]).

    Args:
        augment: random changes between resizing and normalising, or None.
        seed: determines the changes, together with the batch number, so that a batch is the same whenever it is made,
            even in a resumed run.
        view: a number to draw with instead of the batch number, for a cache of augmented views.
    """
    height, width = model.preprocessor.image_converter.image_size
    resize, normalise = _resize(model), normaliser(model)

    def read(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(lambda i: pixels.decode(split.read(i)), [i], tf.uint8, stateful=False)
        image = resize(tf.cast(tf.ensure_shape(image, [None, None, 3]), tf.float32))  # -> [H, W, 3]
        return tf.ensure_shape(image, [height, width, 3]), i

    examples = in_order(order, read)
    if augment is not None and (change := _augmentation(augment, height, width, seed, view)):
        # One call at a time: the layers' random state is set before each batch.
        examples = examples.map(lambda number, batch: (number, (change(number, batch[0]), batch[1])))
    return ahead(examples.map(lambda number, batch: (normalise(batch[0]), batch[1])))


def _resize(model: Model) -> Any:
    return _converter(model, {"scale": None, "offset": None})


def normaliser(model: Model) -> Any:
    return _converter(model, {"image_size": None})


def _converter(model: Model, without: dict[str, None]) -> Any:
    converter = model.preprocessor.image_converter
    # Pixels stay exact under mixed precision.
    return type(converter).from_config({**converter.get_config(), "dtype": "float32", **without})


def _augmentation(
    augment: Augment, height: int, width: int, seed: int, view: int | None
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None:
    layers: list[keras.layers.Layer] = []
    limits = {"value_range": (0, 255)}
    if augment.flip != "none":
        layers.append(keras.layers.RandomFlip(augment.flip))
    if augment.crop:
        kept = 1 - augment.crop
        layers.append(keras.layers.RandomCrop(round(height * kept), round(width * kept)))
        layers.append(keras.layers.Resizing(height, width))
    if augment.color:
        factor = augment.color
        layers.append(
            keras.layers.RandomColorJitter(
                **limits,
                brightness_factor=factor,
                contrast_factor=factor,
                saturation_factor=(0.5 - factor / 2, 0.5 + factor / 2),  # 0.5 leaves the image unchanged
            )
        )
    if augment.rand_augment:
        layers.append(keras.layers.RandAugment(**limits, factor=augment.rand_augment))
    draw = _drawing_from(layers, seed)

    def change(number: tf.Tensor, images: tf.Tensor) -> tf.Tensor:  # float32 0..255 [B, H, W, 3] -> the same
        draw(number if view is None else number + (view + 1) * VIEW)
        for layer in layers:
            images = layer(images, training=True)
        return tf.clip_by_value(images, 0.0, 255.0)  # Keras's saturation can leave the range of pixels

    return change if layers else None


_DRAWS = 128  # maximum random numbers that a layer draws per batch; RandAugment draws the most, 40
VIEW = 2**20
"""Maximum batches per view."""


def _drawing_from(layers: list[keras.layers.Layer], seed: int) -> Callable[[tf.Tensor], None]:
    """Returns a function that sets the layers' random state for a batch number; Keras's layers can only draw on."""
    generators = [
        part.generator for layer in layers for part in keras_private.layers(layer) if hasattr(part, "generator")
    ]

    def draw(number: tf.Tensor) -> None:
        for i, generator in enumerate(generators):
            state = tf.stack([tf.constant(seed * 31 + i, tf.int64), number * _DRAWS])
            generator.state.assign(tf.cast(state, generator.state.dtype))

    return draw


def mixing(
    augment: Augment, seed: int
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None:
    """Returns mixup and cutmix: (number, inputs [B, H, W, 3], targets [B, K]) -> (inputs, targets), or None.

    Both are linear in the pixels, so they commute with normalising. If both are set, each batch gets one.
    """
    layers: list[keras.layers.Layer] = []
    if augment.mixup:
        layers.append(keras.layers.MixUp(alpha=augment.mixup))
    if augment.cutmix:
        layers.append(keras.layers.CutMix(factor=(augment.cutmix, augment.cutmix)))  # alpha itself, not a range
    draw = _drawing_from(layers, seed)

    def mix(number: tf.Tensor, images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draw(number)
        branches = [lambda layer=layer: _both(layer({"images": images, "labels": targets})) for layer in layers]
        chosen = tf.random.stateless_uniform([], [seed, tf.cast(number, tf.int32)], 0, len(layers), tf.int32)
        return tf.switch_case(chosen, branches) if len(layers) > 1 else branches[0]()

    return mix if layers else None


def weighed(
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    number: tf.Tensor,
    images: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A mixed batch, its targets and its weights: each of two blended images counts by its own weight.

    Cross-entropy is linear in the targets, so that the loss of a blend is that of the two, each in its share.
    """
    images, both = mix(number, images, targets * weights[:, None])
    summed = tf.reduce_sum(both, axis=-1)
    return images, both / summed[:, None], summed


def _both(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    return batch["images"], batch["labels"]


def preprocessing(model: Model, augment: Augment | None = None) -> str:
    """Returns everything that determines the inputs made from given data, for the feature cache's key."""
    converter = model.preprocessor.image_converter
    return json.dumps([converter.get_config(), augment.model_dump() if augment else None], sort_keys=True, default=str)

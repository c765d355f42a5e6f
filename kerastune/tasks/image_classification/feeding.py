"""Batches of images: decoded, resized, augmented and normalised."""

import json
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastune import keras_private
from kerastune.data import Order, Split
from kerastune.modalities import image as pixels
from kerastune.tasks import draws
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


def batches(model: Model, split: Split, order: Order) -> tf.data.Dataset:
    """Yields batches of (model inputs float32 [B, H, W, 3], indices into the split int64 [B]), as devices see them."""
    read, normalise = _reader(model, split), normaliser(model)
    examples = in_order(order, lambda i: (read(i), i))
    return ahead(examples.map(lambda number, batch: (normalise(batch[0]), batch[1])))


def decoded(model: Model, split: Split, order: Order) -> tf.data.Dataset:
    """Yields batches of (pictures at the model's size uint8 [B, H, W, 3], indices into the split int64 [B])."""
    return ahead(_decoded(model, split, order).map(lambda number, batch: batch))


def training(
    model: Model, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """Yields batches for training: as `batches`, of pixels that are rounded to whole numbers, as they are kept.

    Args:
        augment: random changes between resizing and normalising, or None.
        seed: determines the changes, together with the epoch and the example.
        view: a number to draw with instead of the epoch, for a cache of augmented views.
    """
    height, width = model.preprocessor.image_converter.image_size
    change, normalise = _augmentation(augment, height, width) if augment else None, normaliser(model)

    def made(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, i = tf.cast(batch[0], tf.float32), batch[1]
        if change:
            images = change(draws.keys(seed, draws.time(order, number, view), i), images)
        return normalise(images), i

    return ahead(_decoded(model, split, order).map(made, num_parallel_calls=2))


def _decoded(model: Model, split: Split, order: Order) -> tf.data.Dataset:
    """Yields numbered batches of `decoded`, from where they are kept or from files."""
    shape = (*model.preprocessor.image_converter.image_size, 3)
    kept, read = split.kept, _reader(model, split)
    if kept is None:
        return in_order(order, lambda i: (_rounded(read(i)), i))

    def gathered(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = tf.numpy_function(kept, [i], tf.uint8, stateful=False)
        return tf.ensure_shape(found, [None, *shape]), i

    return in_order(order, gathered, together=True)


def _reader(model: Model, split: Split) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from an index into the split to the picture at the model's size, float32 [H, W, 3]."""
    height, width = model.preprocessor.image_converter.image_size
    resize = _converter(model, {"scale": None, "offset": None})

    def read(i: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(lambda i: pixels.decode(split.read(i)), [i], tf.uint8, stateful=False)
        image = resize(tf.cast(tf.ensure_shape(image, [None, None, 3]), tf.float32))
        return tf.ensure_shape(image, [height, width, 3])

    return read


def _rounded(image: tf.Tensor) -> tf.Tensor:
    return tf.saturate_cast(tf.round(image), tf.uint8)


def normaliser(model: Model) -> Any:
    return _converter(model, {"image_size": None})


def _converter(model: Model, without: dict[str, None]) -> Any:
    converter = model.preprocessor.image_converter
    # Pixels stay exact under mixed precision.
    return type(converter).from_config({**converter.get_config(), "dtype": "float32", **without})


def _augmentation(augment: Augment, height: int, width: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None:
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
    seeds = draws.Seeds(0)
    for part in (part for layer in layers for part in keras_private.layers(layer) if hasattr(part, "generator")):
        part.generator = seeds

    def changed(given: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        key, image = given
        seeds.begin(key)
        image = image[None]
        for layer in layers:
            image = layer(image, training=True)
        return tf.clip_by_value(image[0], 0.0, 255.0)  # Keras's saturation can leave the range of pixels

    def change(keys: tf.Tensor, images: tf.Tensor) -> tf.Tensor:  # float32 0..255 [B, H, W, 3] -> the same
        return tf.map_fn(changed, (keys, images), fn_output_signature=tf.TensorSpec([height, width, 3]))

    return change if layers else None


def preprocessing(model: Model, augment: Augment | None = None) -> str:
    """Returns everything that determines the inputs made from given data, for the caches' keys."""
    converter = model.preprocessor.image_converter
    return json.dumps(
        ["uint8", converter.get_config(), augment.model_dump() if augment else None], sort_keys=True, default=str
    )

"""Image classification: labels or a number for an image, with any KerasHub backbone that has an ImageClassifier.

The preset's own image converter prepares pixels, both in training and inside every exported graph: float32 0..255 RGB
-> resize -> scale and offset. A difference between the two is the most common deployment bug.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets, keras_private
from kerastune.data import Order, Split
from kerastune.errors import RecipeError
from kerastune.files import write_json
from kerastune.formats.graphs import Signature
from kerastune.modalities import image as pixels
from kerastune.targets import images as reader
from kerastune.tasks import losses
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Model, Targets, Task
from kerastune.tasks.image_classification.settings import Augment, ImageClassification
from kerastune.tasks.losses import activated
from kerastune.tasks.pipeline import ahead, with_truth

Scores = npt.NDArray[np.float32]


def build(recipe: ImageClassification, preset: str, num_outputs: int, precision: str) -> Model:
    """Builds the preset's backbone with a new, randomly initialised head of `num_outputs` logits.

    Args:
        preset: the resolved `recipe.preset`.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is not an image classifier, or does not support the image size.
    """
    image_size: int | None = recipe.data.image_size
    keras.config.set_dtype_policy(precision)  # the head follows the global policy, the backbone its own
    try:
        with assets.reaching(preset):
            backbone = _at_size(keras_hub.models.Backbone.from_preset(preset, dtype=precision), image_size)
            model = keras_hub.models.ImageClassifier.from_preset(
                preset, backbone=backbone, num_classes=num_outputs, activation="linear"
            )
    except ValueError as error:
        raise RecipeError(
            f"preset = {preset!r} cannot be built as an image classifier"
            + (f" at image_size = {image_size}" if image_size else "")
            + f": {error}",
            "Use a preset of an image backbone (EfficientNet, MobileNet, ResNet, ViT, …); leave out "
            "data.image_size for backbones with position embeddings.",
        ) from error
    if model.preprocessor is not None and model.preprocessor.image_converter is None:
        model.preprocessor.image_converter = _hugging_face_converter(preset, model.preprocessor)
    if model.preprocessor is None or model.preprocessor.image_converter is None:
        raise RecipeError(
            f"preset = {preset!r} has no image converter, so nothing defines how pixels become model inputs.",
            "Save the preset with its preprocessor (model.save_to_preset), or use another.",
        )
    converter = model.preprocessor.image_converter
    own = backbone.input_shape[1:3]
    size = own if None not in own else (image_size, image_size) if image_size else converter.image_size
    if size is None:
        raise RecipeError(f"preset = {preset!r} does not define its image size.", "Set data.image_size.")
    converter.image_size = (int(size[0]), int(size[1]))
    return model


def _hugging_face_converter(preset: str, preprocessor: Any) -> Any:
    """Returns the image converter that a Hugging Face checkpoint describes, which KerasHub 0.32 does not read.

    Returns None if the checkpoint has no preprocessor_config.json.
    """
    path = keras_private.preset_file(preset, "preprocessor_config.json")
    if path is None:
        return None
    config = json.loads(path.read_text("utf-8"))
    ones, zeros = [1.0] * 3, [0.0] * 3
    deviation = config.get("image_std", ones) if config.get("do_normalize", True) else ones
    mean = config.get("image_mean", zeros) if config.get("do_normalize", True) else zeros
    rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    size = config.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    return preprocessor.image_converter_cls(
        image_size=(side, side) if side else None,
        scale=[rescale / d for d in deviation],
        offset=[-m / d for m, d in zip(mean, deviation, strict=True)],
        interpolation={0: "nearest", 3: "bicubic"}.get(config.get("resample", 2), "bilinear"),  # PIL's numbers
        crop_to_aspect_ratio=bool(config.get("do_center_crop", False)),
    )


def _at_size(backbone: Any, image_size: int | None) -> Any:
    """Returns the backbone for another image size. Families name the setting differently and ignore other names."""
    if image_size is None or backbone.input_shape[1:3] in [(None, None), (image_size, image_size)]:
        return backbone
    config = backbone.get_config()
    key = "image_shape" if "image_shape" in config else "input_shape"
    resized = type(backbone).from_config({**config, key: (image_size, image_size, 3)})
    resized.set_weights(backbone.get_weights())
    return resized


def load(folder: str, precision: str = "float32") -> Model:
    """Loads a tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    return keras_hub.models.ImageClassifier.from_preset(folder, dtype=precision)


def describe(model: Model) -> dict[str, Any]:
    """Returns the height and width in pixels, for run.json."""
    return {"image_size": list(model.preprocessor.image_converter.image_size)}


# --- feeding -----------------------------------------------------------------------------------------------


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
    resize, normalise = _resize(model), _normalise(model)

    def read(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.numpy_function(lambda i: pixels.decode(split.read(i)), [i], tf.uint8, stateful=False)
        image = resize(tf.cast(tf.ensure_shape(image, [None, None, 3]), tf.float32))  # -> [H, W, 3]
        return tf.ensure_shape(image, [height, width, 3]), i

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        indices = tf.ensure_shape(tf.numpy_function(order.epoch, [number], tf.int64), [order.size])
        left = tf.data.Dataset.from_tensor_slices(indices).skip(tf.where(number == first, skipped, none))
        return left.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(order.batch_size)

    first, none = order.start // order.steps, tf.constant(0, tf.int64)
    skipped = tf.constant(order.start % order.steps * order.batch_size, tf.int64)
    examples = tf.data.Dataset.range(first, order.epochs).flat_map(epoch)
    if augment is not None and (change := _augmentation(augment, height, width, seed, view)):
        # One call at a time: the layers' random state is set before each batch.
        numbered = examples.enumerate(order.start)
        examples = numbered.map(lambda number, batch: (change(number, batch[0]), batch[1]))
    return ahead(examples.map(lambda x, i: (normalise(x), i)))


def _resize(model: Model) -> Any:
    return _converter(model, {"scale": None, "offset": None})


def _normalise(model: Model) -> Any:
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
        draw(number if view is None else number + (view + 1) * _VIEW)
        for layer in layers:
            images = layer(images, training=True)
        return tf.clip_by_value(images, 0.0, 255.0)  # Keras's saturation can leave the range of pixels

    return change if layers else None


_DRAWS = 128  # maximum random numbers that a layer draws per batch; RandAugment draws the most, 40
_VIEW = 2**20  # maximum batches per view


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


# --- scoring -----------------------------------------------------------------------------------------------


def scores(
    target: str, model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Scores:
    """Returns the scores (`losses.activated`) of a whole split: float32 [n, K], in its order.

    Calls `each(n)` when the first n examples are done.
    """
    forward = tf.function(lambda x: activated(target, model(x, training=False)))
    found: list[Scores] = []
    done = 0
    for x, _ in batches(model, split, order(model, split, batch_size)):
        found.append(forward(x).numpy())
        done += len(found[-1])
        each(done)
    return np.concatenate(found)


# --- what the device sees ----------------------------------------------------------------------------------


def device_function(target: str, model: Model, resize: bool = True) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function from raw pixels to scores: uint8 [B, H, W, 3] of any size -> {"scores": float32 [B, K]}.

    Without `resize`, images must have the model's size; the operators would only cost memory.
    """
    converter = model.preprocessor.image_converter if resize else _normalise(model)

    def device(images: tf.Tensor) -> dict[str, tf.Tensor]:
        x = converter(tf.cast(images, tf.float32))  # -> [B, h, w, 3], the size the model was trained at
        return {"scores": tf.identity(activated(target, model(x, training=False)), name="scores")}

    return device


def bytes_function(target: str, model: Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function from encoded JPEG or PNG files to scores: string [B] -> {"scores": float32 [B, K]}."""
    converter = model.preprocessor.image_converter
    height, width = converter.image_size

    def decode(encoded: tf.Tensor) -> tf.Tensor:  # string [] -> float32 [h, w, 3]
        def png() -> tf.Tensor:
            rgba = tf.cast(tf.io.decode_png(encoded, channels=4), tf.float32)
            alpha = rgba[..., 3:] / 255
            return tf.round(rgba[..., :3] * alpha + 255 * (1 - alpha))

        def jpeg() -> tf.Tensor:
            # The accurate method equals Pillow's, which training used.
            return tf.cast(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)

        image = tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), jpeg, png), [None, None, 3])
        return tf.ensure_shape(converter(image), [height, width, 3])

    def device(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec([height, width, 3], tf.float32))
        return {"scores": tf.identity(activated(target, model(x, training=False)), name="scores")}

    return device


def signatures(target: str, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an exported model: name -> (function, its inputs).

    "any_size" is `serving_default` for one image; the "fixed" ones take an image of the model's size.
    """
    images, sized = device_function(target, model), device_function(target, model, resize=False)
    height, width = model.preprocessor.image_converter.image_size
    sizes, fixed = [None, None, 3], [1, height, width, 3]
    return {
        "serving_default": (images, [tf.TensorSpec([None, *sizes], tf.uint8, name="images")]),
        "serve_bytes": (bytes_function(target, model), [tf.TensorSpec([None], tf.string, name="image_bytes")]),
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


def trace(recipe: ImageClassification, model: Model, work: Path, wanted: Sequence[str]) -> None:
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


# --- the row ------------------------------------------------------------------------------------------------


def _batches(
    recipe: ImageClassification, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    if changes is None:
        return with_truth(batches(model, split, order), targets)
    augment = recipe.augment
    found = with_truth(batches(model, split, order, augment, changes.seed, changes.view), targets)
    mix = mixing(augment, changes.seed) if changes.view is None else None
    if mix is None:
        return found
    numbered = found.enumerate(order.start)
    if recipe.train.class_weights == "none":
        return numbered.map(lambda number, batch: (*mix(number, batch[0], batch[1]), *batch[2:]))
    return numbered.map(lambda number, batch: (*weighed(mix, number, *batch[:3]), *batch[3:]))


def _target(recipe: ImageClassification) -> str:
    return recipe.data.target


TASK: Task[ImageClassification] = Task(
    building=Building(
        build=build,
        prepare=losses.start_at_the_mean,
        describe=lambda recipe, model, splits: describe(model),
        load=lambda folder, recipe, precision: load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=losses.vary,
        largest_product=lambda model: None,  # a matrix product says nothing about convolutions
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model, recipe.augment if changed else None),
        shapes="fixed",
    ),
    learning=losses.learning(_target),
    predict=lambda recipe, model, split, batch_size, told: {
        "scores": scores(recipe.data.target, model, split, batch_size, told)
    },
    answer=lambda recipe, model, examples, options: {"scores": reference(recipe.data.target, model, examples)},
    signatures=lambda recipe, model: signatures(recipe.data.target, model),
    trace=trace,
    reference=lambda recipe, model, examples: {"scores": reference(recipe.data.target, model, examples)},
)

"""Image embedding: vectors of images from any KerasHub backbone with an ImageClassifier, by contrastive training.

The model is the preset's classifier with a projection instead of its head: [B, H, W, 3] -> [B, D]. The projection
starts as the principal components of the training images' features, which keep their distances best.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.decomposition import PCA

from kerastune.data import Order, Split, Splits, few
from kerastune.formats.graphs import Signature
from kerastune.tasks import losses
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Model, Targets, Task
from kerastune.tasks.image_classification import task as images
from kerastune.tasks.image_classification import tracing
from kerastune.tasks.image_classification.feeding import batches, decoded, example, order, preprocessing, training
from kerastune.tasks.image_embedding.learning import LEARNING
from kerastune.tasks.image_embedding.settings import ImageEmbedding
from kerastune.tasks.pipeline import with_truth

Vectors = npt.NDArray[np.float32]

_MEASURED = 2000  # training images that the first projection is made from


def build(recipe: ImageEmbedding, preset: str, num_outputs: int, precision: str) -> Model:
    """Builds the preset's classifier with a projection to `recipe.dimensions[0]` numbers as its head."""
    classifier: Any = recipe  # whose data have an image size, too
    return images.build(classifier, preset, recipe.dimensions[0], precision)


def prepare(recipe: ImageEmbedding, model: Model, splits: Splits) -> None:
    """Sets the projection to the principal components of the features of training images."""
    kernel, bias = losses.head(model)
    split = few(splits.train, _MEASURED)
    reach = keras.Model(model.inputs, model.layers[-1].input)
    forward = tf.function(lambda x: tf.cast(reach(x, training=False), tf.float32))
    made = batches(model, split, order(model, split, recipe.train.batch_size))
    features = np.concatenate([forward(x).numpy() for x, _ in made]).astype(np.float64)
    found = PCA(min(kernel.shape[1], *features.shape), random_state=0).fit(features)
    length = np.sqrt(found.explained_variance_.sum())  # so that vectors are about 1 long
    projection = np.zeros(kernel.shape)
    projection[:, : len(found.components_)] = found.components_.T / length
    kernel.assign(projection)
    bias.assign(-found.mean_ @ projection)


def describe(model: Model) -> dict[str, Any]:
    """Returns facts about images and vectors, for run.json."""
    return {**images.describe(model), "dimensions": int(model.output_shape[-1])}


def _order(
    recipe: ImageEmbedding,
    model: Model,
    split: Split,
    batch_size: int,
    epochs: int = 1,
    seed: tuple[int, ...] | None = None,
    start: int = 0,
) -> Order:
    """Returns batches in which images meet others of their label."""
    return replace(order(model, split, batch_size, epochs, seed, start), kinds=split.labels)


def _batches(
    recipe: ImageEmbedding, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    more = (recipe.augment, changes.seed, changes.view) if changes else ()
    return with_truth(training(model, split, order, *more), targets)


def vectors(model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None) -> Vectors:
    """Returns the vectors of a whole split: float32 [n, 1, D], in its order."""
    return images.scores("number", model, split, batch_size, each)[:, None]


def signatures(recipe: ImageEmbedding, model: Model) -> dict[str, Signature]:
    """Returns the signatures of an image model, whose output is a vector.

    It is not scaled to length 1: LiteRT's and TensorFlow Lite Micro's integer kernels do so differently.
    """

    def answer(x: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embeddings": tf.identity(tf.cast(model(x, training=False), tf.float32), name="embeddings")}

    return tracing.signatures_of(answer, model)


def reference(model: Model, examples: Sequence[Any]) -> dict[str, Vectors]:
    """Returns the Keras model's own vectors, outside any graph, one image at a time: float32 [n, D]."""
    return {"embeddings": tracing.reference("number", model, examples)}


TASK: Task[ImageEmbedding] = Task(
    building=Building(
        build=lambda recipe, preset, splits, precision: build(recipe, preset, len(splits.labels), precision),
        prepare=prepare,
        describe=lambda recipe, model, splits: describe(model),
        load=lambda folder, recipe, precision: images.load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=losses.vary,
        largest_product=lambda model: None,  # a matrix product says nothing about convolutions
    ),
    feeding=Feeding(
        order=_order,
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model, recipe.augment if changed else None),
        shapes="fixed",
        decoded=lambda recipe, *rest: decoded(*rest),
    ),
    learning=LEARNING,
    predict=lambda recipe, model, split, batch_size, told: {"embeddings": vectors(model, split, batch_size, told)},
    answer=lambda recipe, model, examples, options: reference(model, examples),
    signatures=signatures,
    trace=tracing.trace,
    reference=lambda recipe, model, examples: reference(model, examples),
)

"""The loss and the meter of image embedding: supervised contrastive learning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Splits
from kerastune.tasks import losses
from kerastune.tasks.contract import Learning, Loss, Model, Targets
from kerastune.tasks.contrast import Found, contrastive, matches
from kerastune.tasks.image_embedding.settings import ImageEmbedding
from kerastune.tasks.learnt import LEARNT


def targets(recipe: ImageEmbedding, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    """Returns each example's label, int32 [n]."""
    truth = getattr(splits, name).labels
    return Targets(truth.astype(np.int32), np.ones(len(truth), np.float32))


def loss(sizes: Sequence[int]) -> Loss:
    """Returns the supervised contrastive loss, the mean of those of vectors cut to each size.

    Its count is the number of images with another of their label in the batch. Weights are ignored: all are 1.
    """

    def summed(truth: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = [contrastive(truth, outputs[:, :size]) for size in sizes]
        matched = tf.reduce_any(matches(truth), axis=-1)
        return tf.reduce_sum(tf.add_n(found)) / len(sizes), tf.maximum(tf.reduce_sum(tf.cast(matched, tf.float32)), 1)

    return summed


def validated(recipe: ImageEmbedding, y: Sequence[npt.NDArray[Any]], outputs: Sequence[Any]) -> dict[str, float]:
    """Returns the figure that selects the best epoch, over all images of a split."""
    learnt = LEARNT[recipe.data.target]
    vectors = np.concatenate(outputs).astype(np.float32)[:, None]
    truth = np.concatenate([np.asarray(one) for one in y]).astype(np.int64)
    return {learnt.metric.name: learnt.statistic(learnt.per_example(truth, {"embeddings": vectors}))}


LEARNING: Learning[ImageEmbedding] = Learning(
    joint=lambda recipe: "its loss compares each picture with all others of the batch",
    targets=targets,
    loss=lambda recipe: loss(recipe.dimensions),
    meter=lambda recipe: Found(name=LEARNT[recipe.data.target].metric.name),
    validated=validated,
    starts=True,
    sampled=losses.no_samples,
    samples=losses.no_answers,
)

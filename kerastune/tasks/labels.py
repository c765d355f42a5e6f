"""What is learnt: one label, any number of labels, or a number. The targets, loss, metric and scores of each.

`target` is that of the recipe's data (`kerastune.recipe.Target`); `truth` is `kerastune.data.Split.labels`.
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from kerastune.data import Split

Floats = npt.NDArray[np.float32]


def truth(task: Any, split: Split) -> npt.NDArray[Any]:
    """What is known of a split's examples: `Split.labels`."""
    return split.labels


def count(y: tf.Tensor) -> tf.Tensor:
    """What a batch's loss is the mean over: its examples."""
    return tf.shape(y)[0]


def targets(
    target: str, num_classes: int, truth: npt.NDArray[Any], smoothing: float = 0.0, balanced: bool = False
) -> tuple[Floats, Floats]:
    """What the outputs are compared with, float32 [n, K], and each example's weight in the loss, float32 [n].

    Args:
        smoothing: share of each target that is spread over all labels; of one label only.
        balanced: weighs each class by n_examples / (n_classes * n_class), as scikit-learn does; of one label only.
    """
    weights = np.ones(len(truth), np.float32)
    if target != "label":
        return truth.astype(np.float32), weights
    if balanced:
        present = np.unique(truth)
        by_class = np.zeros(num_classes, np.float32)
        by_class[present] = compute_class_weight("balanced", classes=present, y=truth)
        weights = by_class[truth]
    one_hot = np.eye(num_classes, dtype=np.float32)[truth]
    return one_hot * np.float32(1 - smoothing) + np.float32(smoothing / num_classes), weights


def loss(target: str) -> keras.losses.Loss:
    if target == "number":
        return keras.losses.MeanSquaredError()
    if target == "labels":
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.CategoricalCrossentropy(from_logits=True)


def metric(target: str) -> keras.metrics.Metric:
    """The metric that chooses the best epoch; higher is better, 1 is perfect.

    It is the mean of `tasks.scoring.quality`: accuracy; of several labels the share of examples that have them all
    right, as scikit-learn counts; of numbers R².
    """
    if target == "number":
        made = keras.metrics.R2Score(name="r2")
        made.update_state(np.zeros((2, 1)), np.zeros((2, 1)))  # only then it has its variables
        made.reset_state()
        return made
    if target == "labels":
        return keras.metrics.MeanMetricWrapper(_all_right, name="accuracy")
    return keras.metrics.CategoricalAccuracy(name="accuracy")


def _all_right(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(tf.reduce_all((logits > 0) == (truth > 0.5), axis=-1), tf.float32)[:, None], axis=-1)


def activated(target: str, logits: tf.Tensor) -> tf.Tensor:
    """Logits as scores, float32 [B, K]: probabilities that sum to 1, one probability a label, or numbers."""
    if target == "number":
        return tf.cast(logits, tf.float32)
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sigmoid(logits) if target == "labels" else tf.nn.softmax(logits)


def scatter(task: Any, inputs: Any) -> None:
    """Draws the last layer at random, so that an untrained model's scores differ as a trained one's do.

    Args:
        inputs: a batch of the model's inputs; the logits of each label will have mean 0 and deviation 2 over it.
    """
    kernel, bias = [weight for layer in task.layers if layer is not task.backbone for weight in layer.weights][-2:]
    kernel.assign(keras.random.normal(kernel.shape, seed=0))
    bias.assign(keras.ops.zeros(bias.shape))
    logits = np.asarray(task(inputs, training=False), np.float32)  # [B, num_classes]
    scale = 2 / np.maximum(logits.std(axis=0), 1e-6)
    kernel.assign(kernel * scale)
    bias.assign(-logits.mean(axis=0) * scale)

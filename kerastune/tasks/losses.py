"""Targets, losses and meters for one label, several labels, or a number, in every modality.

`target` is the kind of truth in the recipe's data, a row of `kerastune.tasks.learnt.LEARNT`.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from kerastune.data import Splits
from kerastune.tasks.contract import Learning, Loss, Model, Targets

Floats = npt.NDArray[np.float32]


def targets(
    target: str, num_classes: int, truth: npt.NDArray[Any], smoothing: float = 0.0, balanced: bool = False
) -> tuple[Floats, Floats]:
    """Returns training targets, float32 [n, K], and each example's weight in the loss, float32 [n].

    Args:
        smoothing: fraction of each target that is spread over all labels; for one label only.
        balanced: weight each class by n_examples / (n_classes * n_class), as scikit-learn does; for one label only.
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


def loss(target: str) -> Loss:
    """Returns the loss: squared error for a number, binary cross-entropy for several labels, cross-entropy for one."""
    each: keras.losses.Loss
    if target == "number":
        each = keras.losses.MeanSquaredError(reduction=None)
    elif target == "labels":
        each = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)
    else:
        each = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)

    def summed(truth: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses = each(truth, outputs)  # [B]
        return tf.reduce_sum(losses * tf.cast(weights, losses.dtype)), tf.cast(tf.shape(losses)[0], losses.dtype)

    return summed


def metric(target: str) -> keras.metrics.Metric:
    """Returns the metric that selects the best epoch; higher is better, 1 is perfect.

    It is the mean of `Learnt.per_example`: accuracy; for several labels the share of examples with all labels correct,
    as in scikit-learn; for numbers R².
    """
    if target == "number":
        made = keras.metrics.R2Score(name="r2")
        made.update_state(np.zeros((2, 1)), np.zeros((2, 1)))  # creates its variables
        made.reset_state()
        return made
    if target == "labels":
        return keras.metrics.MeanMetricWrapper(_all_right, name="accuracy")
    return keras.metrics.CategoricalAccuracy(name="accuracy")


def _all_right(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(tf.reduce_all((logits > 0) == (truth > 0.5), axis=-1), tf.float32)[:, None], axis=-1)


def activated(target: str, logits: tf.Tensor) -> tf.Tensor:
    """Converts logits to scores, float32 [B, K]: probabilities that sum to 1, one probability per label, or numbers."""
    if target == "number":
        return tf.cast(logits, tf.float32)
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sigmoid(logits) if target == "labels" else tf.nn.softmax(logits)


def head(model: Model) -> tuple[keras.Variable, keras.Variable]:
    """Returns the kernel and the bias of the last layer: the last two weights outside the backbone."""
    kernel, bias = [w for layer in model.layers if layer is not model.backbone for w in layer.weights][-2:]
    return kernel, bias


def before_head(model: Model) -> Model:
    """Returns the model from its inputs to what its last layer reads, with the same backbone and preprocessor."""
    kernel, _ = head(model)
    layers = [layer for layer in model.layers if layer is not model.backbone]
    (last,) = [layer for layer in layers if any(weight is kernel for weight in layer.weights)]
    found = keras.Model(model.input, last.input)
    found.backbone, found.preprocessor = model.backbone, getattr(model, "preprocessor", None)
    return found


def start_at_the_mean(recipe: Any, model: Model, splits: Splits) -> None:
    """Initialises a number head at the mean, so that it learns the differences."""
    if recipe.data.target == "number":
        head(model)[1].assign(splits.train.labels.mean(axis=0))


def vary(model: Model, inputs: Any, deviation: float = 2.0) -> None:
    """Draws the head at random, so that each output's logits have mean 0 and this deviation over a batch."""
    kernel, bias = head(model)
    kernel.assign(keras.random.normal(kernel.shape, seed=0))
    bias.assign(keras.ops.zeros(bias.shape))
    logits = np.asarray(model(inputs, training=False), np.float32)  # [B, K]
    scale = deviation / np.maximum(logits.std(axis=0), 1e-6)
    kernel.assign(kernel * scale)
    bias.assign(-logits.mean(axis=0) * scale)


def learning(target: Callable[[Any], str]) -> Learning[Any]:
    """Returns how label and number heads learn, in any modality; `target` gives a recipe's kind of truth."""

    def targets_of(recipe: Any, model: Model, splits: Splits, name: str, training: bool) -> Targets:
        split, settings = getattr(splits, name), recipe.train
        smoothing, balanced = settings.label_smoothing, settings.class_weights == "balanced"
        more = (smoothing, balanced) if training else ()
        return Targets(*targets(target(recipe), len(splits.labels), split.labels, *more))

    return Learning(
        targets=targets_of,
        loss=lambda recipe: loss(target(recipe)),
        meter=lambda recipe: metric(target(recipe)),
        validated=None,
        starts=False,
        sampled=no_samples,
        samples=no_answers,
    )


def no_samples(recipe: Any, splits: Splits) -> list[list[dict[str, str]]]:
    """Returns no conversations: the model does not generate text."""
    return []


def no_answers(recipe: Any, model: Model, splits: Splits) -> list[str]:
    """Returns no answers: the model does not generate text."""
    return []

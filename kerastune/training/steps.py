"""Training and validation steps of a phase, as compiled functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kerastune import keras_private
from kerastune.tasks.contract import Loss
from kerastune.training.feed import Feed


@dataclass(frozen=True)
class Steps:
    """Functions of a batch's (inputs or features, truth, weights).

    Attributes:
        train: updates the trainable weights and the metrics.
        test: updates the metrics and returns the model's outputs.
    """

    train: Callable[..., None]
    test: Callable[..., Any]


def compiled(
    feed: Feed,
    task: keras.Model,
    loss_function: Loss,
    optimizer: keras.optimizers.Optimizer,
    metrics: Sequence[keras.metrics.Metric],
    xla: bool,
) -> Steps:
    """Returns the steps of a phase for the weights that train now.

    Args:
        metrics: the mean of the loss, and the task's meter.
    """
    mean, meter = metrics
    trained = task.trainable_variables

    def train(x: Any, y: Any, weights: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            outputs = feed.forward(x, True)
            total, count = loss_function(y, outputs, weights)
            loss = total / count + sum(task.losses)
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, trained), trained)
        mean.update_state(loss, sample_weight=count)
        meter.update_state(y, outputs)

    def test(x: Any, y: Any, weights: tf.Tensor) -> Any:
        outputs = feed.forward(x, False)
        total, count = loss_function(y, outputs, weights)
        mean.update_state(total / count, sample_weight=count)
        meter.update_state(y, outputs)
        return outputs

    options = {"input_signature": feed.signature, "jit_compile": xla, "autograph": False}
    return Steps(tf.function(train, **options), tf.function(test, **options))


def without_xla(task: keras.Model) -> list[str]:
    """Returns the layers that XLA cannot compile: those that declare it, and unsupported methods of resizing."""
    return sorted(
        {
            f"{layer.name} ({type(layer).__name__})"
            for layer in keras_private.layers(task)
            if not layer.supports_jit
            or getattr(layer, "interpolation", None) == "bicubic"
            or getattr(layer, "antialias", False)
        }
    )

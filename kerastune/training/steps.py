"""Training and validation steps of a phase, as compiled functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastune import keras_private
from kerastune.tasks.contract import Loss
from kerastune.training.feed import Feed
from kerastune.training.parts import Parts


@dataclass(frozen=True)
class Steps:
    """Functions of a batch's (inputs or features, truth, weights).

    Attributes:
        train: updates the trainable weights and the metrics. With several workers, its arguments are the parts of a
            batch that this process computes, each (inputs or features, truth, weights).
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


def together(
    feed: Feed,
    task: keras.Model,
    loss_function: Loss,
    optimizer: keras.optimizers.Optimizer,
    metrics: Sequence[keras.metrics.Metric],
    xla: bool,
    parts: Parts,
) -> Steps:
    """Returns the steps of several workers, which sum their gradients before the optimizer sees them.

    A step is that of the whole batch: the gradient is of the sum of all parts' losses over the sum of their counts.
    XLA compiles what each worker computes on its own.
    """
    (mean, meter), group = metrics, parts.group
    trained = task.trainable_variables
    unconnected: list[bool] = []  # by variable; found out by tracing

    def backward(x: Any, y: Any, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = feed.forward(x, True)
            total, count = loss_function(y, outputs, weights)
            loss = total + count * sum(task.losses)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, trained)
        unconnected[:] = [gradient is None for gradient in gradients]
        mean.update_state(loss / count, sample_weight=count)
        meter.update_state(y, outputs)
        flat = [tf.cast(tf.reshape(g, [-1]), tf.float32) for g in map(_dense, gradients) if g is not None]
        return tf.concat([*flat, [tf.cast(count, tf.float32)]], 0)

    def apply(summed: tf.Tensor) -> None:
        found, count, at = list[Any](), summed[-1], 0
        for variable, none in zip(trained, unconnected, strict=True):
            size = 0 if none else int(np.prod(variable.shape))
            piece = tf.cast(tf.reshape(summed[at : at + size] / count, variable.shape if size else [0]), variable.dtype)
            found.append(None if none else piece)
            at += size
        optimizer.apply(found, trained)

    options = {"input_signature": feed.signature, "autograph": False}
    backward_step = tf.function(backward, jit_compile=xla, **options)
    backward_step.get_concrete_function()  # a worker whose parts are empty must know what is unconnected as well
    apply_step = tf.function(apply, input_signature=[tf.TensorSpec([None])], autograph=False)
    numbers = 1 + sum(int(np.prod(v.shape)) for v, none in zip(trained, unconnected, strict=True) if not none)

    def train(*batch: Any) -> None:
        vectors = []
        for rank, part in zip(group.parts, batch, strict=True):
            parts.use(rank)
            is_empty = not len(part[-1])
            vectors.append(np.zeros(numbers, np.float32) if is_empty else backward_step(*part))
        parts.use(group.parts[0])
        apply_step(group.told(vectors))

    one_by_one = compiled(feed, task, loss_function, optimizer, metrics, xla)
    return Steps(train, one_by_one.test)


def _dense(gradient: Any) -> Any:
    return gradient if gradient is None else tf.convert_to_tensor(gradient)


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

"""The model of a point: an image model with two numbers as its output, and the squared distance as its loss."""

from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from kerastune.tasks.contract import Learning, Targets
from kerastune.tasks.image_classification import task as images
from kerastune.tasks.image_classification import tracing
from kerastune.tasks.losses import no_answers, no_samples


def targets(recipe, model, splits, name, training):
    truth = getattr(splits, name).labels
    return Targets({"point": truth}, np.ones(len(truth), np.float32))


def loss(truth, outputs, weights):
    squared = tf.reduce_sum((truth["point"] - outputs) ** 2, axis=-1)
    return tf.reduce_sum(squared * weights), tf.cast(tf.size(squared), tf.float32)


def batches(recipe, model, split, order, targets, changes):
    """Mirrors every other image when images are changed at random; its point goes with it."""
    found = images.TASK.feeding.batches(recipe, model, split, order, targets, changes)
    if changes is None:
        return found

    def mirrored(x, truth, weights, i):
        turned = (i + (changes.view or 0)) % 2 == 1
        point = truth["point"] * [-1.0, 1.0] + [31.0, 0.0]
        x = tf.where(turned[:, None, None, None], x[:, :, ::-1], x)
        return x, {"point": tf.where(turned[:, None], point, truth["point"])}, weights, i

    return found.map(mirrored)


class Distance(keras.metrics.Mean):
    def update_state(self, truth, outputs, sample_weight=None):
        super().update_state(tf.norm(truth["point"] - outputs, axis=-1))


def signatures(recipe, model):
    def named(function):
        return lambda x: {"point": tf.identity(function(x)["scores"], name="point")}

    return {name: (named(function), specs) for name, (function, specs) in tracing.signatures("number", model).items()}


TASK = replace(
    images.TASK,
    feeding=replace(images.TASK.feeding, batches=batches),
    learning=Learning(
        targets=targets,
        loss=lambda recipe: loss,
        meter=lambda recipe: Distance(name="distance"),
        validated=None,
        starts=False,
        sampled=no_samples,
        samples=no_answers,
    ),
    predict=lambda recipe, model, split, batch_size, told: {
        "point": images.scores("number", model, split, batch_size, told)
    },
    answer=lambda recipe, model, examples, options: {"point": tracing.reference("number", model, examples)},
    reference=lambda recipe, model, examples: {"point": tracing.reference("number", model, examples)},
    signatures=signatures,
)

"""Recalibrates BatchNorm: sets its moving statistics to those of the training data."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastune.recipe import Phase
from kerastune.records import Recalibration
from kerastune.training.freezing import norms
from kerastune.training.units import select, units


def recalibrate(task: keras.Model, phase: Phase, batches: Iterable[Any]) -> Recalibration:
    """Sets the statistics of the phase's unfrozen BatchNorm layers to those of the training data, under the weights as
    they are now ("precise BN", Wu & Johnson 2021, arXiv:2105.07576). Frozen units keep theirs.

    These layers normalise by each batch while they are measured; all others, dropout included, run as in inference.
    Batches are put together by size, as in the paper's appendix: the variance of the whole is the mean of the
    batches' variances plus the variance of their means. Sums are in float64.

    Args:
        batches: the model's inputs, batch by batch.
    """
    found = [norm for unit in select(phase, units(task.backbone)) for layer in unit.layers for norm in norms(layer)]
    before = [(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in found]
    sums = [(np.zeros(mean.shape), np.zeros(mean.shape)) for mean, _ in before]  # of x and of x², times examples
    examples = n_batches = 0
    modes = [(norm.trainable, norm.momentum) for norm in found]
    forward = tf.function(lambda x: task(x, training=False), reduce_retracing=True)
    try:
        for norm in found:
            norm.trainable, norm.momentum = True, 0.0  # the moving statistics are then the last batch's
            norm.call = _in_training(norm.call)
        for x in batches if found else ():
            size = len(keras.tree.flatten(x)[0])
            forward(x)
            for norm, (mean, square) in zip(found, sums, strict=True):
                batch_mean = norm.moving_mean.numpy().astype(np.float64)
                mean += size * batch_mean
                square += size * (norm.moving_variance.numpy() + batch_mean**2)
            examples, n_batches = examples + size, n_batches + 1
        if examples:
            before = [(m / examples, np.maximum(s / examples - (m / examples) ** 2, 0)) for m, s in sums]
    finally:
        for norm, (mean, variance), (trainable, momentum) in zip(found, before, modes, strict=True):
            del norm.call  # the class's is there again
            norm.trainable, norm.momentum = trainable, momentum
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
    return Recalibration(len(found), n_batches, examples)


def _in_training(call: Any) -> Any:
    return lambda inputs, training=None, mask=None: call(inputs, training=True, mask=mask)

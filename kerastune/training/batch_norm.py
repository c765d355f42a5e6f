"""Recalibrates BatchNorm: recomputes its moving statistics on the training data."""

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
    """Recomputes the statistics of the phase's unfrozen BatchNorm layers on the training data with the current weights
    ("precise BN", Wu & Johnson 2021, arXiv:2105.07576). Frozen units keep theirs.

    During the measurement, these layers normalise by batch; all others, including dropout, run in inference mode.
    Batches are weighted by size, as in the paper's appendix: the total variance is the mean of the batches' variances
    plus the variance of their means. Sums are in float64.

    Args:
        batches: the model's inputs, batch by batch.
    """
    found = [norm for unit in select(phase, units(task.backbone)) for layer in unit.layers for norm in norms(layer)]
    before = [(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in found]
    sums = [(np.zeros(mean.shape), np.zeros(mean.shape)) for mean, _ in before]  # of x and x², weighted
    examples = n_batches = 0
    modes = [(norm.trainable, norm.momentum) for norm in found]
    forward = tf.function(lambda x: task(x, training=False), reduce_retracing=True)
    try:
        for norm in found:
            norm.trainable, norm.momentum = True, 0.0  # so that the moving statistics are the last batch's
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
            del norm.call  # restores the class's own
            norm.trainable, norm.momentum = trainable, momentum
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
    return Recalibration(len(found), n_batches, examples)


def _in_training(call: Any) -> Any:
    return lambda inputs, training=None, mask=None: call(inputs, training=True, mask=mask)

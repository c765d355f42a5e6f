"""Trains a tiny model through one phase, as kerastune does, and says what moved."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tiny import examples

from kerastune.recipe import Phase
from kerastune.training.freezing import freeze, frozen_hashes, prove_frozen
from kerastune.training.optimizers import of_phase


def phase(unfreeze: str, epochs: int = 1, **settings: Any) -> Phase:
    return Phase(unfreeze=unfreeze, epochs=0 if unfreeze == "none" else epochs, **settings)


def fit(task: Any, of: Phase) -> str:
    """One real epoch of a phase, as kerastune trains it; the proof's hash."""
    freeze(task, of)
    task.compile(of_phase(of, task, steps=2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[])
    before = frozen_hashes(task)
    task.fit(examples(), shuffle=False, verbose=0)
    return prove_frozen(before, frozen_hashes(task))


def values(task: Any) -> dict[str, Any]:
    return {weight.path: weight.numpy() for weight in task.weights}


def moved(task: Any, before: dict[str, Any]) -> set[str]:
    """Paths of the weights that are no longer bit-identical."""
    return {path for path, value in values(task).items() if not np.array_equal(value, before[path])}


def uneven() -> list[Any]:
    """Batches of 5 and 3 noise images."""
    images = np.concatenate([x for x, _ in examples()])
    return [tf.constant(images[:5] + 1), tf.constant(3 * images[5:])]

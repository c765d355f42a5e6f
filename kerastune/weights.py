"""Weights of a model under names that fit any build of it, with adapters and without; states that are put back."""

import hashlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kerastune import keras_private

Arrays = dict[str, npt.NDArray[Any]]


def named(model: keras.Model) -> dict[str, keras.Variable]:
    """Every weight under a name of its own: "12:dense/kernel", and "12a:…" and "12b:…" for the adapters A and B of it.

    What is before the colon (`key`) is what counts: paths are not unique, and Keras numbers unnamed layers by what
    else the process has built. The numbers are the same with adapters and without.
    """
    layers = adapted(model)
    adapters = {id(part) for layer in layers for part in parts(layer)[1:]}
    base = [weight for weight in model.weights if id(weight) not in adapters]
    place = {id(weight): i for i, weight in enumerate(base)}
    found = {f"{i}:{weight.path}": weight for i, weight in enumerate(base)}
    for layer in layers:
        weight, a, b = parts(layer)
        i = place[id(weight)]
        found |= {f"{i}a:{weight.path}": a, f"{i}b:{weight.path}": b}
    return found


def key(name: str) -> str:
    """What identifies a weight: "12", or "12a" and "12b" for its adapters."""
    return name.partition(":")[0]


def number(name: str) -> str:
    """What a weight and its adapters share: "12"."""
    return key(name).rstrip("ab")


def adapted(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that have adapters (`training.lora`)."""
    return [layer for layer in keras_private.layers(model) if getattr(layer, "lora_enabled", False)]


def parts(layer: keras.layers.Layer) -> tuple[keras.Variable, keras.Variable, keras.Variable]:
    """An adapted layer's base weight, A and B."""
    if isinstance(layer, keras.layers.Embedding):
        return keras_private.kernel(layer), layer.lora_embeddings_a, layer.lora_embeddings_b
    return keras_private.kernel(layer), layer.lora_kernel_a, layer.lora_kernel_b


def sha256(weight: keras.Variable) -> str:
    return hashlib.sha256(np.ascontiguousarray(weight.numpy()).tobytes()).hexdigest()


# --- states --------------------------------------------------------------------------------------------------


def state(model: keras.Model) -> Arrays:
    """Every weight as it is, adapters apart, under its name."""
    return {name: weight.numpy() for name, weight in named(model).items()}


def restore(model: keras.Model, stored: Mapping[str, npt.NDArray[Any]]) -> None:
    """Puts a state back. Weights that it does not have stay as they are; adapters are set to nothing (B to zero).

    Raises:
        ValueError: the state has weights that the model has not.
    """
    values = {key(name): value for name, value in stored.items()}
    for name, weight in named(model).items():
        i = key(name)
        if i in values:
            weight.assign(values.pop(i))
        elif i.endswith("b"):
            weight.assign(keras.ops.zeros_like(weight))
    if values:
        raise ValueError(f"the state has weights that the model has not: {', '.join(values)}")


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the random generators of Dropout and its like, in the model's order."""
    found = {id(g): g.state for layer in keras_private.layers(model) for g in keras_private.random_generators(layer)}
    return list(found.values())

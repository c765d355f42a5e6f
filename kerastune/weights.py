"""Names the weights of a model so that the names fit any build of it, with or without adapters; restores states."""

import hashlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kerastune import keras_private

Arrays = dict[str, npt.NDArray[Any]]


def named(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every weight by a unique name: "12:dense/kernel", and "12a:…" and "12b:…" for its adapters A and B.

    Only the part before the colon (`key`) identifies a weight: paths are not unique, and Keras numbers unnamed layers
    across the whole process. The numbers are the same with and without adapters.
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
    """Returns the part of a name that identifies a weight: "12", or "12a" and "12b" for its adapters."""
    return name.partition(":")[0]


def number(name: str) -> str:
    """Returns the number that a weight and its adapters share: "12"."""
    return key(name).rstrip("ab")


def adapted(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that have adapters (`training.lora`)."""
    return [layer for layer in keras_private.layers(model) if getattr(layer, "lora_enabled", False)]


def parts(layer: keras.layers.Layer) -> tuple[keras.Variable, keras.Variable, keras.Variable]:
    """Returns an adapted layer's base weight, A and B."""
    if isinstance(layer, keras.layers.Embedding):
        return keras_private.kernel(layer), layer.lora_embeddings_a, layer.lora_embeddings_b
    return keras_private.kernel(layer), layer.lora_kernel_a, layer.lora_kernel_b


def sha256(weight: keras.Variable) -> str:
    return hashlib.sha256(np.ascontiguousarray(weight.numpy()).tobytes()).hexdigest()


# --- states --------------------------------------------------------------------------------------------------


def state(model: keras.Model) -> Arrays:
    """Returns the value of every weight by its name, adapters separate."""
    return {name: weight.numpy() for name, weight in named(model).items()}


def restore(model: keras.Model, stored: Mapping[str, npt.NDArray[Any]]) -> None:
    """Restores a state. Weights that it lacks stay unchanged; adapters that it lacks are disabled (B is zero).

    Raises:
        ValueError: the state has weights that the model lacks.
    """
    values = {key(name): value for name, value in stored.items()}
    for name, weight in named(model).items():
        i = key(name)
        if i in values:
            weight.assign(values.pop(i))
        elif i.endswith("b"):
            weight.assign(keras.ops.zeros_like(weight))
    if values:
        raise ValueError(f"the state has weights that the model lacks: {', '.join(values)}")


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of random generators, such as Dropout's, in the model's order."""
    found = {id(g): g.state for layer in keras_private.layers(model) for g in keras_private.random_generators(layer)}
    return list(found.values())

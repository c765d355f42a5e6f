"""Adds low-rank adapters (Hu et al. 2021, arXiv:2106.09685) to layers, and merges them into the weights."""

import re
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from kerastune import keras_private
from kerastune.errors import RecipeError
from kerastune.recipe import Lora
from kerastune.records import Adapters
from kerastune.weights import adapted, parts


def _adaptable(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    # Backbones also have an `enable_lora`. EfficientNet's blocks may hold convolutions that are never built: no kernel.
    return [layer for layer in layers if hasattr(layer, "lora_enabled") and layer.built]


def adapt(task: keras.Model, layers: Sequence[keras.layers.Layer], lora: Lora) -> Adapters:
    """Adds adapters to the targeted layers among `layers`, and freezes everything else in `layers` except their biases.

    Existing adapters stay unchanged, so this can be called every epoch. A is drawn from Keras's global seed, B is zero.
    Returns a record of the adapters.

    Raises:
        RecipeError: no layer is targeted, or the model has other adapters, which must be merged first.
    """
    order = {id(weight): i for i, weight in enumerate(task.weights)}
    able = sorted(_adaptable(layers), key=lambda layer: order[id(keras_private.kernel(layer))])
    targeted = [layer for layer in able if any(re.search(t, n) for t in lora.targets for n in (layer.name, layer.path))]
    if not targeted:
        raise RecipeError(
            f"lora.targets = {list(lora.targets)} matches no layer of the units that this phase unfreezes. "
            f"Layers that can have adapters: {_summary(able)}.",
            "The expressions are searched for in a layer's name and path; only Dense, EinsumDense, convolution and "
            "embedding layers can have adapters.",
        )
    alpha = lora.alpha or float(lora.rank)
    refuse_others(task, targeted, lora.rank, alpha)
    _enable(targeted, lora.rank, alpha)
    for layer in layers:
        for weight in layer.weights:
            weight.trainable = False  # also the kernels: a layer's `trainable = True` unfreezes them
    parameters = 0
    for layer in targeted:
        for part in parts(layer)[1:]:
            part.trainable = True
            parameters += int(np.prod(part.shape))
        if getattr(layer, "bias", None) is not None:
            layer.bias.trainable = lora.bias
    return Adapters(lora.rank, alpha, lora.bias, tuple(layer.path for layer in targeted), parameters)


def _summary(layers: Sequence[keras.layers.Layer]) -> str:
    """Returns layer names; of those that differ only in numbers, the first and the last."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(re.sub(r"\d+[a-z]?(?=_|$)", "#", layer.name), []).append(layer.name)
    found = [names[0] if names[0] == names[-1] else f"{names[0]} … {names[-1]}" for names in groups.values()]
    return ", ".join(found[:12]) + (f" and {len(found) - 12} more kinds" if len(found) > 12 else "") or "none"


def refuse_others(task: keras.Model, layers: Sequence[keras.layers.Layer], rank: int | None, alpha: float) -> None:
    """Raises RecipeError for adapters that are not on `layers`, or have another rank or alpha."""
    expected = {id(layer) for layer in layers}
    for layer in adapted(task):
        if id(layer) not in expected or (layer.lora_rank, layer.lora_alpha) != (rank, alpha):
            asked = f"rank {rank} and alpha {alpha:g}" if id(layer) in expected else "none"
            raise RecipeError(
                f"{layer.path} has an adapter of rank {layer.lora_rank} and alpha {layer.lora_alpha:g}; "
                f"the phase asks for {asked}.",
                "Merge the adapters first: lora.merge(task).",
            )


def _enable(layers: Sequence[keras.layers.Layer], rank: int, alpha: float) -> None:
    for layer in layers:
        if not layer.lora_enabled:
            layer.enable_lora(rank, lora_alpha=alpha)


def merge(task: keras.Model) -> None:
    """Adds every adapter to its weight and removes it, so that the layer is an ordinary one again.

    In float32, the weight gets the bits that the layer computed with, so predictions stay bit-identical (XLA, which
    fuses the sum, may round it differently). In mixed precision, the layer added rounded numbers; the sum here uses
    unrounded ones, which is closer to training, and predictions change by the rounding.
    """
    for layer in adapted(task):
        weight, a, b = parts(layer)
        if np.any(b.numpy()):  # skips untrained adapters: adding zeros would turn -0 into 0
            weight.assign(keras.ops.add(weight, (layer.lora_alpha / layer.lora_rank) * keras.ops.matmul(a, b)))
        for name in ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b"):
            if hasattr(layer, name):
                keras_private.remove_weight(layer, name)
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
        for own in keras_private.own_parameters(layer):
            own.trainable = layer.trainable

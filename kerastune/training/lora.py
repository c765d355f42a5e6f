"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): put on, merged, and stored with all else that trained.

Keras writes adapters into its files as merged kernels, and KerasHub's save_lora_weights leaves out the trained biases
and the head. So weights are stored here as they are, under names of their own.
"""

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kerastune.errors import AssetError, RecipeError
from kerastune.recipe import Lora

Arrays = dict[str, npt.NDArray[Any]]
_ABOUT = "about"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


# --- weights and their names -------------------------------------------------------------------------------


def weights(task: keras.Model) -> dict[str, keras.Variable]:
    """Every weight under a name of its own: "12:dense/kernel", and "12a:…" and "12b:…" for the adapters A and B of it.

    What is before the colon (`key`) is what counts: paths are not unique, and Keras numbers unnamed layers by what
    else the process has built. The numbers are the same with adapters and without.
    """
    layers = adapted(task)
    adapters = {id(part) for layer in layers for part in _parts(layer)[1:]}
    base = [weight for weight in task.weights if id(weight) not in adapters]
    number = {id(weight): i for i, weight in enumerate(base)}
    named = {f"{i}:{weight.path}": weight for i, weight in enumerate(base)}
    for layer in layers:
        weight, a, b = _parts(layer)
        i = number[id(weight)]
        named |= {f"{i}a:{weight.path}": a, f"{i}b:{weight.path}": b}
    return named


def key(name: str) -> str:
    return name.partition(":")[0]


def hashes(task: keras.Model) -> dict[str, str]:
    """sha256 of every weight but the adapters, under `key(name)`."""
    named = {key(name): weight for name, weight in weights(task).items()}
    return {name: _sha256(weight) for name, weight in named.items() if name.isdigit()}


def _sha256(weight: keras.Variable) -> str:
    return hashlib.sha256(np.ascontiguousarray(weight.numpy()).tobytes()).hexdigest()


def adapted(task: keras.Model) -> list[keras.layers.Layer]:
    """The layers that have adapters."""
    return [layer for layer in task._flatten_layers() if getattr(layer, "lora_enabled", False)]


def _adaptable(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    return [layer for layer in layers if hasattr(layer, "lora_enabled")]  # backbones have an `enable_lora` too


def _parts(layer: keras.layers.Layer) -> tuple[keras.Variable, keras.Variable, keras.Variable]:
    """An adapted layer's base weight, A and B. Its `kernel` is their sum, not the variable."""
    if isinstance(layer, keras.layers.Embedding):
        return _base(layer), layer.lora_embeddings_a, layer.lora_embeddings_b
    return _base(layer), layer.lora_kernel_a, layer.lora_kernel_b


def _base(layer: keras.layers.Layer) -> keras.Variable:
    return layer._embeddings if isinstance(layer, keras.layers.Embedding) else layer._kernel


# --- on and off --------------------------------------------------------------------------------------------


def adapt(task: keras.Model, layers: Sequence[keras.layers.Layer], lora: Lora) -> dict[str, Any]:
    """Puts adapters on the targeted ones of `layers`, and lets nothing else in `layers` train but their biases.

    Adapters that are there already stay as they are, so this may be called every epoch. A is drawn from
    Keras's global seed, B is zero. Returns the audit.

    Raises:
        RecipeError: no layer is targeted, or the model has other adapters, which have to be merged first.
    """
    order = {id(weight): i for i, weight in enumerate(task.weights)}
    able = sorted(_adaptable(layers), key=lambda layer: order[id(_base(layer))])
    targeted = [layer for layer in able if any(re.search(t, n) for t in lora.targets for n in (layer.name, layer.path))]
    if not targeted:
        raise RecipeError(
            f"lora.targets = {list(lora.targets)} matches no layer of the units that this phase unfreezes. "
            f"There can be adapted: {_summary(able)}.",
            "The expressions are tried on a layer's name and path; only Dense, EinsumDense, convolution and embedding "
            "layers can have adapters.",
        )
    alpha = lora.alpha or float(lora.rank)
    refuse_others(task, targeted, lora.rank, alpha)
    _enable(targeted, lora.rank, alpha)
    for layer in layers:
        for weight in layer.weights:
            weight.trainable = False  # the kernels too: a layer's `trainable = True` lets them train again
    parameters = 0
    for layer in targeted:
        for part in _parts(layer)[1:]:
            part.trainable = True
            parameters += int(np.prod(part.shape))
        if getattr(layer, "bias", None) is not None:
            layer.bias.trainable = lora.bias
    return {
        "rank": lora.rank,
        "alpha": alpha,
        "bias": lora.bias,
        "layers": [layer.path for layer in targeted],
        "adapter_parameters": parameters,
    }


def _summary(layers: Sequence[keras.layers.Layer]) -> str:
    """Layer names, those that differ in their numbers as the first and the last of them."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(re.sub(r"\d+[a-z]?(?=_|$)", "#", layer.name), []).append(layer.name)
    found = [names[0] if names[0] == names[-1] else f"{names[0]} … {names[-1]}" for names in groups.values()]
    return ", ".join(found[:12]) + (f" and {len(found) - 12} more kinds" if len(found) > 12 else "") or "none"


def refuse_others(task: keras.Model, layers: Sequence[keras.layers.Layer], rank: int | None, alpha: float) -> None:
    """Refuses a model with adapters that are not on `layers`, or have another rank or alpha."""
    expected = {id(layer) for layer in layers}
    for layer in adapted(task):
        if id(layer) not in expected or (layer.lora_rank, layer.lora_alpha) != (rank, alpha):
            asked = f"rank {rank} and alpha {alpha:g}" if id(layer) in expected else "none"
            raise RecipeError(
                f"{layer.path} has an adapter of rank {layer.lora_rank} and alpha {layer.lora_alpha:g}; "
                f"asked for is {asked}.",
                "Merge the adapters before that: lora.merge(task).",
            )


def _enable(layers: Sequence[keras.layers.Layer], rank: int, alpha: float) -> None:
    for layer in layers:
        if not layer.lora_enabled:
            layer.enable_lora(rank, lora_alpha=alpha)


def merge(task: keras.Model) -> None:
    """Adds every adapter to its weight, and takes it off: the layer is then an ordinary one again.

    In float32 the weight gets the bits that the layer computed with, so predictions stay the same to the bit (XLA,
    which fuses the sum, may round it otherwise). In mixed precision the layer added rounded numbers; the sum here is
    of the unrounded ones, which is closer to what was trained, and predictions move by as much as the rounding.
    """
    for layer in adapted(task):
        weight, a, b = _parts(layer)
        if np.any(b.numpy()):  # an adapter that has not trained: adding zeros would turn -0 into 0
            weight.assign(keras.ops.add(weight, (layer.lora_alpha / layer.lora_rank) * keras.ops.matmul(a, b)))
        for name in ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b"):
            if hasattr(layer, name):
                layer._untrack_variable(getattr(layer, name))
                # Not `delattr`: Keras's collects garbage each time, a quarter of a second each.
                super(keras.layers.Layer, layer).__delattr__(name)
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
        for own in layer._trainable_variables:
            own.trainable = layer.trainable


# --- stored ------------------------------------------------------------------------------------------------


def adapters(task: keras.Model, base: Mapping[str, str] | None = None) -> Arrays:
    """What makes a freshly built task this one: adapters, whatever else trains (biases, the head), and a description.

    Args:
        base: `hashes` of the freshly built task. Weights that differ from it are stored too: those that earlier
            phases trained. Without it, the arrays fit only onto a task that went through those phases.
    """
    named, digests = weights(task), hashes(task)
    changed = {i for i, digest in digests.items() if base is not None and base.get(i) != digest}
    # Named with a letter are the adapters.
    stored = {n: w for n, w in named.items() if w.trainable or key(n) in changed or not key(n).isdigit()}
    layers = adapted(task)
    about = {
        "weights": len(digests),
        "others_sha256": _others(digests, stored),
        "rank": layers[0].lora_rank if layers else None,
        "alpha": layers[0].lora_alpha if layers else None,
    }
    return {_ABOUT: np.array(json.dumps(about)), **{name: weight.numpy() for name, weight in stored.items()}}


def _others(digests: Mapping[str, str], stored: Mapping[str, Any]) -> str:
    """One hash of the weights that are not stored."""
    names = {key(name) for name in stored}
    return hashlib.sha256("".join(d for i, d in digests.items() if i not in names).encode()).hexdigest()


def restore(task: keras.Model, stored: Mapping[str, npt.NDArray[Any]]) -> None:
    """Makes a freshly built task the one that `adapters` saw, to the bit, adapters not merged.

    Raises:
        AssetError: they are another model's; the task is unchanged.
        RecipeError: the task has other adapters.
    """
    about = json.loads(str(stored[_ABOUT]))
    arrays = {key(name): value for name, value in stored.items() if name != _ABOUT}
    named = {key(name): weight for name, weight in weights(task).items()}
    digests = hashes(task)
    if about["weights"] != len(digests):
        raise _another_model(f"they were made for {about['weights']} weights, and the model has {len(digests)}")
    for i, value in arrays.items():
        if i in digests and value.shape != tuple(named[i].shape):
            raise _another_model(f"{named[i].path} has the shape {tuple(named[i].shape)}, not {value.shape}")
    if _others(digests, arrays) != about["others_sha256"]:
        raise _another_model("the weights that did not train are not those that the adapters were trained on")
    of = {id(named[i[:-1]]) for i in arrays if i.endswith("b")}
    layers = [layer for layer in _adaptable(task._flatten_layers()) if id(_base(layer)) in of]
    refuse_others(task, layers, about["rank"], about["alpha"] or 0.0)
    _enable(layers, about["rank"], about["alpha"])
    named = {key(name): weight for name, weight in weights(task).items()}
    for i, value in arrays.items():
        named[i].assign(value)


def _another_model(why: str) -> AssetError:
    return AssetError(f"The adapters are of another model: {why}.", "Use the preset and the labels of their run.")


def save(path: Path, task: keras.Model, base: Mapping[str, str] | None = None) -> None:
    """Writes `adapters` as an .npz without pickles."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **adapters(task, base))


def load(path: Path, task: keras.Model) -> None:
    """Restores what `save` wrote.

    Raises:
        AssetError: the file cannot be read, or is of another model.
        RecipeError: the task has other adapters.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        json.loads(str(stored[_ABOUT]))
    except _DAMAGE as error:
        raise AssetError(f"{path} is no file of adapters: {error or type(error).__name__}.") from error
    restore(task, stored)

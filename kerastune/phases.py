"""Who is trainable when: units, freezing, optimizers, and the proof that what was frozen did not move."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerastune.errors import RecipeError, VerificationError
from kerastune.recipe import Phase

BLOCK = re.compile(
    r"""block_\d+_\d+                                   # MobileNet: block_3_1
      | stack_?\d+_block_?\d+                           # ResNet: stack2_block0
      | (stack|block|stage|hierarchical_encoder
         |transformer(_encoder|_decoder)?(_layer|_block)?|(encoder|decoder)_(block|layer))_?\d+[a-z]?(_\d+)?""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Unit:
    """The smallest part of a backbone that is frozen or unfrozen as one: the stem, a block, the top.

    `names` are what `match:` expressions are tried on: the unit's name and its layers' names and paths.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]
    is_block: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *(n for layer in self.layers for n in (layer.name, layer.path)))

    @property
    def weights(self) -> list[keras.Variable]:
        return [weight for layer in self.layers for weight in layer.weights]


def units(backbone: keras.Model) -> list[Unit]:
    """The backbone's units from input to output; an encoder's before its decoder's.

    KerasHub families nest differently (a flat list of layers, composite blocks, one encoder layer that holds
    all blocks, a whole backbone inside a backbone), but name their blocks after a few patterns.
    """
    grouped: dict[str, list[keras.layers.Layer]] = {}
    blocks: set[str] = set()
    for layer in _members(backbone):
        if not layer.weights:
            continue
        if match := BLOCK.search(layer.name):
            name = match.group()
            blocks.add(name)
        else:
            name = layer.name if blocks else "stem"
        grouped.setdefault(name, []).append(layer)
    found = [Unit(name, tuple(layers), name in blocks) for name, layers in grouped.items()]
    if any("encoder" in unit.name for unit in found):
        found.sort(key=lambda unit: "decoder" in unit.name)  # Keras interleaves the two; stable within each
    return found


def _members(container: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Layers in order, descending where a layer is only a box around blocks."""
    for layer in getattr(container, "layers", None) or container._layers:
        is_model = isinstance(layer, keras.Model)
        own = layer._trainable_variables or layer._non_trainable_variables
        holds_blocks = any(BLOCK.search(inner.name) for inner in layer._layers)
        if is_model or (holds_blocks and not own and not BLOCK.search(layer.name)):
            yield from _members(layer)
        else:
            yield layer


def select(phase: Phase, found: list[Unit]) -> list[Unit]:
    """The backbone units that a phase trains.

    Raises:
        RecipeError: the spec matches no unit, or more blocks than there are.
    """
    kind, _, argument = phase.unfreeze.partition(":")
    if kind in ("head", "none"):
        return []
    if kind == "all":
        return found
    if kind == "top":
        blocks = [i for i, unit in enumerate(found) if unit.is_block]
        if int(argument) > len(blocks):
            raise RecipeError(
                f"unfreeze = {phase.unfreeze!r}: the backbone has {len(blocks)} blocks: "
                f"{_names([found[i] for i in blocks])}.",
                'Use a smaller number, or unfreeze = "all".',
            )
        return found[blocks[-int(argument)] :]  # what comes after the last block trains too
    chosen = [unit for unit in found if any(re.search(argument, name) for name in unit.names)]
    if not chosen:
        raise RecipeError(f"unfreeze = {phase.unfreeze!r} matches no unit. There are: {_names(found)}.")
    return chosen


def _names(found: list[Unit]) -> str:
    return ", ".join(unit.name for unit in found)


def freeze(task: keras.Model, phase: Phase) -> dict[str, Any]:
    """Sets who trains in a phase and returns the audit: units, parameters, BatchNorm mode, learning rate.

    Call `task.compile` afterwards: Keras goes on training what an older compile saw.
    """
    found = units(task.backbone)
    chosen = select(phase, found)
    task.trainable = True
    for unit in found:
        for layer in unit.layers:
            layer.trainable = unit in chosen
    for layer in _heads(task):
        layer.trainable = phase.unfreeze != "none"
    norms = [n for n in task.backbone._flatten_layers() if isinstance(n, keras.layers.BatchNormalization)]
    if phase.batch_norm == "frozen":
        # Small batches would wreck the pretrained statistics.
        for norm in norms:
            norm.trainable = False
    training_norms = [norm for norm in norms if norm.trainable]
    trainable = {id(weight) for weight in task.trainable_weights}
    return {
        "unfreeze": phase.unfreeze,
        "epochs": phase.epochs,
        "learning_rate": phase.learning_rate,
        "optimizer": phase.optimizer,
        "schedule": phase.schedule,
        "units": [
            {
                "name": unit.name,
                "parameters": _count(unit.weights),
                "trainable_parameters": _count([w for w in unit.weights if id(w) in trainable]),
            }
            for unit in [*found, Unit("head", tuple(_heads(task)), False)]
        ],
        "trainable_parameters": _count(task.trainable_weights),
        "frozen_parameters": _count(task.non_trainable_weights),
        "batch_norm": {"inference": len(norms) - len(training_norms), "training": len(training_norms)},
    }


def _heads(task: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in task.layers if layer is not task.backbone]


def _count(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


# --- the proof ---------------------------------------------------------------------------------------------


def frozen_hashes(task: keras.Model) -> dict[str, str]:
    """sha256 of every weight that this phase must not move, statistics of frozen BatchNorm layers included."""
    moving = {
        id(statistic)
        for layer in task._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for statistic in (layer.moving_mean, layer.moving_variance)
    }
    frozen = [weight for weight in task.non_trainable_weights if id(weight) not in moving]
    return {
        f"{i}:{weight.path}": hashlib.sha256(np.ascontiguousarray(weight.numpy()).tobytes()).hexdigest()
        for i, weight in enumerate(frozen)
    }


def prove_frozen(before: dict[str, str], after: dict[str, str]) -> str:
    """One hash over all frozen weights, equal before and after a phase.

    Raises:
        VerificationError: with the names of the weights that moved.
    """
    moved = [name.partition(":")[2] for name in before if after.get(name) != before[name]]
    if moved or before.keys() != after.keys():
        raise VerificationError(
            f"{len(moved)} frozen weights moved during the phase: {', '.join(moved[:5])}",
            "This is a bug in kerastune or Keras; the run was not saved. Please report it with the recipe.",
        )
    return hashlib.sha256("".join(before.values()).encode()).hexdigest()


# --- the optimizer -----------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("kerastune")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A linear climb from zero over `warmup_steps`, then constant, or falling to zero at `steps`.

    The cosine is that of Loshchilov & Hutter 2017 (SGDR, arXiv:1608.03983) without restarts.
    """

    def __init__(self, kind: str, peak: float, steps: int, warmup_steps: int) -> None:
        super().__init__()
        self.kind, self.peak, self.steps, self.warmup_steps = kind, peak, steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        climbing = (step + 1) / max(self.warmup_steps, 1)
        past = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        past = keras.ops.clip(past, 0.0, 1.0)
        falling = {
            "constant": keras.ops.ones_like(past),
            "linear": 1 - past,
            "cosine": 0.5 * (1 + keras.ops.cos(math.pi * past)),
        }[self.kind]
        return self.peak * keras.ops.where(step < self.warmup_steps, climbing, falling)

    def get_config(self) -> dict[str, Any]:
        return {"kind": self.kind, "peak": self.peak, "steps": self.steps, "warmup_steps": self.warmup_steps}


def optimizer(phase: Phase, task: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """The phase's optimizer over `steps` steps, with weight decay kept off biases and normalisation weights."""
    rate = Schedule(phase.schedule, phase.learning_rate, steps, round(phase.warmup * steps))
    kind = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "lion": keras.optimizers.Lion,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }[phase.optimizer]
    momentum = {"momentum": 0.9, "nesterov": True} if phase.optimizer == "sgd" else {}
    made = kind(learning_rate=rate, weight_decay=phase.weight_decay, **momentum)
    made.exclude_from_weight_decay(var_list=[w for w in task.trainable_variables if "kernel" not in w.name])
    return made

"""Who is trainable when, and how fast: units, stages, freezing, and the proof that what was frozen did not move."""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.errors import RecipeError, VerificationError
from kerastune.recipe import Phase
from kerastune.training import lora, optimizers
from kerastune.training.optimizers import averaged as averaged

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

    def matches(self, expression: str) -> bool:
        return any(re.search(expression, name) for name in self.names)


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


def levels(found: list[Unit]) -> list[list[Unit]]:
    """Units by depth, from the top: the last block and what comes after it, each lower block, the stem."""
    starts = sorted({0, *(i for i, unit in enumerate(found) if unit.is_block)})
    return [found[a:b] for a, b in zip(starts, [*starts[1:], len(found)], strict=True)][::-1]


def _top(found: list[Unit], depth: int) -> list[Unit]:
    return [unit for level in reversed(levels(found)[:depth]) for unit in level]


def select(phase: Phase, found: list[Unit]) -> list[Unit]:
    """The backbone units that a phase trains; a gradual one in its last epoch.

    Raises:
        RecipeError: the spec matches no unit, or more blocks than there are.
    """
    kind, _, argument = phase.unfreeze.partition(":")
    if kind in ("head", "none"):
        return []
    if kind == "all":
        return found
    if kind == "gradual":
        return _top(found, phase.epochs - 1)
    if kind == "top":
        blocks = [unit for unit in found if unit.is_block]
        if int(argument) > len(blocks):
            raise RecipeError(
                f"unfreeze = {phase.unfreeze!r}: the backbone has {len(blocks)} blocks: {_names(blocks)}.",
                'Use a smaller number, or unfreeze = "all".',
            )
        return _top(found, int(argument))  # what comes after the last block trains too
    chosen = [unit for unit in found if unit.matches(argument)]
    if not chosen:
        raise RecipeError(f"unfreeze = {phase.unfreeze!r} matches no unit. There are: {_names(found)}.")
    return chosen


def _names(found: list[Unit]) -> str:
    return ", ".join(unit.name for unit in found)


@dataclass(frozen=True)
class Stage:
    """The backbone units that train from an epoch on, counted from 1."""

    epoch: int
    units: list[Unit]


def stages(phase: Phase, task: keras.Model) -> list[Stage]:
    """When each unit starts to train: at once, or in a gradual phase one level of units an epoch, the head before them.

    Gradual unfreezing is that of Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146).
    """
    found = units(task.backbone)
    if phase.unfreeze != "gradual":
        return [Stage(1, select(phase, found))]
    return [Stage(depth + 1, _top(found, depth)) for depth in range(min(phase.epochs, len(levels(found)) + 1))]


def rates(phase: Phase, found: list[Unit]) -> dict[str, float]:
    """The peak learning rate of each backbone unit. The head's is the phase's.

    `layer_decay` follows Howard & Ruder 2018 (arXiv:1801.06146): each level learns at that share of the one above it.

    Raises:
        RecipeError: an expression of `learning_rates` changes no unit's rate.
    """
    chosen = select(phase, found)
    own: dict[str, float] = {}
    for expression, rate in phase.learning_rates.items():
        matches = [unit for unit in found if unit.matches(expression)]
        trained = [unit for unit in matches if unit in chosen]
        if all(unit.name in own for unit in trained):
            why = "only units that an expression before it has" if trained else f"only frozen units: {_names(matches)}"
            raise RecipeError(
                f"learning_rates: {expression!r} matches {why if matches else 'no unit'}. "
                f"The phase trains: {_names(chosen) or 'no unit of the backbone'}.",
                "The head has the phase's learning_rate.",
            )
        own |= {unit.name: rate for unit in trained if unit.name not in own}
    return {
        unit.name: own.get(unit.name, phase.learning_rate * phase.layer_decay**depth)
        for depth, level in enumerate(levels(found), start=1)
        for unit in level
    }


def freeze(task: keras.Model, phase: Phase, epoch: int | None = None) -> dict[str, Any]:
    """Sets who trains in an epoch of a phase (from 1; default: the last), and returns the audit.

    What trains in the last epoch is what the optimizer has to know. A training step that was traced before goes on
    training what it saw. Dropout and its like in front of all that trains run in inference mode (`cutting`).

    Raises:
        RecipeError: the phase asks for units or layers that are not there.
    """
    found = units(task.backbone)
    planned = stages(phase, task)
    peak = rates(phase, found) | {"head": phase.learning_rate}
    adapters = _unfreeze(task, phase, found, planned[-1])
    head = Unit("head", tuple(_heads(task)), False)
    rows = [
        {
            "epoch": stage.epoch,
            "units": [unit.name for unit in [*stage.units, head] if _trains(unit)],
            "trainable_parameters": sum(_trains(unit) for unit in [*stage.units, head]),
        }
        for stage in planned
    ]
    now = [stage for stage in planned if epoch is None or stage.epoch <= epoch][-1]
    if now is not planned[-1]:
        _unfreeze(task, phase, found, now)
    norms = _norms(task.backbone)
    training_norms = [norm for norm in norms if norm.trainable]
    settings = {
        "gradient_accumulation": phase.gradient_accumulation if phase.gradient_accumulation > 1 else None,
        "clip_norm": phase.clip_norm,
        "ema": phase.ema or None,
        "lora": adapters,
        "stages": rows if phase.unfreeze == "gradual" else None,
    }
    return {
        "unfreeze": phase.unfreeze,
        "epochs": phase.epochs,
        "learning_rate": phase.learning_rate,
        "optimizer": phase.optimizer,
        "schedule": phase.schedule,
        **{name: value for name, value in settings.items() if value is not None},
        "units": [
            {
                "name": unit.name,
                "parameters": _count(unit.weights),
                "trainable_parameters": _trains(unit),
                "learning_rate": peak[unit.name] if _trains(unit) else None,
            }
            for unit in [*found, head]
        ],
        "trainable_parameters": _count(task.trainable_weights),
        "frozen_parameters": _count(task.non_trainable_weights),
        "batch_norm": {"inference": len(norms) - len(training_norms), "training": len(training_norms)},
    }


def _unfreeze(task: keras.Model, phase: Phase, found: list[Unit], stage: Stage) -> dict[str, Any] | None:
    """Lets the head and a stage's units train, and nothing else. Returns what the adapters are, if there are any."""
    for layer in task._flatten_layers():
        # Down and up, each one: Keras tells neither weights nor inner layers what a layer's flag says already.
        layer.trainable = False
        layer.trainable = True
    for unit in found:
        for layer in unit.layers:
            layer.trainable = unit in stage.units
    for layer in _heads(task):
        layer.trainable = phase.unfreeze != "none"
    if phase.batch_norm != "train":
        # Small batches would wreck the pretrained statistics.
        for norm in _norms(task.backbone):
            norm.trainable = False
    unused = _unused(task)
    for layer in unused:
        layer.trainable = False  # no gradient would reach it
    if phase.lora is None:
        lora.refuse_others(task, [], None, 0)
        return None
    used = [layer for unit in stage.units for layer in unit.layers if layer not in unused]
    layers = [inner for layer in used for inner in layer._flatten_layers()]
    return lora.adapt(task, layers, phase.lora)


def _unused(task: keras.Model) -> list[keras.layers.Layer]:
    """The backbone's layers that the model's outputs do not depend on: BERT's pooler where an embedder pools itself."""
    backbone = task.backbone
    reached, outputs = _behind(task.outputs, backbone)
    inside, _ = _behind([backbone.outputs[i] for i in outputs], None)
    layers = [layer for layer in backbone.layers if layer.weights]
    unused = [layer for layer in layers if layer not in reached | inside]
    return unused if len(unused) < len(layers) else []  # a model that does not tell how it calls its backbone


def _behind(symbols: Iterable[Any], stop: keras.Model | None) -> tuple[set[Any], set[int]]:
    """The operations that symbols were made by, and the outputs of `stop`, where the way back ends, among them."""
    waiting, operations, seen, outputs = list(symbols), set(), set(), set()
    while waiting:
        made_by = waiting.pop()._keras_history
        if made_by.operation is stop:
            outputs.add(made_by.tensor_index)
        elif (call := (made_by.operation, made_by.node_index)) not in seen:
            seen.add(call)
            operations.add(made_by.operation)
            waiting += made_by.operation._inbound_nodes[made_by.node_index].input_tensors
    return operations, outputs


def _norms(layer: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    return [inner for inner in layer._flatten_layers() if isinstance(inner, keras.layers.BatchNormalization)]


def _trains(unit: Unit) -> int:
    return _count([weight for weight in unit.weights if weight.trainable])


def _heads(task: keras.Model) -> list[keras.layers.Layer]:
    # A language model calls its backbone's token embedding once more, in reverse: that is no head.
    inside = {id(layer) for layer in task.backbone._flatten_layers()}
    return [layer for layer in task.layers if id(layer) not in inside]


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


def optimizer(phase: Phase, task: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """The phase's optimizer over `steps` batches, built on what trains now: `freeze` for the whole phase before."""
    found = units(task.backbone)
    peak = rates(phase, found)
    by_weight = {id(weight): peak[unit.name] for unit in found for weight in unit.weights}
    return optimizers.make(phase, task.trainable_variables, by_weight, steps, task.backbone.dtype_policy.name)


# --- BatchNorm ---------------------------------------------------------------------------------------------


def recalibrate(task: keras.Model, phase: Phase, batches: Iterable[Any]) -> dict[str, Any]:
    """Sets the statistics of the phase's unfrozen BatchNorm layers to those of the training data, under the weights as
    they are now ("precise BN", Wu & Johnson 2021, arXiv:2105.07576). Frozen units keep theirs.

    These layers normalise by each batch while they are measured; all others, dropout included, run as in inference.
    Batches are put together by size, as in the paper's appendix: the variance of the whole is the mean of the
    batches' variances plus the variance of their means. Sums are in float64.

    Args:
        batches: the model's inputs, batch by batch.
    """
    norms = [norm for unit in select(phase, units(task.backbone)) for layer in unit.layers for norm in _norms(layer)]
    before = [(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in norms]
    found = [(np.zeros(mean.shape), np.zeros(mean.shape)) for mean, _ in before]  # of x and of x², times examples
    examples = n_batches = 0
    modes = [(norm.trainable, norm.momentum) for norm in norms]
    forward = tf.function(lambda x: task(x, training=False), reduce_retracing=True)
    try:
        for norm in norms:
            norm.trainable, norm.momentum = True, 0.0  # the moving statistics are then the last batch's
            norm.call = _in_training(norm.call)
        for x in batches if norms else ():
            size = len(keras.tree.flatten(x)[0])
            forward(x)
            for norm, (mean, square) in zip(norms, found, strict=True):
                batch_mean = norm.moving_mean.numpy().astype(np.float64)
                mean += size * batch_mean
                square += size * (norm.moving_variance.numpy() + batch_mean**2)
            examples, n_batches = examples + size, n_batches + 1
        if examples:
            before = [(m / examples, np.maximum(s / examples - (m / examples) ** 2, 0)) for m, s in found]
    finally:
        for norm, (mean, variance), (trainable, momentum) in zip(norms, before, modes, strict=True):
            del norm.call  # the class's is there again
            norm.trainable, norm.momentum = trainable, momentum
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
    return {"layers": len(norms), "batches": n_batches, "examples": examples}


def _in_training(call: Any) -> Any:
    return lambda inputs, training=None, mask=None: call(inputs, training=True, mask=mask)


# --- state -------------------------------------------------------------------------------------------------


def state(task: keras.Model) -> dict[str, npt.NDArray[Any]]:
    """Every weight as it is, adapters apart, under names that fit any build of the model (`lora.weights`)."""
    return {name: weight.numpy() for name, weight in lora.weights(task).items()}


def restore(task: keras.Model, stored: Mapping[str, npt.NDArray[Any]]) -> None:
    """Puts a state back. Weights that it does not have stay as they are; adapters are set to nothing (B to zero)."""
    values = {lora.key(name): value for name, value in stored.items()}
    for name, weight in lora.weights(task).items():
        i = lora.key(name)
        if i in values:
            weight.assign(values.pop(i))
        elif i.endswith("b"):
            weight.assign(keras.ops.zeros_like(weight))
    if values:
        raise ValueError(f"the state has weights that the model has not: {', '.join(values)}")


def seed_states(task: keras.Model) -> list[keras.Variable]:
    """The states of the random generators of Dropout and its like, in the model's order."""
    found = {id(g): g.state for layer in task._flatten_layers() for g in layer._seed_generators}
    return list(found.values())

"""Freezes what a phase does not train, reports what trains, and proves that nothing else has changed."""

import hashlib
from collections.abc import Iterable
from typing import Any

import keras

from kerastune import keras_private, weights
from kerastune.errors import VerificationError
from kerastune.recipe import Phase
from kerastune.records import Adapters, Audit, Norms, Trained
from kerastune.records import Stage as StageRecord
from kerastune.training import lora
from kerastune.training.units import Stage, Unit, count, head, rates, stages, units


def freeze(task: keras.Model, phase: Phase, epoch: int | None = None) -> Audit:
    """Sets which weights train in an epoch of a phase, and returns the audit.

    The optimizer needs the weights that train in the last epoch. A training step that was traced before keeps training
    the same weights. Random layers in the frozen prefix run in inference mode (`prefix.cutting`).

    Args:
        epoch: from 1; default: the phase's last.

    Raises:
        RecipeError: the phase names units or layers that do not exist.
    """
    found = units(task.backbone)
    planned = stages(phase, task)
    peak = rates(phase, found) | {"head": phase.learning_rate}
    adapters = _unfreeze(task, phase, found, planned[-1])
    top = head(task)
    rows = [
        StageRecord(
            stage.epoch,
            tuple(unit.name for unit in [*stage.units, top] if unit.trainable_parameters),
            sum(unit.trainable_parameters for unit in [*stage.units, top]),
        )
        for stage in planned
    ]
    now = [stage for stage in planned if epoch is None or stage.epoch <= epoch][-1]
    if now is not planned[-1]:
        _unfreeze(task, phase, found, now)
    in_backbone = norms(task.backbone)
    training_norms = [norm for norm in in_backbone if norm.trainable]
    trained = [(unit, unit.trainable_parameters) for unit in [*found, top]]
    return Audit(
        unfreeze=phase.unfreeze,
        epochs=phase.epochs,
        learning_rate=phase.learning_rate,
        optimizer=phase.optimizer,
        schedule=phase.schedule,
        gradient_accumulation=phase.gradient_accumulation,
        clip_norm=phase.clip_norm,
        ema=phase.ema or None,
        contrastive=phase.contrastive,
        lora=adapters,
        stages=tuple(rows) if phase.unfreeze == "gradual" else (),
        units=tuple(Trained(u.name, count(u.weights), n, peak[u.name] if n else None) for u, n in trained),
        trainable_parameters=count(task.trainable_weights),
        frozen_parameters=count(task.non_trainable_weights),
        batch_norm=Norms(len(in_backbone) - len(training_norms), len(training_norms)),
    )


def _unfreeze(task: keras.Model, phase: Phase, found: list[Unit], stage: Stage) -> Adapters | None:
    """Unfreezes only the head and a stage's units. Returns a record of the adapters, if any."""
    for layer in keras_private.layers(task):
        # Each one off and on: Keras does not propagate a flag that a layer already has to its weights and inner layers.
        layer.trainable = False
        layer.trainable = True
    for unit in found:
        unit.train(unit in stage.units)
    head(task).train(phase.unfreeze != "none" and not phase.contrastive)
    if phase.batch_norm != "train":
        # Small batches would ruin the pretrained statistics.
        for norm in norms(task.backbone):
            norm.trainable = False
    unused = _unused(task)
    for layer in unused:
        layer.trainable = False  # no gradient would reach it
    if phase.lora is None:
        lora.refuse_others(task, [], None, 0)
        return None
    used = [layer for unit in stage.units for layer in unit.layers if layer not in unused]
    layers = [inner for layer in used for inner in keras_private.layers(layer)]
    return lora.adapt(task, layers, phase.lora)


def _unused(task: keras.Model) -> list[keras.layers.Layer]:
    """Returns the backbone's layers that do not affect the outputs, such as BERT's pooler in an embedder."""
    backbone = task.backbone
    if not (keras_private.is_functional(task) and keras_private.is_functional(backbone)):
        return []
    reached, outputs = _behind(task.outputs, backbone)
    inside, _ = _behind([backbone.outputs[i] for i in outputs], None)
    layers = [layer for layer in backbone.layers if layer.weights]
    unused = [layer for layer in layers if layer not in reached | inside]
    return unused if len(unused) < len(layers) else []  # a model that hides how it calls its backbone


def _behind(symbols: Iterable[Any], stop: keras.Model | None) -> tuple[set[Any], set[int]]:
    """Returns the operations that lead to symbols, and the outputs of `stop`, where the search ends, among them."""
    waiting, operations, seen, outputs = list(symbols), set(), set(), set()
    while waiting:
        operation, call, i = keras_private.made_by(waiting.pop())
        if operation is stop:
            outputs.add(i)
            continue
        if _holds(operation, stop):
            waiting.append(operation.outputs[i])
        if call not in seen:
            seen.add(call)
            operations.add(operation)
            waiting += call.input_tensors
    return operations, outputs


def _holds(operation: Any, model: keras.Model | None) -> bool:
    """Returns whether an operation is a graph that contains a model."""
    if model is None or not keras_private.is_functional(operation):
        return False
    return any(each is model for each in keras_private.layers(operation))


def norms(layer: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNorm layers in a layer."""
    return [each for each in keras_private.layers(layer) if isinstance(each, keras.layers.BatchNormalization)]


# --- the proof ---------------------------------------------------------------------------------------------


def frozen_hashes(task: keras.Model) -> dict[str, str]:
    """Returns a sha256 of every weight that this phase must not change, including frozen BatchNorm statistics."""
    moving = {
        id(statistic)
        for norm in norms(task)
        if norm.trainable
        for statistic in (norm.moving_mean, norm.moving_variance)
    }
    frozen = [weight for weight in task.non_trainable_weights if id(weight) not in moving]
    return {f"{i}:{weight.path}": weights.sha256(weight) for i, weight in enumerate(frozen)}


def prove_frozen(before: dict[str, str], after: dict[str, str]) -> str:
    """Returns one hash over all frozen weights, which must be equal before and after a phase.

    Raises:
        VerificationError: some weights changed; names them.
    """
    moved = [name.partition(":")[2] for name in before if after.get(name) != before[name]]
    if moved or before.keys() != after.keys():
        raise VerificationError(
            f"{len(moved)} frozen weights changed during the phase: {', '.join(moved[:5])}",
            "This is a bug in kerastune or Keras; the run was not saved. Please report it with the recipe.",
        )
    return hashlib.sha256("".join(before.values()).encode()).hexdigest()

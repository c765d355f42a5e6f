"""Plans a training before its first step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from kerastune import assets, data, environment, keras_private, tasks, weights
from kerastune.data import Splits
from kerastune.data.source import counted
from kerastune.errors import RecipeError
from kerastune.progress import Progress
from kerastune.recipe import Phase, Recipe
from kerastune.records import Audit, Decision
from kerastune.tasks.wanted import refusals
from kerastune.training import calibrating, decide, expressions, freezing, lora, precision
from kerastune.training.batches import Batches
from kerastune.training.steps import without_xla


@dataclass(frozen=True)
class Plan:
    """A training before its first step: the data, the model, and what trains in each phase."""

    batches: Batches
    audits: tuple[Audit, ...]
    decisions: tuple[Decision, ...]
    moving: frozenset[str]  # keys (`weights.number`) of the weights that some phase may move
    memory_mb: int
    """What the model takes at most: its weights, and in its largest phase the gradients, two slots of the optimizer,
    and every tensor of a batch that the backward pass may need."""
    gpu_mb: int | None
    """The memory of the smallest GPU, which must hold that; None without one."""

    @property
    def recipe(self) -> Recipe:
        return self.batches.recipe

    @property
    def task(self) -> Any:
        return self.batches.task

    @property
    def splits(self) -> Splits:
        return self.batches.splits

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Examples by label in each split."""
        return {name: part.truth.counts(self.splits.labels, part.labels) for name, part in self.splits.parts.items()}


def plan(recipe: Recipe, progress: Progress | None = None, decided: Sequence[Decision] = ()) -> Plan:
    """Reads and checks all the data, builds the model, and applies every phase's freezing once.

    Args:
        decided: what a training that is resumed or repeated has decided, and is not decided again.

    Raises:
        DataError, AssetError, RecipeError: with what to mend.
    """
    progress = progress or Progress()
    environment.prepare_gpus()
    preset = assets.resolve_preset(recipe.preset)  # first: it is the cheapest to get wrong
    splits = data.load(recipe.data, progress.advance)
    calibrating.refuse_unknown(recipe, splits)
    progress.say(f"Loading {recipe.preset}")
    kind = tasks.get(recipe.task)

    def build(policy: str) -> Any:
        keras.utils.set_random_seed(recipe.seed)
        with progress.working(f"loading {recipe.preset}"), assets.reading(preset):
            return kind.building.build(recipe, preset, splits, policy)

    def known(key: str, phase: int | None = None) -> Decision | None:
        return next((one for one in decided if (one.key, one.phase) == (key, phase)), None)

    precise = known("train.precision")
    decisions = [precise] if precise else []
    if recipe.train.precision != "auto":
        task = build(recipe.train.precision)
    elif precise:
        task = build(str(precise.got))
    elif kind.learning.fit:
        task = build("float32")  # distances multiply errors of rounding
    else:
        trains_more = any(phase.unfreeze != "head" for phase in recipe.phases)
        task, decision = precision.build_fastest(
            build,
            kind.building.largest_product if trains_more else None,
            lambda task: Batches(recipe, task, splits).one,
        )
        decisions = [decision]
    with progress.working("measuring what the recipe leaves open"):
        recipe, task, settled = kind.building.settled(recipe, task, splits)
    decisions += settled
    kind.building.prepare(recipe, task, splits)
    if recipe.train.xla is True and (bad := without_xla(task)):
        raise RecipeError(f"train.xla = true, but these layers have no XLA: {', '.join(bad)}.", 'Use xla = "auto".')
    if refused := refusals(recipe, recipe.exports, type(task.backbone).__name__):
        raise RecipeError("\n".join(refused) + ".", "Choose another quantize or target in [[exports]].")
    expressions.refuse_endless(recipe.phases, task)
    batches = Batches(recipe, task, splits)
    memory = _memory(batches)
    gpu_mb = _gpu_mb()
    _refuse_too_large(batches, memory.least, gpu_mb)
    audits, moving, most = list[Audit](), frozenset[str](), 0
    for number, phase in enumerate(recipe.phases, start=1):
        audit = batches.counted(freezing.freeze(task, phase))
        audits.append(_of_statistics(audit) if kind.learning.fit else audit)
        moves = _moving(task, phase)
        most, moving = max(most, memory.most(audit.trainable_parameters, moves)), moving | moves
        decisions.append(known("train.cache", number) or decide.cache(batches.of_phase(phase), number))
        lora.merge(task)
    if not kind.learning.fit:
        caches = [one for one in decisions if one.key == "train.cache"]
        inputs = known("train.inputs") or decide.inputs(batches, caches)
        decisions += [inputs] if inputs else []
    numbers = range(1, len(recipe.phases) + 1)
    decisions += [one for one in decided if one.key != "train.cache" and one.phase in numbers]
    return Plan(batches, tuple(audits), tuple(decisions), moving, round(most / 1e6), gpu_mb)


def _gpu_mb() -> int | None:
    """Returns the memory of the smallest GPU that TensorFlow uses; None if there is none, or it cannot be told."""
    found = environment.gpu_memory() if tf.config.list_physical_devices("GPU") else []
    return round(min(found) / 1e6) if found else None


def _of_statistics(audit: Audit) -> Audit:
    """Returns the audit of a pass without gradients: nothing has a learning rate."""
    units = tuple(replace(unit, learning_rate=unit.learning_rate and 0.0) for unit in audit.units)
    return replace(audit, learning_rate=0.0, optimizer="statistics", schedule="no", units=units)


def _moving(task: Any, phase: Phase) -> frozenset[str]:
    """Returns the numbers of all weights in layers that train: merging moves an adapted layer's kernel as well."""
    numbers = {id(weight): weights.number(name) for name, weight in weights.named(task).items()}

    def moves(layer: Any, own: list[Any]) -> bool:
        statistics = isinstance(layer, keras.layers.BatchNormalization) and phase.batch_norm == "recalibrate"
        return statistics or any(weight.trainable for weight in own)

    owned = [(layer, keras_private.own_weights(layer)) for layer in keras_private.layers(task)]
    return frozenset(numbers[id(weight)] for layer, own in owned if moves(layer, own) for weight in own)


@dataclass(frozen=True)
class _Memory:
    """What a training needs besides the libraries' 1 GB, in bytes.

    Attributes:
        weights: of all weights, in float32.
        reads: the placeholder of each weight, by its number, in the graph of a forward pass of a batch.
        largest: of the batch, or of the inputs and outputs of the largest operation.
    """

    weights: int
    reads: dict[str, Any]
    largest: int

    @property
    def least(self) -> int:
        return self.weights + self.largest

    def most(self, trained: int, moving: frozenset[str]) -> int:
        """Returns an upper bound where that many parameters have a gradient and two slots of the optimizer.

        What is computed in front of the first layer that moves is freed at once.
        """
        kept, left = set[str](), [self.reads[number] for number in moving if number in self.reads]
        held = 0
        while left:
            for op in left.pop().consumers():
                if op.name not in kept:
                    kept.add(op.name)
                    held += _bytes(op.outputs) if _computes(op) else 0
                    left += op.outputs
        return self.weights + 3 * 4 * trained + max(held, self.largest)


def _memory(batches: Batches) -> _Memory:
    task, example = batches.task, batches.one
    rows = _rows(batches) * len(keras.tree.flatten(example)[0])  # an example with sides has several rows
    specs = keras.tree.map_structure(lambda x: tf.TensorSpec([rows, *x.shape[1:]], x.dtype), example)
    graph = tf.function(lambda x: task(x, training=False)).get_concrete_function(specs).graph
    operations = graph.get_operations()
    inputs = sum(_bytes(op.outputs) for op in operations if op.type == "Placeholder")
    largest = max((_bytes([*op.inputs, *op.outputs]) for op in operations if _computes(op)), default=0)
    placeholders = {id(handle): placeholder for handle, placeholder in graph.captures}
    handles = {weights.number(name): id(weight.value.handle) for name, weight in weights.named(task).items()}
    reads = {number: placeholders[handle] for number, handle in handles.items() if handle in placeholders}
    parameters: int = sum(math.prod(weight.shape) for weight in task.weights)
    return _Memory(4 * parameters, reads, max(inputs, largest))


def _computes(operation: Any) -> bool:
    return operation.type not in ("Const", "ReadVariableOp", "Identity", "Placeholder")


def _rows(batches: Batches) -> int:
    """Returns the number of examples in the largest batch."""
    splits = batches.splits
    return min(batches.order("train").batch_size, max(len(splits.train), len(splits.validation), len(splits.test)))


def _bytes(tensors: Sequence[Any]) -> int:
    return sum(
        one.dtype.size * (one.shape.num_elements() or 0)
        for one in tensors
        if one.dtype.is_floating and one.shape.is_fully_defined()
    )


def _refuse_too_large(batches: Batches, least: int, gpu_mb: int | None) -> None:
    """Raises RecipeError for a training that this machine's memory cannot hold, or its GPU's, before a batch of it."""
    total, what = (gpu_mb * 10**6, "GPU") if gpu_mb else (environment.memory_total(), "machine")
    if least > total and (gpu_mb or not tf.config.list_physical_devices("GPU")):
        unit = batches.splits.train.modality
        count = counted(_rows(batches), unit.name, unit.plural)
        raise RecipeError(
            f"A batch of {count} needs at least {least / 1e9:,.1f} GB, and this {what} has {total / 1e9:,.1f} GB.",
            f"Lower train.batch_size = {batches.recipe.train.batch_size}, or use smaller examples or a smaller preset.",
        )

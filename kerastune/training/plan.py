"""Plans a training before its first step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from kerastune import assets, data, keras_private, tasks, weights
from kerastune.data import Splits
from kerastune.errors import RecipeError
from kerastune.progress import Progress
from kerastune.recipe import Phase, Recipe
from kerastune.records import Audit, Decision
from kerastune.tasks.wanted import refusals
from kerastune.training import decide, freezing, lora, precision
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
        parts = {name: getattr(self.splits, name) for name in ("train", "validation", "test")}
        return {name: part.truth.counts(self.splits.labels, part.labels) for name, part in parts.items()}


def plan(recipe: Recipe, progress: Progress | None = None, decided: Sequence[Decision] = ()) -> Plan:
    """Reads and checks all the data, builds the model, and applies every phase's freezing once.

    Args:
        decided: what a training that is resumed or repeated has decided, and is not decided again.

    Raises:
        DataError, AssetError, RecipeError: with what to mend.
    """
    progress = progress or Progress()
    preset = assets.resolve_preset(recipe.preset)  # first: it is the cheapest to get wrong
    splits = data.load(recipe.data, progress.advance)
    progress.say(f"Loading {recipe.preset}")
    kind = tasks.get(recipe.task)

    def build(policy: str) -> Any:
        keras.utils.set_random_seed(recipe.seed)
        with progress.working(f"loading {recipe.preset}"), assets.reading(preset):
            return kind.building.build(recipe, preset, splits, policy)

    decisions = [one for one in decided if one.key == "train.precision"]
    if recipe.train.precision != "auto":
        task = build(recipe.train.precision)
    elif decisions:
        task = build(str(decisions[0].got))
    elif kind.learning.fit:
        task = build("float32")  # distances multiply errors of rounding
    else:
        trains_more = any(phase.unfreeze != "head" for phase in recipe.phases)
        task, decision = precision.build_fastest(build, kind.building.largest_product if trains_more else None)
        decisions = [decision]
    recipe, settled = kind.building.settled(recipe, task)
    decisions += settled
    kind.building.prepare(recipe, task, splits)
    if recipe.train.xla is True and (bad := without_xla(task)):
        raise RecipeError(f"train.xla = true, but these layers have no XLA: {', '.join(bad)}.", 'Use xla = "auto".')
    if refused := refusals(recipe, recipe.exports, type(task.backbone).__name__):
        raise RecipeError("\n".join(refused) + ".", "Choose another quantize or target in [[exports]].")
    batches = Batches(recipe, task, splits)
    audits, moving = list[Audit](), frozenset[str]()
    for number, phase in enumerate(recipe.phases, start=1):
        audit = batches.counted(freezing.freeze(task, phase))
        audits.append(_of_statistics(audit) if kind.learning.fit else audit)
        moving |= _moving(task, phase)
        known = next((one for one in decided if (one.key, one.phase) == ("train.cache", number)), None)
        decisions.append(known or decide.cache(batches, number))
        lora.merge(task)
    numbers = range(1, len(recipe.phases) + 1)
    decisions += [one for one in decided if one.key != "train.cache" and one.phase in numbers]
    return Plan(batches, tuple(audits), tuple(decisions), moving, _memory_mb(batches))


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


def _memory_mb(batches: Batches) -> int:
    """Estimates an upper bound of the model's memory in the largest phase, in MB.

    Counts weights, gradients, two optimizer slots, and every tensor of a forward pass. The libraries add about 1 GB.
    """
    task, example = batches.task, batches.one
    # One example has several rows where it has sides.
    rows = batches.recipe.train.batch_size * len(keras.tree.flatten(example)[0])
    specs = keras.tree.map_structure(lambda x: tf.TensorSpec([rows, *x.shape[1:]], x.dtype), example)
    graph = tf.function(lambda x: task(x, training=False)).get_concrete_function(specs).graph
    activations: int = sum(
        out.dtype.size * (out.shape.num_elements() or 0)
        for op in graph.get_operations()
        if op.type not in ("Const", "ReadVariableOp", "Placeholder", "Identity")
        for out in op.outputs
        if out.dtype.is_floating and out.shape.is_fully_defined()
    )
    parameters: int = sum(math.prod(weight.shape) for weight in task.weights)
    return round((activations + 4 * 4 * parameters) / 1e6)

"""Several workers in one training: the chief says what to train, and the others follow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastune import files, tasks
from kerastune.errors import KerastuneError, RecipeError
from kerastune.progress import Progress
from kerastune.recipe import Recipe, parse
from kerastune.records import differences, from_json, to_json
from kerastune.training import checkpoint, memory
from kerastune.training.facts import UNCHANGED, facts_of
from kerastune.training.loop import Training
from kerastune.training.plan import Plan, plan
from kerastune.training.position import Position
from kerastune.workers.group import Group


def follow(group: Group, progress: Progress | None = None) -> None:
    """Trains beside the chief, as its recipe says, and writes nothing. Returns when the training has ended.

    Raises:
        KerastuneError: the data, the pretrained weights or the versions here are not the chief's.
    """
    progress = progress or Progress()
    said = group.agree()
    recipe = parse(said["recipe"], "the chief's recipe")
    at = from_json(Position, said["at"])
    arrays, best = group.share({}), group.share({})
    made = plan(recipe, progress, at.decisions)
    here = json.loads(json.dumps(facts_of(made)))
    others = [line for key in UNCHANGED for line in differences(said["facts"][key], here[key], key)]
    _refuse_apart(group, others)
    with files.scratch() as work, memory.told():
        training = Training(made, work, said["facts"], progress, group)
        if arrays:
            training.go_on_from(at, arrays, best)
        training.run()


def lead(
    group: Group,
    made: Plan,
    facts: Mapping[str, Any],
    at: Position | None = None,
    arrays: checkpoint.Arrays | None = None,
    checkpoints: Path = Path(),
) -> None:
    """Tells the other workers what to train, and from where, and hears whether they can."""
    if not group.is_apart:
        return
    at = at or Position(decisions=list(made.decisions))
    group.agree({"recipe": made.recipe.model_dump(mode="json"), "facts": facts, "at": to_json(at)})
    group.share(arrays or {})
    group.share(checkpoint.read_arrays(checkpoints / at.best_file) if at.best_file else {})
    _refuse_apart(group, [])


def _refuse_apart(group: Group, others: Sequence[str]) -> None:
    """Raises KerastuneError in every worker if one of them would train something else."""
    said = group.gather(["\n".join(others).encode()])
    found = {rank: text.decode() for rank, text in enumerate(said) if text}
    if found:
        listed = "\n".join(f"  worker {rank}: {line}" for rank, text in found.items() for line in text.splitlines())
        raise KerastuneError(
            f"The workers would not train the same thing:\n{listed}",
            "Give all workers the same data, weights and versions.",
        )


def refuse_joint(recipe: Recipe, group: Group) -> None:
    """Refuses several workers for a task that no sum of parts computes.

    Raises:
        RecipeError: as said.
    """
    why = tasks.get(recipe.task).learning.joint(recipe)
    if any(phase.contrastive for phase in recipe.phases):
        why = "a contrastive phase compares the examples of a whole batch"
    if group.count > 1 and why:
        raise RecipeError(f"{recipe.task} cannot train with {group.count} workers: {why}.", "Train with one.")

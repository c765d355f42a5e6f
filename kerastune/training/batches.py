"""Batches of a task's examples: the only place where training calls the task's feeding."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kerastune import tasks
from kerastune.data import Order, Split, Splits
from kerastune.recipe import Phase, Recipe
from kerastune.records import Audit
from kerastune.tasks import losses
from kerastune.tasks.contract import Changes, Dataset, Feeding, Targets, Tensors


@dataclass(frozen=True)
class Batches:
    """Batches of a recipe's examples for its model. Splits are named "train" and "validation".

    Attributes:
        contrastive: whether `task` ends in front of the head, and examples of one label meet in a batch.
    """

    recipe: Recipe
    task: Any
    splits: Splits
    contrastive: bool = False

    def of_phase(self, phase: Phase) -> "Batches":
        """Returns the batches of a phase."""
        return replace(self, task=losses.before_head(self.task), contrastive=True) if phase.contrastive else self

    @property
    def _feeding(self) -> Feeding[Any]:
        return tasks.get(self.recipe.task).feeding

    @property
    def bucketed(self) -> bool:
        """Returns whether axes other than the first vary between batches."""
        return self._feeding.shapes == "bucketed"

    @property
    def parts(self) -> bool:
        """Returns whether a part of a training batch can be made without the rest."""
        return self._feeding.parts(self.recipe)

    @cached_property
    def targets(self) -> dict[str, Targets]:
        """Training targets by split. Label smoothing and class weights apply only to training."""
        make = tasks.get(self.recipe.task).learning.targets
        return {
            name: make(self.recipe, self.task, self.splits, name, name == "train") for name in ("train", "validation")
        }

    def split(self, name: str) -> Split:
        found: Split = getattr(self.splits, name)
        return found

    @cached_property
    def example(self) -> Tensors:
        """Inputs of a full validation batch; of the largest one if batches differ in more than size."""
        return self._feeding.example(self.recipe, self.task, self.splits.validation, self.recipe.train.batch_size)

    @property
    def one(self) -> Tensors:
        """Inputs of a training batch of one example."""
        return self._feeding.example(self.recipe, self.task, self.splits.train, 1)

    def order(self, name: str, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0) -> Order:
        batch_size = self.recipe.train.batch_size
        split = self.split(name)
        found = self._feeding.order(self.recipe, self.task, split, batch_size, epochs, seed, start)
        return replace(found, groups=None, kinds=split.labels) if self.contrastive and name == "train" else found

    def counted(self, audit: Audit) -> Audit:
        """Returns a phase's audit with its number of optimizer steps; an epoch's last one may take fewer batches."""
        steps = math.ceil(self.order("train").steps / audit.gradient_accumulation)
        return replace(audit, optimizer_steps=steps * audit.epochs)

    def of(self, name: str, order: Order, changes: Changes | None = None) -> Dataset:
        """Returns a dataset of (inputs, truth, weights float32 [B], indices into the split int64 [B])."""
        return self._feeding.batches(self.recipe, self.task, self.split(name), order, self.targets[name], changes)

    def decoded(self, name: str, order: Order | None = None) -> Dataset | None:
        """Returns a dataset of (examples as they are before random changes, indices into the split int64 [B]), or None
        where there is nothing to keep."""
        made = self._feeding.decoded
        return made and made(self.recipe, self.task, self.split(name), order or self.order(name))

    def changes(self, phase: int, view: int | None = None) -> Changes:
        """Returns the random changes of a phase's training examples."""
        return Changes(seed_of(self.recipe.seed, phase), view)

    def fingerprint(self, changed: bool) -> str:
        """Returns everything that determines the inputs made from given data."""
        return self._feeding.fingerprint(self.recipe, self.task, changed)


def seed_of(*entropy: int) -> int:
    """Returns a 63-bit seed derived from several numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

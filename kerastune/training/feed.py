"""What a phase's steps are fed: inputs, or what the frozen part of the model makes of them, kept from one pass."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import tensorflow as tf

from kerastune import tasks
from kerastune.data import Order, Split
from kerastune.recipe import Recipe
from kerastune.tasks.contract import Changes, Targets
from kerastune.training.prefix import cache, features, forward
from kerastune.training.prefix.forward import Implementation

if TYPE_CHECKING:
    from kerastune.training.loop import Training

_KEPT = {"memory": "in memory", "disk": "on disk"}


class Feed:
    """The batches of the phase that a training is in; made anew for each phase."""

    def __init__(self, of: "Training", cached: bool = True) -> None:
        self.of = of
        self._batches: Iterator[Any] = iter(())
        self._next = -1  # the step that `_batches` goes on with
        targets = of.kind.learning.targets
        self._targets = targets(of.recipe, of.task, of.splits, "train", True)
        self._validation_targets = targets(of.recipe, of.task, of.splits, "validation", False)
        feeding, settings = of.kind.feeding, of.recipe.train
        self._example = feeding.example(of.recipe, of.task, of.splits.validation, settings.batch_size)
        decision = of.decision("train.cache") or {}
        # The plan has proved that the two parts are the whole, or else there is no cut.
        self.cut = features.cut(of.task, self._example, self._free)[0] if "after" in decision else None
        self._views: list[cache.Features] = []
        inputs = forward.specs(self._example, self._free)
        if self.cut and cached and decision["got"] != "off":
            self._run_once(self.cut, decision["got"])
            inputs = tuple(tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in self.cut.specs)
        truths = (self._targets.truth, self._validation_targets.truth)
        self.signature = (inputs, tf.nest.map_structure(_spec, *truths), tf.TensorSpec([None]))

    @property
    def _free(self) -> bool:
        return self.of.kind.feeding.shapes == "bucketed"

    def _inputs(self, split: Split, targets: Targets, view: int | None = None) -> Iterator[Any]:
        of = self.of
        # Texts come in order of length, and what is timed on the first few should be like the rest.
        seed = (0,) if self._free else None
        order = of.kind.feeding.order(of.recipe, of.task, split, of.recipe.train.batch_size, 1, seed, 0)
        changes = None if view is None else Changes(seed_of(of.recipe.seed, of.at.phase), view)
        for x, _, _, i in of.kind.feeding.batches(of.recipe, of.task, split, order, targets, changes):
            yield x, i

    def _run_once(self, cut: features.Cut, where: str) -> None:
        """Runs the frozen part over all examples, or finds what an earlier run kept of it."""
        of, started, (train, validation) = (
            self.of,
            time.perf_counter(),
            (self.of.splits.train, self.of.splits.validation),
        )
        views: list[int | None] = [*range(of.recipe.train.cache_views)] or [None]
        wanted: list[tuple[str, Split, int | None]] = [("train", train, view) for view in views]
        wanted.append(("validation", validation, None))
        examples = sum(len(split) for _, split, _ in wanted)

        def key(by: str, split: Split, view: int | None) -> str:
            return cache_key(of.recipe, of.at.phase, of.task, cut, split, by, view)

        run_prefix, by = self._fastest(
            cut, examples, lambda by: where == "disk" and cache.stored(key(by, *wanted[0][1:]))
        )
        found: list[cache.Features] = []
        for name, split, view in wanted:
            known = cache.stored(key(by, split, view)) if where == "disk" else None
            if known is None:
                run_prefix = run_prefix or forward.forward(cut, by, self._example, self._free)
                targets = self._targets if name == "train" else self._validation_targets
                stage, count = f"{of.title}, frozen layers ({name})", len(split)
                known = cache.compute(
                    run_prefix,
                    self._inputs(split, targets, view),
                    count,
                    cut.specs,
                    key(by, split, view) if where == "disk" else None,
                    f"{of.recipe.name}, {of.title}, {name}",
                    lambda done: of.progress.advance(stage, done, count),  # noqa: B023  called at once
                )
            found.append(known)
        *self._views, self._held_out = found
        kept = f"{examples * cut.bytes_per_example / 1e6:.1f} MB kept {_KEPT[where]}"
        seconds = time.perf_counter() - started
        of.progress.say(
            f"{of.title}: the frozen layers up to {', '.join(cut.after)} ran once over {examples:,} examples "
            f"({seconds:.0f} s, {kept})"
        )

    def _fastest(
        self, cut: features.Cut, examples: int, is_stored: Callable[[Implementation], Any]
    ) -> tuple[forward.Forward | None, Implementation]:
        """The implementation that was chosen for this phase, of which features are kept, or that is fastest."""
        of = self.of
        if known := of.decision("train.cache forward"):
            return None, known["got"]
        for by in get_args(Implementation):
            if is_stored(by):
                return None, of.decided("train.cache forward", "auto", by, "an earlier run kept its features")
        first = [x for x, _ in itertools.islice(self._inputs(of.splits.train, self._targets), 3)]
        batches = math.ceil(examples / of.recipe.train.batch_size)
        run_prefix, found = forward.fastest(cut, first, batches, of.progress, self._free)
        return run_prefix, of.decided("train.cache forward", "auto", found["got"], found["why"])

    def forward(self, x: Any, training: bool) -> tf.Tensor:
        """Inputs or features -> outputs. What is frozen in front of all that trains runs in inference mode."""
        if self.cut is None:
            return self.of.task(x, training=training)
        return self.cut.tail(x if self._views else self.cut.prefix(x), training)

    def train(self, epoch: int, step: int) -> Iterator[tuple[Any, Any, Any]]:
        """The (inputs, targets, weights) of an epoch's batches, from a step on."""
        start = (epoch - 1) * self.of.steps + step
        if self._next != start:
            self._batches = iter(self._cached_batches(start) if self._views else self._fresh_batches(start))
        for batch in itertools.islice(self._batches, self.of.steps - step):
            self._next = (start := start + 1)
            yield batch

    def validation(self) -> Iterator[tuple[Any, Any, Any]]:
        order = self.of.order("validation")
        if self._views:
            for i in order:
                yield self._held_out.rows(i), *self._validation_targets.rows(i)
        else:
            of, targets = self.of, self._validation_targets
            for x, y, w, _ in of.kind.feeding.batches(of.recipe, of.task, of.splits.validation, order, targets, None):
                yield x, y, w

    def _order(self, start: int) -> Order:
        return self.of.order("train", self.of.phase.epochs, start, shuffled=True)

    def _cached_batches(self, start: int) -> Iterator[tuple[Any, Any, Any]]:
        for number, i in enumerate(self._order(start), start):
            view = self._views[number // self.of.steps % len(self._views)]
            yield view.rows(i), *self._targets.rows(i)

    def _fresh_batches(self, start: int) -> tf.data.Dataset:
        of = self.of
        changes = Changes(seed_of(of.recipe.seed, of.at.phase))
        order, targets = self._order(start), self._targets
        found = of.kind.feeding.batches(of.recipe, of.task, of.splits.train, order, targets, changes)
        return found.map(lambda x, y, w, i: (x, y, w)).prefetch(1)


def cache_key(
    recipe: Recipe, phase: int, task: Any, cut: features.Cut, split: Split, by: str, view: int | None = None
) -> str:
    """The key of a split's features, computed in one way; `view` is the number of an augmented view."""
    drawn = None if view is None else [view, recipe.seed, phase]
    preprocessing = f"{tasks.get(recipe.task).feeding.fingerprint(recipe, task, view is not None)} {drawn}"
    return cache.key(split.digests, cut.fingerprint(), cut.specs, preprocessing, by, recipe.train.batch_size)


def _spec(one: Any, other: Any) -> Any:
    """The `tf.TensorSpec` of batches of two splits' truths."""
    if isinstance(one, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None, *one.shape[1:]], one.dtype, one.ragged_rank)
    same = zip(one.shape[1:], other.shape[1:], strict=True)
    return tf.TensorSpec([None, *(a if a == b else None for a, b in same)], one.dtype)


def seed_of(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

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
from kerastune.tasks.image_classification.settings import Augment
from kerastune.training.prefix import cache, features, forward
from kerastune.training.prefix.forward import Implementation

if TYPE_CHECKING:
    from kerastune.training.loop import Training

_KEPT = {"memory": "in memory", "disk": "on disk"}
_View = tuple[Augment | None, int | None]
_AS_IT_IS: _View = (None, None)


class Feed:
    """The batches of the phase that a training is in; made anew for each phase."""

    def __init__(self, of: "Training", cached: bool = True) -> None:
        self.of = of
        self._batches: Iterator[Any] = iter(())
        self._next = -1  # the step that `_batches` goes on with
        settings, classes, target = of.recipe.train, len(of.splits.labels), of.recipe.data.target
        balanced = settings.class_weights == "balanced"
        train, validation = (of.kind.truth(of.task, split) for split in (of.splits.train, of.splits.validation))
        self._targets = of.kind.targets(target, classes, train, settings.label_smoothing, balanced)
        self._validation_targets = of.kind.targets(target, classes, validation)
        self._example = of.kind.example(of.task, of.splits.validation, settings.batch_size)
        decision = of.decision("train.cache") or {}
        # The plan has proved that the two parts are the whole, or else there is no cut.
        self.cut = features.cut(of.task, self._example, of.kind.FREE)[0] if "after" in decision else None
        self._views: list[cache.Features] = []
        inputs = forward.specs(self._example, of.kind.FREE)
        if self.cut and cached and decision["got"] != "off":
            self._run_once(self.cut, decision["got"])
            inputs = tuple(tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in self.cut.specs)
        widths = {found[0].shape[1] for found in (self._targets, self._validation_targets)}
        width = widths.pop() if len(widths) == 1 else None
        self.signature = (inputs, tf.TensorSpec([None, width]), tf.TensorSpec([None]))

    def _inputs(self, split: Split, augment: Augment | None = None, view: int | None = None) -> Iterator[Any]:
        of = self.of
        # Texts come in order of length, and what is timed on the first few should be like the rest.
        order = of.kind.order(of.task, split, of.recipe.train.batch_size, seed=(0,) if of.kind.FREE else None)
        yield from of.kind.batches(of.task, split, order, augment, seed_of(of.recipe.seed, of.at.phase), view)

    def _run_once(self, cut: features.Cut, where: str) -> None:
        """Runs the frozen part over all examples, or finds what an earlier run kept of it."""
        of, started, (train, validation) = (
            self.of,
            time.perf_counter(),
            (self.of.splits.train, self.of.splits.validation),
        )
        views: list[_View] = [(_augment(of.recipe), view) for view in range(of.recipe.train.cache_views)] or [_AS_IT_IS]
        wanted = [("train", train, view) for view in views] + [("validation", validation, _AS_IT_IS)]
        examples = sum(len(split) for _, split, _ in wanted)

        def key(by: str, split: Split, view: _View) -> str:
            return cache_key(of.recipe, of.at.phase, of.task, cut, split, by, view)

        run_prefix, by = self._fastest(
            cut, examples, lambda by: where == "disk" and cache.stored(key(by, *wanted[0][1:]))
        )
        found: list[cache.Features] = []
        for name, split, view in wanted:
            known = cache.stored(key(by, split, view)) if where == "disk" else None
            if known is None:
                run_prefix = run_prefix or forward.forward(cut, by, self._example, of.kind.FREE)
                stage, count = f"{of.title}, frozen layers ({name})", len(split)
                known = cache.compute(
                    run_prefix,
                    self._inputs(split, *view),
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
        first = [x for x, _ in itertools.islice(self._inputs(of.splits.train), 3)]
        batches = math.ceil(examples / of.recipe.train.batch_size)
        run_prefix, found = forward.fastest(cut, first, batches, of.progress, of.kind.FREE)
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
                yield self._held_out.rows(i), *(values[i] for values in self._validation_targets)
        else:
            for x, i in self.of.kind.batches(self.of.task, self.of.splits.validation, order):
                yield x, *(values[i] for values in self._validation_targets)

    def _order(self, start: int) -> Order:
        return self.of.order("train", self.of.phase.epochs, start, shuffled=True)

    def _cached_batches(self, start: int) -> Iterator[tuple[Any, Any, Any]]:
        for number, i in enumerate(self._order(start), start):
            view = self._views[number // self.of.steps % len(self._views)]
            yield view.rows(i), *(values[i] for values in self._targets)

    def _fresh_batches(self, start: int) -> tf.data.Dataset:
        of, augment = self.of, _augment(self.of.recipe)
        seed = seed_of(of.recipe.seed, of.at.phase)
        targets, weights = (tf.constant(values) for values in self._targets)
        found = of.kind.batches(of.task, of.splits.train, self._order(start), augment, seed)
        found = found.map(lambda x, i: (x, tf.gather(targets, i), tf.gather(weights, i)))
        if mix := of.kind.mixing(augment, seed):
            found = found.enumerate(start).map(lambda n, batch: (*mix(n, batch[0], batch[1]), batch[2]))
        return found.prefetch(1)


def cache_key(
    recipe: Recipe, phase: int, task: Any, cut: features.Cut, split: Split, by: str, view: _View = _AS_IT_IS
) -> str:
    """The key of a split's features, computed in one way; `view` is the augmentation and the number of its view."""
    drawn = [view[1], recipe.seed, phase] if view[0] else None
    preprocessing = f"{tasks.get(recipe.task).preprocessing(task, view[0])} {drawn}"
    return cache.key(split.digests, cut.fingerprint(), cut.specs, preprocessing, by, recipe.train.batch_size)


def _augment(recipe: Recipe) -> Augment | None:
    return getattr(recipe, "augment", None)


def seed_of(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

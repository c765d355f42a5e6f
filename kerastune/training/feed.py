"""Feeds a phase: raw inputs, or cached outputs of the frozen prefix."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import tensorflow as tf

from kerastune.training.batches import Batches
from kerastune.training.prefix import forward
from kerastune.training.prefix.cutting import Cut
from kerastune.training.prefix.features import Kept
from kerastune.workers.group import Group


class Feed:
    """The batches of one phase.

    Args:
        phase: its number, from 1, which seeds the order of its batches.
        epochs: its number of epochs.
        cut: the model split into a frozen prefix, which runs in inference mode, and a tail; or None.
        kept: the prefix's outputs for all examples, which then replace inputs in batches; or None.
        group: the workers that share each batch.

    Attributes:
        kept: as given.
        signature: `tf.TensorSpec`s of a batch's (inputs or features, truth, weights).
    """

    def __init__(
        self,
        batches: Batches,
        phase: int,
        epochs: int,
        cut: Cut | None = None,
        kept: Kept | None = None,
        group: Group | None = None,
    ) -> None:
        self._batches, self._phase, self._epochs, self._cut, self.kept = batches, phase, epochs, cut, kept
        self._group = group or Group()
        self._steps = batches.order("train").steps
        self._running: Iterator[Any] = iter(())
        self._next = -1  # the next step of `_running`
        inputs = forward.specs(batches.example, batches.bucketed)
        if cut and kept:
            inputs = tuple(tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in cut.specs)
        truths = (batches.targets[name].truth for name in ("train", "validation"))
        self.signature = (inputs, tf.nest.map_structure(_spec, *truths), tf.TensorSpec([None]))

    def forward(self, x: Any, training: bool) -> Any:
        """Maps inputs or features to outputs."""
        if self._cut is None:
            return self._batches.task(x, training=training)
        return self._cut.tail(x if self.kept else self._cut.prefix(x), training)

    def train(self, epoch: int, step: int) -> Iterator[tuple[Any, ...]]:
        """Yields (inputs, truth, weights) of an epoch's batches, starting at a step.

        With several workers, it yields a tuple of those of each part that this process computes.
        """
        start = (epoch - 1) * self._steps + step
        if self._next != start:
            self._running = iter(self._cached(self.kept, start) if self.kept else self._fresh(start))
        for batch in itertools.islice(self._running, self._steps - step):
            self._next = (start := start + 1)
            yield batch

    def validation(self, shared: bool = False) -> Iterator[tuple[Any, Any, Any]]:
        """Yields (inputs, truth, weights) of the validation batches; if `shared`, those that are this process's."""
        order = self._batches.order("validation")
        own = self._group.block(order.steps) if shared else range(order.steps)
        order = replace(order, start=own.start)
        if self.kept:
            for i in itertools.islice(order, len(own)):
                yield self.kept.validation.rows(i)
        else:
            for x, y, weights, _ in itertools.islice(self._batches.of("validation", order), len(own)):
                yield x, y, weights

    def _order(self, start: int) -> Any:
        return self._batches.order("train", self._epochs, (self._batches.recipe.seed, self._phase), start)

    def _cached(self, kept: Kept, start: int) -> Iterator[tuple[Any, ...]]:
        for number, i in enumerate(self._order(start), start):
            view = kept.views[number // self._steps % len(kept.views)]
            yield (
                view.rows(i) if self._group.count == 1 else tuple(view.rows(i[own]) for own in self._group.cut(len(i)))
            )

    def _fresh(self, start: int) -> Iterator[tuple[Any, ...]] | tf.data.Dataset:
        order, apart = self._order(start), self._group.is_apart and self._batches.parts
        if apart:  # the examples of the others' parts are not even read
            order = replace(order, part=lambda size: self._group.cut(size)[0])
        found = self._batches.of("train", order, self._batches.changes(self._phase))
        batches = found.map(lambda x, y, weights, i: (x, y, weights)).prefetch(1)
        if apart:
            return ((batch,) for batch in batches)
        return batches if self._group.count == 1 else map(self._parts, batches)

    def _parts(self, batch: Any) -> tuple[Any, ...]:
        cuts = self._group.cut(len(batch[-1]))
        return tuple(tf.nest.map_structure(lambda tensor: tensor[own], batch) for own in cuts)  # noqa: B023  called at once


def _spec(one: Any, other: Any) -> Any:
    """Returns the `tf.TensorSpec` of batches of two splits' truths."""
    if isinstance(one, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None, *one.shape[1:]], one.dtype, one.ragged_rank)
    same = zip(one.shape[1:], other.shape[1:], strict=True)
    return tf.TensorSpec([None, *(a if a == b else None for a, b in same)], one.dtype)

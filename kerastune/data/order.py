"""Orders examples into batches, as a function of a seed and a position, so that a resumed run continues unchanged."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOGETHER = 4
"""Examples of one kind that a shuffled epoch keeps next to each other."""


@dataclass(frozen=True)
class Order:
    """Batches of indices over several epochs of `size` examples.

    Without `groups`, each epoch ends with a batch of the remaining examples. With them, a batch holds examples of one
    group; the rest of a group moves up to the next larger one, so that at most one batch is smaller.

    Args:
        seed: shuffles each epoch, reproducibly; None keeps the order, by group.
        start: number of batches to skip, counted over all epochs.
        groups: group of each example, int64 [size]; examples in a group have similar lengths.
        kinds: kind of each example, int64 [size]; a shuffled epoch keeps `TOGETHER` of a kind next to each other, so
            that they meet in a batch.
        part: size of a batch -> the rows of it that are read; None: all. Only pipelines of single examples ask it, of
            tasks whose `Feeding.parts` allows it.
    """

    size: int
    batch_size: int
    epochs: int = 1
    seed: tuple[int, ...] | None = None
    start: int = 0
    groups: npt.NDArray[np.int64] | None = None
    kinds: npt.NDArray[np.int64] | None = None
    part: Callable[[int], slice] | None = None

    @property
    def steps(self) -> int:
        """Number of batches per epoch."""
        return math.ceil(self.size / self.batch_size)

    @property
    def shapes(self) -> int:
        """Maximum number of batch shapes: one per group, and one for the last batch."""
        kinds = 1 if self.groups is None else len(np.unique(self.groups))
        return kinds + bool(self.size % self.batch_size)

    def __len__(self) -> int:
        """Returns the number of remaining batches."""
        return self.steps * self.epochs - self.start

    def epoch(self, number: int) -> npt.NDArray[np.int64]:
        """Returns the order of all examples in an epoch, counted from 0, before grouping: int64 [size]."""
        if self.seed is None:
            return np.arange(self.size)
        random = np.random.default_rng((*self.seed, number))
        shuffled = random.permutation(self.size)
        if self.kinds is None:
            return shuffled
        by_kind = shuffled[np.argsort(self.kinds[shuffled], kind="stable")]
        starts = np.flatnonzero(np.diff(self.kinds[by_kind], prepend=-1))
        rank = np.arange(self.size) - np.repeat(starts, np.diff(starts, append=self.size))  # within the kind
        bunch = np.cumsum(rank % TOGETHER == 0) - 1
        place = random.permutation(bunch[-1] + 1)[bunch]
        return by_kind[np.argsort(place, kind="stable")]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        first, skipped = divmod(self.start, self.steps)
        for number in range(first, self.epochs):
            yield from self._batches(number)[skipped if number == first else 0 :]

    def _batches(self, number: int) -> list[npt.NDArray[np.int64]]:
        order = self.epoch(number)
        if self.groups is None:
            return _split(order, self.batch_size)
        found: list[npt.NDArray[np.int64]] = []
        left = order[:0]
        for group in np.unique(self.groups):
            members = np.concatenate([left, order[self.groups[order] == group]])
            full = len(members) // self.batch_size * self.batch_size
            found += _split(members[:full], self.batch_size)
            left = members[full:]
        found += _split(left, self.batch_size)
        if self.seed is None:
            return found
        places = np.random.default_rng((*self.seed, number, 1)).permutation(len(found))
        return [found[i] for i in places]


def _split(order: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [order[at : at + size] for at in range(0, len(order), size)]  # [B] each, the last one shorter

"""Which examples make which batch: a function of a seed and a position, so that a resumed run goes on as it was."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Order:
    """Batches of indices over some epochs of `size` examples.

    Without `groups`, each epoch ends with what is left over. With them, a batch holds examples of one group; what
    does not fill one goes up into the next larger group, so that there is one smaller batch at most.

    Args:
        seed: shuffles each epoch anew, the same way for the same seed; None keeps the order, by group.
        start: batches that are skipped, counted over all epochs.
        groups: of each example, int64 [size]: those of about one length belong together.
    """

    size: int
    batch_size: int
    epochs: int = 1
    seed: tuple[int, ...] | None = None
    start: int = 0
    groups: npt.NDArray[np.int64] | None = None

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(self.size / self.batch_size)

    @property
    def shapes(self) -> int:
        """How many shapes batches have, at most: one a group, and one for the last."""
        kinds = 1 if self.groups is None else len(np.unique(self.groups))
        return kinds + bool(self.size % self.batch_size)

    def __len__(self) -> int:
        """Batches that are left."""
        return self.steps * self.epochs - self.start

    def epoch(self, number: int) -> npt.NDArray[np.int64]:
        """The order of all examples in an epoch, counted from 0, before groups are made: int64 [size]."""
        if self.seed is None:
            return np.arange(self.size)
        return np.random.default_rng((*self.seed, number)).permutation(self.size)

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

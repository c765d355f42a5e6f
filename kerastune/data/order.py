"""Which examples make which batch: a function of a seed and a position, so that a resumed run goes on as it was."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Order:
    """Batches of indices over some epochs of `size` examples; each epoch ends with what is left over.

    Args:
        seed: shuffles each epoch anew, the same way for the same seed; None keeps the order.
        start: batches that are skipped, counted over all epochs.
    """

    size: int
    batch_size: int
    epochs: int = 1
    seed: tuple[int, ...] | None = None
    start: int = 0

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(self.size / self.batch_size)

    def __len__(self) -> int:
        """Batches that are left."""
        return self.steps * self.epochs - self.start

    def epoch(self, number: int) -> npt.NDArray[np.int64]:
        """The order of all examples in an epoch, counted from 0: int64 [size]."""
        if self.seed is None:
            return np.arange(self.size)
        return np.random.default_rng((*self.seed, number)).permutation(self.size)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        first, skipped = divmod(self.start, self.steps)
        for number in range(first, self.epochs):
            order = self.epoch(number)
            for step in range(skipped if number == first else 0, self.steps):
                yield order[step * self.batch_size : (step + 1) * self.batch_size]  # [B], the last one shorter

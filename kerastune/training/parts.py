"""What differs between parts of a batch while they train: random states, BatchNorm statistics, running metrics."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kerastune import keras_private, weights
from kerastune.errors import VerificationError
from kerastune.workers.group import Arrays, Group, packed, unpacked

_NEXT = 1_000_003  # added to the seed for each further part, so that no two drop the same


class Parts:
    """The states of the parts that this process computes. One of them is in the variables, the others are kept here.

    Weights are the same in all. At the end of an epoch, the statistics of BatchNorm become the mean over all parts.

    Args:
        metrics: as in `steps.compiled`.
    """

    def __init__(self, group: Group, task: keras.Model, metrics: Sequence[keras.metrics.Metric]) -> None:
        self.group, self._task = group, task
        seeds = weights.seed_states(task)
        norms = [x for x in keras_private.layers(task) if isinstance(x, keras.layers.BatchNormalization)]
        statistics = [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
        running = [variable for metric in metrics for variable in metric.variables]
        self._seeds = slice(0, len(seeds))
        self._statistics = slice(len(seeds), len(seeds) + len(statistics))
        self._running = slice(len(seeds) + len(statistics), None)
        self._variables = [*seeds, *statistics, *running]
        first = [variable.numpy() for variable in self._variables]
        self._states = {rank: list(first) for rank in group.parts}
        self._current = group.parts[0]

    def use(self, rank: int) -> None:
        """Puts the state of a part into the variables."""
        if rank != self._current:
            self._states[self._current] = [variable.numpy() for variable in self._variables]
            self._load(rank)

    def _load(self, rank: int) -> None:
        for variable, value in zip(self._variables, self._states[rank], strict=True):
            variable.assign(value)
        self._current = rank

    def begin(self) -> None:
        """Starts every part from the chief's state and weights, each with a seed of its own."""
        named = weights.named(self._task)
        shared = self.group.share({name: weight.numpy() for name, weight in named.items()})
        weights.restore(self._task, shared)
        (first, *_) = self._all()
        for rank in self.group.parts:
            seeds = [seed + _offset(seed, rank) for seed in first[self._seeds]]
            self._states[rank] = [*seeds, *first[self._statistics], *first[self._running]]
        self._load(self.group.parts[0])

    def gathered(self) -> Arrays:
        """Returns the states of all parts, for a checkpoint."""
        states = enumerate(self._all())
        return {f"parts/{rank}/{i}": value for rank, state in states for i, value in enumerate(state)}

    def restore(self, arrays: Arrays) -> None:
        """Puts back what `gathered` returned."""
        for rank in self.group.parts:
            self._states[rank] = [arrays[f"parts/{rank}/{i}"] for i in range(len(self._variables))]
        self._load(self.group.parts[0])

    def meet(self) -> None:
        """Sets every part's BatchNorm statistics to the mean over all.

        Raises:
            VerificationError: the weights of two workers differ.
        """
        digests = [weights.sha256(weight).encode() for weight in self._task.trainable_variables]
        said = self.group.gather([b"".join(digests)] * len(self.group.parts))
        if len(set(said)) > 1:
            raise VerificationError(
                "The workers' weights are no longer the same: their processors or libraries round differently.",
                "Use workers of one kind, with the same versions of everything.",
            )
        states = self._all()
        means = [
            np.mean(values, 0).astype(values[0].dtype)
            for values in zip(*(state[self._statistics] for state in states), strict=True)
        ]
        self._replace(self._statistics, means)

    @contextlib.contextmanager
    def totalled(self) -> Iterator[None]:
        """Holds the sums of all parts' running metrics in the metrics inside the block."""
        kept = self._kept()
        before = [kept[rank][self._running] for rank in self.group.parts]
        every = zip(*(state[self._running] for state in self._all()), strict=True)
        totals = [np.sum(values, 0, values[0].dtype) for values in every]
        try:
            self._replace(self._running, totals)
            yield
        finally:
            for rank, running in zip(self.group.parts, before, strict=True):
                self._states[rank][self._running] = running
            self._load(self._current)

    def reset(self) -> None:
        """Sets the running metrics of every part to those that the variables hold now."""
        self._replace(self._running, [variable.numpy() for variable in self._variables[self._running]])

    def _replace(self, what: slice, values: Sequence[Any]) -> None:
        self._kept()
        for rank in self.group.parts:
            self._states[rank][what] = values
        self._load(self._current)

    def _kept(self) -> dict[int, list[Any]]:
        self._states[self._current] = [variable.numpy() for variable in self._variables]
        return self._states

    def _all(self) -> list[list[Any]]:
        """Returns the states of all parts, those of other processes included."""
        states = self._kept()
        own = [packed({f"{i}": value for i, value in enumerate(states[rank])}) for rank in self.group.parts]
        found = map(unpacked, self.group.gather(own))
        return [[state[f"{i}"] for i in range(len(self._variables))] for state in found]


def _offset(seed: Any, rank: int) -> Any:
    offset = np.zeros_like(seed)
    offset[..., 0] = rank * _NEXT  # of Keras's (seed, number of draws)
    return offset

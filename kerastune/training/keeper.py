"""Keeps what a training may need again: checkpoints to go on from, and the weights of its best epoch."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerastune.records import to_json
from kerastune.training import checkpoint
from kerastune.training.checkpoint import Arrays
from kerastune.training.position import Position

_SHORT = 5.0  # seconds: epochs that end sooner after a checkpoint are sooner trained again than written
_SHARE = 20  # times as long as writing a checkpoint: the pause between two, so that they take 5 % of the time at most


class Keeper:
    """Writes the checkpoints of a training. The best weights are in memory until the next one.

    Args:
        facts: what may not change between a checkpoint and its resumption; written into each.
        every: `train.checkpoint_every`.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], every: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._facts = folder, facts
        count, self._unit = every.split()
        self._count = int(count)
        self._unwritten: Arrays = {}  # the best weights, if they are newer than the last checkpoint
        self._lap, self._pause = time.perf_counter(), _SHORT

    def keep(self, at: Position, best: dict[str, Any], arrays: Arrays) -> None:
        """Takes figures and weights as those of the best epoch."""
        at.best, at.best_file = best, f"best-{at.phase}-{at.epoch}.npz"
        self._unwritten = arrays

    def hold(self, arrays: Arrays) -> None:
        """Takes the weights of a position's best epoch, which are not in the folder."""
        self._unwritten = arrays

    def forget(self, at: Position) -> None:
        """Starts the search for the best epoch anew."""
        at.best, at.best_file, self._unwritten = None, "", {}

    def best(self, at: Position) -> Arrays:
        """Returns the weights of the best epoch; none if no epoch was finished."""
        if not at.best_file:
            return {}
        return self._unwritten or checkpoint.read_arrays(self._folder / at.best_file)

    def is_due(self, step: int) -> bool:
        """Returns whether a checkpoint follows an epoch's first `step` steps."""
        if self._unit == "steps":
            return step % self._count == 0
        return time.perf_counter() - self._lap > 60 * self._count

    @property
    def is_worth_while(self) -> bool:
        """Whether an epoch that ends now is worth a checkpoint."""
        return time.perf_counter() - self._lap > self._pause

    def lap(self) -> float:
        """Returns the seconds since the last call, or since the start; checkpoints are due by them."""
        last, self._lap = self._lap, time.perf_counter()
        return self._lap - last

    def write(self, at: Position, arrays: Arrays) -> None:
        """Writes a checkpoint and deletes files that only older ones needed.

        Raises:
            ConverterError: the disk is full; the last checkpoint is intact.
        """
        started = time.perf_counter()
        if self._unwritten:
            checkpoint.write_arrays(self._folder / at.best_file, self._unwritten)
            self._unwritten = {}
        checkpoint.write(self._folder, {**self._facts, "at": to_json(at)}, arrays)
        needed = {record["at"].get("best_file") for record in checkpoint.records(self._folder)}
        for path in self._folder.glob("best-*.npz"):
            if path.name not in needed:
                path.unlink()
        self._pause = max(_SHORT, _SHARE * (time.perf_counter() - started))

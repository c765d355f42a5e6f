"""How far a training has come, and what came out so far: what a checkpoint holds beside its arrays."""

from dataclasses import dataclass, field
from typing import Any

from kerastune.records import Decision, Ran


@dataclass
class Position:
    """The position and the results of a training. With the arrays, this is all that a checkpoint holds.

    `phase` and `epoch` count from 1, `step` is how many of the epoch's steps are done.
    """

    phase: int = 1
    epoch: int = 1
    step: int = 0
    waited: int = 0  # epochs since the phase's best one, for early stopping
    phase_best: dict[str, Any] | None = None  # the row of the phase's best epoch
    stage: list[str] = field(default_factory=list)  # the units that train in the stage that `frozen` is of
    best: dict[str, Any] | None = None
    best_file: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    said: dict[str, list[str]] = field(default_factory=dict)  # by "phase.epoch", where the task generates
    ran: list[Ran] = field(default_factory=list)  # one a phase that has begun
    decisions: list[Decision] = field(default_factory=list)
    frozen: dict[str, str] = field(default_factory=dict)  # hashes from before the stage that is running
    seconds: float = 0.0

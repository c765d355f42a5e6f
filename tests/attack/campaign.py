"""What an attack is made of: trials that must either work, with the right values, or be refused in words."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.errors import KerastuneError

LONGEST = 4000  # characters of a refusal; a message that quotes without end is wrong


@dataclass(frozen=True)
class Trial:
    """One try: what is tried, and a function that tries it.

    The function returns where all is right, raises a `KerastuneError` where kerastune refuses, and anything else
    (an assertion about a value included) where kerastune is wrong. With `must` the outcome is fixed.
    """

    what: str
    run: Callable[[], object]
    must: str | None = None  # "work" or "refuse"


@dataclass(frozen=True)
class Campaign:
    """A kind of attack: its trials, drawn with a generator that works in a folder, and how many `make attack` runs."""

    name: str
    about: str
    count: int
    trials: Callable[[np.random.Generator, Path], Iterator[Trial]]


@dataclass
class Outcome:
    """How many trials worked and were refused, and what was wrong of each of the others."""

    worked: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.worked + self.refused + len(self.wrong)


def attack(campaign: Campaign, count: int, folder: Path, seed: int = 0, told: Callable[[str], Any] = id) -> Outcome:
    """Runs the first `count` trials of a campaign in a folder; `told` hears of each that is wrong."""
    outcome = Outcome()
    for _, trial in zip(range(count), campaign.trials(np.random.default_rng(seed), folder), strict=False):
        wrong = _wrong(trial, outcome)
        if wrong:
            outcome.wrong.append(f"{trial.what}: {wrong}")
            told(outcome.wrong[-1])
    return outcome


def _wrong(trial: Trial, outcome: Outcome) -> str | None:
    try:
        trial.run()
    except KerastuneError as error:
        said = str(error)
        if trial.must == "work":
            return f"refused: {said[:300]}"
        if not said.strip() or len(said) > LONGEST or "Traceback" in said:
            return f"a refusal of {len(said)} characters: {said[:300]!r}"
        outcome.refused += 1
    except Exception as error:  # whatever else is raised is the fault that is looked for
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {str(error)[:300]}"
    else:
        if trial.must == "refuse":
            return "not refused"
        outcome.worked += 1
    return None

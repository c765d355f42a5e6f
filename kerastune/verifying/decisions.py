"""Verifies the decision at a manifest's threshold: its sensitivity and specificity beside Keras's."""

from typing import Any

import numpy as np

from kerastune.data.ragged import Arrays
from kerastune.tasks.learnt.calibration import rates
from kerastune.verifying.manifest import Decision
from kerastune.verifying.verification import Beside, Validation

_RATES = ("sensitivity", "specificity")


def rates_at(
    decision: Decision, labels: tuple[str, ...], truth: Any, found: Arrays, expected: Arrays
) -> dict[str, Beside]:
    """Returns both rates of an artifact's outputs at the threshold, and of Keras's, by their name in words.

    Args:
        truth: index of each example's label, int64 [n].
        found, expected: the outputs of the artifact and of Keras.
    """
    column = labels.index(decision.label)
    ours, theirs = (
        rates(truth == column, np.asarray(one["scores"])[:, column] >= decision.threshold) for one in (found, expected)
    )
    there = [name for name in _RATES if ours[name]["examples"]]
    return {_words(name, decision): Beside(ours[name]["value"], theirs[name]["value"]) for name in there}


def lost(decision: Decision | None, validation: Validation, allowed: float) -> list[str]:
    """Returns which rates at the threshold are lower than Keras's by more than `allowed`."""
    names = [_words(name, decision) for name in _RATES] if decision else []
    return [
        f"it has a {name} of {found.value:.4f}, Keras of {found.keras:.4f}, but max_accuracy_drop is {allowed:g}"
        for name in names
        if (found := validation.beside.get(name)) and found.keras - found.value > allowed
    ]


def _words(rate: str, decision: Decision) -> str:
    return f"{rate} for {decision.label} at the threshold"

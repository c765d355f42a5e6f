"""How long work tells what it does. The library is silent by default; the command line subclasses this."""

from itertools import groupby
from typing import Any


class Progress:
    """Told what happens; prints nothing. Subclass it to show progress your own way."""

    def say(self, line: str) -> None:
        """One finished step, in a sentence."""

    def table(self, title: str, header: list[str], rows: list[list[str]]) -> None:
        """Figures about what comes next: who trains in a phase."""

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of a stage are finished; called often. `detail`: figures so far."""


def audit_table(audit: dict[str, Any], title: str) -> tuple[str, list[str], list[list[str]]]:
    """A phase's audit for `Progress.table`: a row for neighbouring units that are treated alike."""
    norms = audit["batch_norm"]
    facts = [
        f"{audit['epochs']} epoch{'s' if audit['epochs'] != 1 else ''}",
        f"{audit['trainable_parameters']:,} of {audit['trainable_parameters'] + audit['frozen_parameters']:,} "
        "parameters train",
        f"{audit['optimizer']}, {audit['schedule']} learning rate",
        f"BatchNorm: {norms['inference']} inference, {norms['training']} training",
    ]
    rows = []
    for _, alike in groupby(audit["units"], key=lambda unit: (unit["trainable_parameters"] > 0, unit["learning_rate"])):
        units = list(alike)
        names = [unit["name"] for unit in units]
        trainable = sum(unit["trainable_parameters"] for unit in units)
        rows.append(
            [
                ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]} ({len(names)} units)",
                f"{sum(unit['parameters'] for unit in units):,}",
                f"{trainable:,}",
                f"{units[0]['learning_rate']:g}" if trainable else "frozen",
            ]
        )
    return f"{title}: {'; '.join(facts)}", ["units", "parameters", "trainable", "learning rate"], rows

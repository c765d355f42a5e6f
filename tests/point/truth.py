"""A point, as data say it."""

from typing import Any

import numpy as np

from kerastune.data.source import Label, Problem
from kerastune.data.truths import Truth


def parse(cell: Any, separator: str | None) -> Label | Problem:
    """ "12 30" as two numbers."""
    try:
        x, y = map(float, str(cell).split())
    except ValueError:
        return Problem("", f"the point is {cell!r}, not two numbers")
    return (x, y)  # type: ignore[return-value]


POINT = Truth(
    name="point",
    parse=parse,
    word="point",
    names=lambda label: (),
    ordered=lambda order, present: ("x", "y"),
    array=lambda given, labels, contents: np.array(given, np.float32),
    classes=lambda truth: np.arange(len(truth)),
    counts=lambda labels, truth: {"points": len(truth)},
    differ=True,
)

"""Outputs of a runtime beside Keras's: what is wrong with them, in words."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data import ragged
from kerastune.data.ragged import Array, Arrays, Ragged
from kerastune.modalities import Example
from kerastune.tasks.learnt import Learnt
from kerastune.tasks.learnt.contract import ROUNDING
from kerastune.verifying.verification import Agreement

LARGEST_LOSS = 0.3
LEAST_AGREEMENT = 0.9
"""However it is quantised, an artifact may lose at most the first share of what tells the golden examples apart
(`Comparison.lost`), or must give the second share of Keras's answers. One alone does not tell: int8 may squash
probabilities and keep labels, or flip some."""

OTHER_KERNELS = {
    "none": ROUNDING,
    "float16": 2e-3,
    "int16x8": 2e-3,
    "dynamic": 16 / 256,
    "int4": 16 / 256,
    "int8": 16 / 256,
}
"""Largest distance between two runtimes of one file, relative to the scale: rounding, by quantisation. For int8 that is
sixteen output steps (between LiteRT's XNNPACK and reference kernels six were measured on photos, with
EfficientNet-Lite0, and eleven on tinted ones, with a tiny EfficientNet)."""

LEAST_SPREAD = 10 * ROUNDING
"""Outputs that vary less than this, relative to their scale, agree with anything."""

_LEAST_COLOUR = (
    0.05  # Keras answers to red and blue alike, if its outputs differ by less than this share of their scale
)


@dataclass(frozen=True)
class Part:
    """Arrays to ask a runtime about, and what Keras said about them.

    Attributes:
        what: the arrays in words.
        place: which answer each example of `expected` has, as `Questions.place`; None where they are in one order.
        tolerance: the largest distance that is allowed; None where none is judged.
        is_varied: whether the examples differ enough for their outputs to differ.
    """

    what: str
    arrays: Iterable[npt.NDArray[Any]]
    expected: Arrays
    place: npt.NDArray[np.int64] | None = None
    tolerance: float | None = None
    is_varied: bool = True

    @property
    def answers(self) -> int:
        """How many answers a runtime gives."""
        return ragged.count(self.expected) if self.place is None else int(self.place.max(initial=-1)) + 1

    def placed(self, answers: Arrays) -> dict[str, Array]:
        """Answers in the order of what Keras said."""
        return dict(answers) if self.place is None else ragged.take(answers, self.place)


def problems(learnt: Learnt, part: Part, found: Arrays, scale: float) -> list[str]:
    """What is wrong with the outputs about a part."""
    what, expected = part.what, part.expected
    if ours := _misshapen(found, expected):
        return [f"{what}: {ours}"]
    if bad := _not_finite(found):
        return [f"{what}: NaN or infinite outputs on {bad} of {ragged.count(found)}"]
    told, comparison = [], learnt.comparison
    unit = f" {comparison.unit}" if comparison.unit else ""
    error = float(comparison.distance(found, expected).max(initial=0))
    if part.tolerance is not None and not error <= part.tolerance:
        told.append(f"{what}: largest error {error:.3g}{unit}, and {part.tolerance:.3g} is allowed")
    if part.is_varied and not comparison.spread(found) > LEAST_SPREAD * scale:
        told.append(f"{what}: the artifact says the same about all of them")
    return told


def unlike_keras(
    learnt: Learnt, what: str, examples: Sequence[Example], found: Arrays, expected: Arrays, scale: float
) -> list[str]:
    """What is wrong with outputs about the golden examples of a quantised model, whose errors have no limit."""
    lost, told = learnt.comparison.lost(found, expected), []
    differ = 1 - float(learnt.comparison.agree(found, expected).mean())
    if not lost <= LARGEST_LOSS and differ > 1 - LEAST_AGREEMENT:
        told.append(
            f"{what}: {lost:.0%} of what tells them apart is lost and {differ:.0%} of the {learnt.comparison.alike} "
            f"differ, and {LARGEST_LOSS:.0%} and {1 - LEAST_AGREEMENT:.0%} are allowed"
        )
    if _swaps_colours(learnt, examples, found, expected, scale):
        told.append(f"{what}: it takes red for blue")
    return told


def agreement(learnt: Learnt, found: Arrays, expected: Arrays) -> Agreement:
    """How far outputs are from others, and how many give the same answer."""
    count = ragged.count(expected)
    if _misshapen(found, expected) or _not_finite(found):
        return Agreement(count, None, None)
    error = largest_error(learnt, found, expected)
    return Agreement(count, error, float(learnt.comparison.agree(found, expected).mean()))


def largest_error(learnt: Learnt, found: Arrays, expected: Arrays) -> float:
    """The largest distance of an example; NaN where it is no number."""
    return float(learnt.comparison.distance(found, expected).max(initial=0))


def _swaps_colours(learnt: Learnt, examples: Sequence[Example], found: Arrays, expected: Arrays, scale: float) -> bool:
    """Whether it answers to an image in red as Keras does to the same image in blue."""
    red = [i for i in range(len(examples) - 1) if _is_mirrored(examples[i], examples[i + 1])]
    if not red:
        return False
    blue = [i + 1 for i in red]

    def distance(ours: Arrays, of: list[int], theirs: list[int]) -> npt.NDArray[np.float64]:
        return learnt.comparison.distance(ragged.take(ours, of), ragged.take(expected, theirs))

    apart = distance(expected, red, blue)
    straight = distance(found, red, red) + distance(found, blue, blue)
    crossed = distance(found, red, blue) + distance(found, blue, red)
    return bool(apart.max() >= _LEAST_COLOUR * scale and crossed.sum() < straight.sum())


def _is_mirrored(one: Example, other: Example) -> bool:
    """Whether two images have each other's channels in reverse."""
    return one.ndim == 3 and np.array_equal(one, other[..., ::-1]) and not np.array_equal(one, other)


def _misshapen(found: Arrays, expected: Arrays) -> str | None:
    """What is wrong with the names or the shapes of outputs."""
    if set(found) != set(expected):
        return f"outputs {', '.join(sorted(found))} instead of {', '.join(sorted(expected))}"
    for name, array in expected.items():
        if (ours := _shape(found[name])) != (theirs := _shape(array)):
            return f"{name} has the shape {ours} instead of {theirs}"
    return None


def _shape(array: Array) -> tuple[Any, ...]:
    """The shape; any number of rows an example is None."""
    return (len(array), None, *array.values.shape[1:]) if isinstance(array, Ragged) else array.shape


def _not_finite(found: Arrays) -> int:
    """Examples with an output that is NaN or infinite."""
    bad = np.zeros(ragged.count(found), np.bool_)
    for array in found.values():
        if isinstance(array, Ragged):
            bad |= [not np.isfinite(rows).all() for rows in array]
        else:
            bad |= ~np.isfinite(array).reshape(len(array), -1).all(axis=-1)
    return int(bad.sum())


def hardly_varies(learnt: Learnt, expected: Arrays, scale: float) -> float | None:
    """By how much Keras's outputs differ, where that is so little that they agree with anything; NaN is."""
    spread = learnt.comparison.spread(expected)
    return None if spread > LEAST_SPREAD * scale and math.isfinite(spread) else spread

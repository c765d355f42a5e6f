"""Compares a runtime's outputs with Keras's, and puts problems into words."""

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
"""However it is quantised, an artifact must explain all but the first share of the variance between golden examples
(`Comparison.lost`), or give the second share of Keras's answers. One criterion alone is not enough: int8 may squash
probabilities and keep labels, or flip some."""

OTHER_KERNELS = {
    "none": ROUNDING,
    "float16": 2e-3,
    "int16x8": 2e-3,
    "dynamic": 16 / 256,
    "int4": 16 / 256,
    "int8": 16 / 256,
}
"""Largest distance between two runtimes of one file due to rounding, relative to the scale, by quantisation. For int8
it is sixteen output steps (between LiteRT's XNNPACK and reference kernels, six were measured on photos with
EfficientNet-Lite0, and eleven on tinted photos with a tiny EfficientNet)."""

LEAST_SPREAD = 10 * ROUNDING
"""Outputs that vary less than this, relative to their scale, would agree with anything."""

_LEAST_COLOUR = (
    0.05  # Keras does not distinguish red and blue if its outputs differ by less than this share of their scale
)


@dataclass(frozen=True)
class Part:
    """Arrays for a runtime, and Keras's outputs for them.

    Attributes:
        what: the arrays in words.
        place: the answer for each example of `expected`, as in `Questions.place`; None if both have the same order.
        tolerance: the largest allowed distance; None to skip the check.
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
        """Returns the number of answers that a runtime gives."""
        return ragged.count(self.expected) if self.place is None else int(self.place.max(initial=-1)) + 1

    def placed(self, answers: Arrays) -> dict[str, Array]:
        """Returns answers in the order of Keras's outputs, without details that were not stored."""
        stored = {name: rows for name, rows in answers.items() if name in self.expected or len(rows) == self.answers}
        return stored if self.place is None else ragged.take(stored, self.place)


def problems(learnt: Learnt, part: Part, found: Arrays, scale: float) -> list[str]:
    """Returns what is wrong with the outputs for a part."""
    what, expected = part.what, part.expected
    if ours := _misshapen(found, expected):
        return [f"{what}: {ours}"]
    if bad := _not_finite(found):
        return [f"{what}: NaN or infinite outputs for {bad} of {ragged.count(found)}"]
    told, comparison = [], learnt.comparison
    unit = f" {comparison.unit}" if comparison.unit else ""
    error = float(comparison.distance(found, expected).max(initial=0))
    if part.tolerance is not None and not error <= part.tolerance:
        told.append(f"{what}: largest error {error:.3g}{unit}, but at most {part.tolerance:.3g} is allowed")
    if comparison.exact and (differ := int((~comparison.agree(found, expected)).sum())):
        told.append(f"{what}: {differ} of {ragged.count(found)} {comparison.alike} differ from Keras's")
    if part.is_varied and not comparison.spread(found) > LEAST_SPREAD * scale:
        told.append(f"{what}: the artifact gives the same output for all of them")
    return told


def unlike_keras(
    learnt: Learnt, what: str, examples: Sequence[Example], found: Arrays, expected: Arrays, scale: float
) -> list[str]:
    """Returns what is wrong with a quantised model's outputs for the golden examples, whose errors have no limit."""
    lost, told = learnt.comparison.lost(found, expected), []
    differ = 1 - float(learnt.comparison.agree(found, expected).mean())
    if not lost <= LARGEST_LOSS and differ > 1 - LEAST_AGREEMENT:
        told.append(
            f"{what}: {lost:.0%} of the variance is lost and {differ:.0%} of the {learnt.comparison.alike} "
            f"differ, but at most {LARGEST_LOSS:.0%} and {1 - LEAST_AGREEMENT:.0%} are allowed"
        )
    if _swaps_colours(learnt, examples, found, expected, scale):
        told.append(f"{what}: red and blue are swapped")
    return told


def agreement(learnt: Learnt, found: Arrays, expected: Arrays) -> Agreement:
    """Returns how far outputs are from the expected ones, and how many give the same answer."""
    count = ragged.count(expected)
    if _misshapen(found, expected) or _not_finite(found):
        return Agreement(count, None, None)
    error = largest_error(learnt, found, expected)
    return Agreement(count, error, float(learnt.comparison.agree(found, expected).mean()))


def step(outputs: Arrays) -> float:
    """Returns the smallest distance between different values of an output: the step of integers, almost 0 of floats."""
    values = [np.unique(np.asarray(array, np.float64)) for array in outputs.values()]
    return max((float(np.diff(one).min()) for one in values if len(one) > 1), default=0.0)


def largest_error(learnt: Learnt, found: Arrays, expected: Arrays) -> float:
    """Returns the largest distance of an example; may be NaN."""
    return float(learnt.comparison.distance(found, expected).max(initial=0))


def _swaps_colours(learnt: Learnt, examples: Sequence[Example], found: Arrays, expected: Arrays, scale: float) -> bool:
    """Returns whether the outputs for a red-tinted image equal Keras's for the same image tinted blue."""
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
    """Returns whether two images equal each other with channels reversed."""
    return one.ndim == 3 and np.array_equal(one, other[..., ::-1]) and not np.array_equal(one, other)


def _misshapen(found: Arrays, expected: Arrays) -> str | None:
    """Returns what is wrong with the names or the shapes of outputs."""
    if set(found) != set(expected):
        return f"outputs {', '.join(sorted(found))} instead of {', '.join(sorted(expected))}"
    for name, array in expected.items():
        if (ours := _shape(found[name])) != (theirs := _shape(array)):
            return f"{name} has the shape {ours} instead of {theirs}"
        if (sizes := _sizes(array)) != (own := _sizes(found[name])):
            n = next(n for n, pair in enumerate(zip(own, sizes, strict=True)) if pair[0] != pair[1])
            return f"{name} has the size {own[n]} for example {n + 1} instead of {sizes[n]}"
    return None


def _sizes(array: Array) -> list[Any]:
    """Returns the height and width of each map; None for each row of other arrays."""
    shapes = array.shapes if isinstance(array, Ragged) else None
    return [None] * len(array) if shapes is None else shapes.tolist()


def _shape(array: Array) -> tuple[Any, ...]:
    """Returns the shape, with None for any number of rows per example."""
    return (len(array), None, *array.values.shape[1:]) if isinstance(array, Ragged) else array.shape


def _not_finite(found: Arrays) -> int:
    """Returns the number of examples with a NaN or infinite output."""
    bad = np.zeros(ragged.count(found), np.bool_)
    for array in found.values():
        if isinstance(array, Ragged):
            bad |= [not np.isfinite(rows).all() for rows in array]
        else:
            bad |= ~np.isfinite(array).reshape(len(array), -1).all(axis=-1)
    return int(bad.sum())


def hardly_varies(learnt: Learnt, expected: Arrays, scale: float) -> float | None:
    """Returns how much Keras's outputs differ if that is too little to prove anything (or NaN), else None."""
    with np.errstate(invalid="ignore"):  # NaN is reported
        spread = learnt.comparison.spread(expected)
    return None if spread > LEAST_SPREAD * scale and math.isfinite(spread) else spread

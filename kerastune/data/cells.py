"""Reads typed cells, by one rule for CSV, JSON Lines, Parquet, TFDS and `search`.

- Missing: null, NaN, and a text that is empty or has only spaces.
- A text is read unchanged, and bytes as UTF-8; the caller strips surrounding spaces.
- A number in place of a text becomes its shortest form, so 1 and 1.0 are "1" and 0.5 is "0.5"; booleans become "true"
  and "false".
- A list is several labels, if several are allowed.
- Everything else is refused with its type: lists and objects, bytes that are not UTF-8, half a character, times.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from kerastune.data.source import Problem
from kerastune.errors import quoted, shortened

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A cell of an unsupported type, such as a time, with the type's name in its file."""

    kind: str
    why: str = ""


def plain(cell: Any) -> Any:
    """Returns a cell without NumPy's types; None if it is missing."""
    if isinstance(cell, np.generic | np.ndarray):
        cell = cell.tolist()
    is_nan = isinstance(cell, float | Decimal) and math.isnan(cell)
    return None if is_nan or (isinstance(cell, str | bytes) and not cell.strip()) else cell


def kind(cell: Any) -> str:
    """Returns the type of a cell, in words."""
    if isinstance(cell, Foreign):
        return cell.kind
    return next((word for types, word in _KINDS if isinstance(cell, types)), type(cell).__name__)


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "truth value"),
    (int, "whole number"),
    (float | Decimal, "number"),
    (str, "text"),
    (bytes | bytearray, "bytes"),
    (list | tuple, "list"),
    (dict, "object"),
)


def text(cell: Any, what: str) -> str | Problem:
    """Reads a cell as a text, including spaces. Returns the text, or what is wrong with it.

    Args:
        what: name of the cell in messages: "label".
    """
    cell = plain(cell)
    if cell is None:
        return Problem("", f"has no {what}")
    if isinstance(cell, bytes | bytearray):
        try:
            cell = bytes(cell).decode()
        except UnicodeDecodeError as error:
            return Problem("", f"the {what} is bytes that are not UTF-8 (byte {cell[error.start]:#04x})")
    if isinstance(cell, str):
        half = next((c for c in cell if "\ud800" <= c <= "\udfff"), None)
        return cell if half is None else Problem("", f"the {what} holds half a character ({half!a})")
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int | float | Decimal):
        is_finite = isinstance(cell, int) or math.isfinite(cell)  # a whole number may be too large for a float
        return _decimal(cell) if is_finite else Problem("", f"the {what} is {cell}, no finite number")
    if isinstance(cell, Foreign) and cell.why:
        return Problem("", f"the {what} is a {cell.kind} that cannot be read: {shortened(cell.why)}")
    value = "" if isinstance(cell, Foreign) else f" ({quoted(cell)})"
    return Problem("", f"the {what} is of type {kind(cell)}{value}, which is not read as a text")


def _decimal(number: int | float | Decimal) -> str:
    """Returns the shortest text of a number, without a decimal point for whole numbers."""
    if number == (whole := int(number)) and abs(whole) < 2**63:
        return str(whole)
    return format(number.normalize(), "f") if isinstance(number, Decimal) else repr(number)


def number(cell: Any, what: str) -> float | Problem:
    """Reads a cell as a finite number within float32. Returns the number, or what is wrong with it."""
    given = text(cell, what)
    if isinstance(given, Problem):
        return given
    if isinstance(plain(cell), bool):
        return Problem("", f"the {what} is {quoted(given)}, which is no number")
    try:
        found = float(given.replace("_", "?"))  # Python would accept 1_000
    except ValueError:
        return Problem("", f"the {what} is {quoted(given)}, which is no number")
    if not math.isfinite(found):
        return Problem("", f"the {what} is {shortened(given)}, which is no finite number")
    if abs(found) > _LARGEST:
        return Problem("", f"the {what} is {shortened(given)}, which is too large for a float32")
    return found


def texts(cell: Any, separator: str | None, what: str) -> tuple[str, ...] | Problem:
    """Returns the distinct texts in a cell, sorted: of a list, or between separators; none if it is missing."""
    cell = plain(cell)
    if cell is None:
        return ()
    if not isinstance(cell, list | tuple):
        given = text(cell, what)
        if isinstance(given, Problem):
            return given
        return tuple(sorted({part.strip() for part in given.split(separator) if part.strip()}))
    found = [text(one, what) for one in cell]
    problem = next((one for one in found if isinstance(one, Problem)), None)
    return problem or tuple(sorted({one.strip() for one in found if isinstance(one, str)}))

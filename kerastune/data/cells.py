"""What a typed cell says: one rule for CSV, JSON Lines, Parquet, TFDS and `search`.

- Missing: null, NaN, and a text that is empty or holds spaces alone.
- A text is read as it is, and bytes as UTF-8; who takes it removes the spaces around it.
- A number where a text is wanted is its shortest form, so 1 and 1.0 are "1" and 0.5 is "0.5"; truth values are "true"
  and "false".
- A list is several labels, where several are asked for.
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
    """A cell of a type that is not read, such as a time, by the name that its file gives to the type."""

    kind: str
    why: str = ""


def plain(cell: Any) -> Any:
    """A cell without NumPy's types; None where it is missing."""
    if isinstance(cell, np.generic | np.ndarray):
        cell = cell.tolist()
    is_nan = isinstance(cell, float | Decimal) and math.isnan(cell)
    return None if is_nan or (isinstance(cell, str | bytes) and not cell.strip()) else cell


def kind(cell: Any) -> str:
    """The type of a cell, in words."""
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
    """A cell as a text, spaces included; or what is wrong with it.

    Args:
        what: the cell in words: "label".
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
        return _decimal(cell) if math.isfinite(cell) else Problem("", f"the {what} is {cell}, no finite number")
    if isinstance(cell, Foreign) and cell.why:
        return Problem("", f"the {what} is a {cell.kind} that cannot be read: {shortened(cell.why)}")
    value = "" if isinstance(cell, Foreign) else f" ({quoted(cell)})"
    return Problem("", f"the {what} is of type {kind(cell)}{value}, which is not read as a text")


def _decimal(number: int | float | Decimal) -> str:
    """The shortest text of a number; whole ones have no decimal point."""
    if number == (whole := int(number)) and abs(whole) < 2**63:
        return str(whole)
    return format(number.normalize(), "f") if isinstance(number, Decimal) else repr(number)


def number(cell: Any, what: str) -> float | Problem:
    """A cell as a finite number that float32 holds; or what is wrong with it."""
    given = text(cell, what)
    if isinstance(given, Problem):
        return given
    if isinstance(plain(cell), bool):
        return Problem("", f"the {what} is {given!r}, which is no number")
    try:
        found = float(given.replace("_", "?"))  # Python alone reads 1_000
    except ValueError:
        return Problem("", f"the {what} is {quoted(given)}, which is no number")
    if not math.isfinite(found):
        return Problem("", f"the {what} is {shortened(given)}, which is no finite number")
    if abs(found) > _LARGEST:
        return Problem("", f"the {what} is {shortened(given)}, which is too large for a float32")
    return found


def texts(cell: Any, separator: str | None, what: str) -> tuple[str, ...] | Problem:
    """The texts in a cell, sorted, each once: those of a list, or those between separators; none if it is missing."""
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

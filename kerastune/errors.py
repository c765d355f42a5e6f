"""Errors, and the exit code of each kind.

    KerastuneError          1  a mistake the user can mend
    ├── RecipeError         1  the recipe: unknown key, wrong type, impossible value
    ├── DataError           1  the data: unreadable files, one class, labels without a file
    ├── AssetError          1  weights or sample data that are not there, or not what was pinned
    ├── VerificationError   3  an artifact that does not compute what was trained; a frozen weight that moved
    └── ConverterError      4  a converter, a runtime or the machine failed

Click owns 2 (usage). Anything else that escapes is a bug of ours and keeps its traceback.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class KerastuneError(Exception):
    """Something a user can read and act on.

    Args:
        message: what happened, with the received value and the file.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class RecipeError(KerastuneError):
    """The recipe cannot be found, read or obeyed."""


class DataError(KerastuneError):
    """The data cannot be read right, or are not enough to learn from."""


class AssetError(KerastuneError):
    """Pretrained weights or sample data are missing, unreachable or not as pinned."""


class VerificationError(KerastuneError):
    """A proof failed: nothing may be called done."""

    exit_code = 3


class ConverterError(KerastuneError):
    """A converter, a runtime or the machine failed; the recipe may be right."""

    exit_code = 4


_LONGEST = 100  # characters of a value that a message repeats
_MOST = 50  # entries of a list that a message repeats


def quoted(value: object) -> str:
    """A received value as Python writes it, cut where it is long."""
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; a list that nests without end
        return "a value that is too large to print"


def shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def listed(problems: Sequence[T], words: Callable[[T], object] = str) -> str:
    """The first problems in words, one a line, and how many more there are."""
    lines = [f"  {words(problem)}" for problem in problems[:_MOST]]
    more = len(problems) - _MOST
    return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)


def printable(text: str) -> str:
    """File names and labels are other people's: line breaks and escape sequences in them must not reach a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

"""Errors, and the exit code of each kind.

    KerastuneError          1  a mistake the user can fix
    ├── RecipeError         1  the recipe: unknown key, wrong type, impossible value
    ├── DataError           1  the data: unreadable files, one class, labels without a file
    ├── AssetError          1  weights or sample data that are missing, or do not match their pin
    ├── VerificationError   3  an artifact that does not compute what was trained; a frozen weight that changed
    └── ConverterError      4  a converter, a runtime or the machine failed

Click owns 2 (usage). Any other exception is a bug and keeps its traceback.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells."""


class KerastuneError(Exception):
    """An error that a user can understand and fix.

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
    """The recipe cannot be found, read or followed."""


class DataError(KerastuneError):
    """The data cannot be read correctly, or are not enough to learn from."""


class AssetError(KerastuneError):
    """Pretrained weights or sample data are missing, unreachable or do not match their pin."""


class VerificationError(KerastuneError):
    """A proof failed, so the work is not done."""

    exit_code = 3


class ConverterError(KerastuneError):
    """A converter, a runtime or the machine failed; the recipe may be right."""

    exit_code = 4


_LONGEST = 100  # characters of a value in a message
_MOST = 50  # entries of a list in a message
_LONGEST_LINE, _LONGEST_LIST = 1000, 3000  # characters of one of its lines, and of all


def quoted(value: object) -> str:
    """Returns a received value as Python writes it, shortened."""
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; an infinitely nested list
        return "a value that is too large to print"


def shortened(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def listed(problems: Sequence[T], words: Callable[[T], object] = str) -> str:
    """Returns the first problems, one per line, and the number of others."""
    lines, size = list[str](), 0
    for problem in problems[:_MOST]:
        line = f"  {shortened(str(words(problem)), _LONGEST_LINE)}"
        size += len(line)
        if lines and size > _LONGEST_LIST:
            break
        lines.append(line)
    more = len(problems) - len(lines)
    return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)


def command(*words: object) -> str:
    """Returns a command as a user would type it, quoted for a shell."""
    return shlex.join(map(str, words))


def printable(text: str) -> str:
    """Escapes line breaks and control characters in names, so that they do not reach a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

"""The contract of a modality."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
from markupsafe import Markup

from kerastune import files
from kerastune.errors import DataError

Example: TypeAlias = npt.NDArray[Any]
"""A decoded example: an image, uint8 [H, W, 3]; one text or a pair, str [1 or 2]; a conversation, str [T, 2]; a sound,
float32 [n]."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of checking an example: why it cannot be read, or what was corrected to read it."""

    problem: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """Examples from the command line: their names, and the examples, read on demand."""

    names: list[str]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Stored:
    """How examples of a kind are stored, one in each file.

    Attributes:
        extensions: of files that can be read, in lower case without the dot.
        foreign: extensions of files that hold such examples and cannot be read.
        convert: what to convert them to: "jpg or png".
        largest: bytes of the largest file that is read.
        cut: (bytes of a file, start, end or None) -> the part between these seconds as a file; raises ValueError for
            bytes that `check` refuses, and for parts that are not there. None if an example has no length in time.
        marked: (bytes of a file, its name) -> the bytes so that they tell its format, where the name alone does.
        longer: (bytes of a file, seconds) -> whether it lasts longer; None if an example has no length in time.
    """

    extensions: tuple[str, ...]
    foreign: tuple[str, ...]
    convert: str
    largest: int
    cut: Callable[[bytes, float, float | None], bytes] | None = None
    longer: Callable[[bytes, float], bool] | None = None
    marked: Callable[[bytes, str], bytes] = lambda data, name: data

    def read(self, path: str, one: str) -> bytes:
        """Returns a file's bytes, which tell its format; raises OSError.

        Args:
            one: the kind of example with its article.
        """
        return self.marked(files.read_bounded(path, self.largest, one), path)


@dataclass(frozen=True)
class Modality:
    """A kind of example.

    Attributes:
        name: the word in messages, manifests and counts: "image".
        plural: "images".
        one: the word with its article: "an image".
        check: (bytes, id) -> a report of whether the example can be read; thread-safe.
        decode: bytes -> the example; raises ValueError for bytes that `check` refuses.
        is_one: whether an array of unknown origin has the dtype and the shape of an example.
        preview: (example, alternative text) -> HTML for a report; all external text in it is escaped.
        ask: (arguments, texts per example) -> the examples they name; raises DataError with every problem at once.
        asked_as: an argument in usage lines and reports: "photo.jpg".
        is_picture: whether a report lays out previews in a grid instead of one per row.
        readers: files of export/ that ship with an artifact, in addition to the target's own reader.
        packages: pip packages that these readers need, besides numpy.
        encode: example -> a file, which some devices take; None if there are no such files.
        question: example -> the example without its answer.
        stored: how its examples are stored in files; None if they are texts in a table.
        parts: (asked examples, size) -> the same, each that is longer than this size as several, with their places in
            their names; None if examples have no length.
        missing: returns why this installation cannot read such examples, with the command that helps; None if it can.
        hear: seconds -> what a microphone hears; raises DataError without one. None if examples are no sounds.
    """

    name: str
    plural: str
    one: str
    check: Callable[[bytes, str], Report]
    decode: Callable[[bytes], Example]
    is_one: Callable[[npt.NDArray[Any]], bool]
    preview: Callable[[Example, str], Markup]
    ask: Callable[[Sequence[str | Path], int], Asked]
    asked_as: str
    is_picture: bool
    readers: tuple[str, ...]
    packages: tuple[str, ...]
    encode: Callable[[Example], bytes] | None = None
    question: Callable[[Example], Example] = lambda example: example
    stored: Stored | None = None
    parts: Callable[[Asked, int], Asked] | None = None
    missing: Callable[[], str | None] = lambda: None
    hear: Callable[[float], Asked] | None = None

    def require(self) -> None:
        """Raises DataError where this installation cannot read such examples."""
        if why := self.missing():
            raise DataError(f"{why[0].upper()}{why[1:]}")

"""The contract of a source: a list of examples, a function that reads them, and problems."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kerastune import assets
from kerastune.errors import DataError, printable, shortened

SPLITS = ("train", "validation", "test")
KNOWN = "known"
"""The split of examples that training never saw, of labels that it did; test then has labels that it never saw."""

Progress = Callable[[str, int, int], None]  # stage, done, total (0: unknown)


@dataclass(frozen=True, slots=True)
class Outlined:
    """A label with the outline of what it names.

    Attributes:
        outline: a mask in text: base64 of the zlib-compressed bits of a square, row by row.
    """

    label: str
    outline: str


@dataclass(frozen=True, slots=True)
class Box:
    """What is seen in a rectangle of a picture, in its pixels: x from `left` to `right`, y from `top` to `bottom`."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False  # a group, which may be found once, often or not at all


@dataclass(frozen=True, slots=True)
class Boxed:
    """Everything to be found in a picture, and the size of the picture in pixels."""

    boxes: tuple[Box, ...]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Masked:
    """The class of each pixel.

    Attributes:
        labels: the classes on it.
        mask: as `kerastune.data.masks.packed` has it.
    """

    labels: tuple[str, ...]
    mask: bytes

    def __repr__(self) -> str:
        return f"Masked({hashlib.sha256(self.mask).hexdigest()})"


@dataclass(frozen=True, slots=True)
class Said:
    """What is said in a sound."""

    text: str


Label = str | tuple[str, ...] | float | Outlined | Boxed | Masked | Said
"""An example's ground truth: one label, several, a number, a label with a mask, boxes, a mask of labels, or what is
said; () for language models, whose text is the target."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image or text of a source; its bytes are read later, one at a time."""

    id: str
    label: Label
    split: str | None = None  # "train", "validation", "test", or None if the source does not declare it
    group: str | None = None  # examples of one group stay in one split
    trains: bool = True  # False: never in train; if undeclared, in validation or test


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that stops the run, or is left out with `skip_bad`."""

    id: str  # what a user looks for: a file, a line, a label
    text: str

    def __str__(self) -> str:
        return f"{self.id}: {self.text}"


@dataclass(frozen=True)
class Source:
    """Everything known about a source before opening an example."""

    where: str  # names the source in messages
    examples: Sequence[Example]
    read: Callable[[int], bytes]  # an encoded image, or a JSON list of texts or messages; thread-safe
    labels: tuple[str, ...] | None = None  # the order of the labels; None: by name
    colors: tuple[str, ...] = ()  # of the labels in this order, such as "#ff8000"; none: they have none
    mendable: bool = True  # False: curated data that a user cannot change
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def inside(path: str, folder: str) -> bool:
    """Returns whether a normalised path lies below a folder; paths in data must stay inside theirs."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def unreachable(path: str, full: str, root: str, real_root: str) -> str | None:
    """Returns why a path in a file of labels names no file inside the folder of examples, or None.

    Args:
        full: the path, normalised, below `root`.
        real_root: `root` with links resolved.
    """
    if not path:
        return "has no image path"
    if "\0" in path:
        return f"{named(path)} holds a NUL character, which paths cannot contain"
    if not inside(full, root):
        return f"{named(path)} leads outside {named(root)}; paths in data stay inside their folder"
    if not os.path.isfile(full):
        backslashes = "; folders are separated by /" if "\\" in path else ""
        return f"{named(path)} is not there{backslashes}"
    if not inside(os.path.realpath(full), real_root):
        return f"{named(path)} is a link that leads outside {named(root)}"
    return None


_LONGEST_PATH = 300  # characters in a message; systems take 4096


def named(path: str) -> str:
    """Returns a path or name for messages: printable, and cut."""
    return shortened(printable(path), _LONGEST_PATH)


def relative(path: str, folder: str) -> str:
    """Returns an example's id: its path inside the data folder, with slashes, printable."""
    return printable(path[len(folder) :].lstrip(os.sep).replace(os.sep, "/"))


def asset_folder(name: str) -> str:
    """Returns the folder of a data set among the assets.

    Raises:
        DataError: it is not fetched.
    """
    if not assets.is_fetched(name):
        raise DataError(f"The asset {name!r} is not on this machine yet.", f"kerastune assets fetch {name}")
    return str(assets.path(name))


def located(path: str) -> str:
    """Returns the path of a file, which may be in an asset: NAME/FILE.

    Raises:
        DataError: the asset is not fetched.
    """
    name, _, inside = path.partition("/")
    return os.path.join(asset_folder(name), inside) if inside and name in assets.ASSETS else path


def counted(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def some(ids: Sequence[str], most: int = 3) -> str:
    """Returns the first of many, for a one-line note."""
    return ", ".join(ids[:most]) + (", …" if len(ids) > most else "")

"""Kinds of ground truth, one row each. `kerastune.tasks.learnt` has the outputs that are learnt from them."""

import base64
import hashlib
import json
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kerastune.data import cells, masks, ragged
from kerastune.data.source import Boxed, Label, Masked, Outlined, Problem, Said
from kerastune.errors import quoted

Names = tuple[str, ...]
Array: TypeAlias = Any  # npt.NDArray or `ragged.Ragged`: one row, or one list of rows, for each example
Read = Callable[[int], bytes]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """A row of `TRUTHS`.

    Attributes:
        name: its name in settings.
        parse: (cell, separator between several) -> the label, or what is wrong with the cell.
        word: the word in messages: "label".
        names: an example's truth -> its label names; none if the truth is something else.
        ordered: (the source's order, names that occur) -> the labels of the data, in the order of the outputs.
        array: (examples' truths, labels of the data, contents) -> the truth of a split.
        classes: the truth of a split -> the class of each example, int64 [n], for selections spread over classes.
        counts: (labels of the data, truth of a split) -> number of examples by label.
        place: (digest, content) -> the hash that decides the split of an example.
        together: number of examples of one class needed to judge any of them.
        differ: whether one example can have two truths.
        repeats: whether to keep an exact copy in the same split.
        unseen: whether labels may occur only outside training.
        least: (ids, truths) -> the number of distinct ones in a split, and their word; None: one example is enough.
        pairless: truths -> why a split cannot be judged although it has enough examples, or None.
        alone: whether all examples may have one label, and a label one example.
    """

    name: str
    parse: Callable[[Any, str | None], Label | Problem]
    word: str
    names: Callable[[Label], Names]
    ordered: Callable[[Names | None, Names], Names]
    array: Callable[[Sequence[Label], Names, Iterable[Callable[[], bytes]]], Array]
    classes: Callable[[Array], Ints]
    counts: Callable[[Names, Array], dict[str, int]]
    place: Callable[[str, Callable[[], bytes]], str] = lambda digest, content: digest
    together: int = 1
    differ: bool = False
    repeats: bool = True
    unseen: bool = False
    least: Callable[[Sequence[str], Sequence[Label]], tuple[int, str] | None] = lambda ids, given: None
    pairless: Callable[[Sequence[Label]], str | None] = lambda given: None
    alone: bool = False


def _text(value: Any, separator: str | None) -> Label | Problem:
    if isinstance(value, list | tuple | np.ndarray):
        return Problem("", f"the label is a list ({quoted(value)}), not one label; data.label_separator reads several")
    return cells.text(value, "label")


def _set(value: Any, separator: str | None) -> Label | Problem:
    return cells.texts(value, separator, "label")


def _number(value: Any, separator: str | None) -> Label | Problem:
    return cells.number(value, "label")


def _score(value: Any, separator: str | None) -> Label | Problem:
    return cells.number(value, "score")


def _unsaid(value: Any, separator: str | None) -> Label | Problem:
    return ()


def _one(label: Label) -> Names:
    return (str(label),)


def _several(label: Label) -> Names:
    return label if isinstance(label, tuple) else (str(label),)


def _none(label: Label) -> Names:
    return ()


def _present(order: Names | None, present: Names) -> Names:
    return tuple(label for label in order or present if label in set(present))


def _given(order: Names | None, present: Names) -> Names:
    return order or ()


def _indices(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    number = {label: n for n, label in enumerate(labels)}
    return np.array([number[str(label)] for label in given], np.int64)


def _sets(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    number = {label: n for n, label in enumerate(labels)}
    found = np.zeros((len(given), len(labels)), np.float32)
    for row, names in zip(found, map(_several, given), strict=True):
        row[[number[name] for name in names if name in number]] = 1
    return found


def _numbers(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    return np.array(given, np.float32).reshape(-1, 1)


def _nothing(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    return np.zeros((len(given), 1), np.float32)  # the truth is in the example itself


def _numbered(given: Sequence[Label], labels: Names, contents: Iterable[Callable[[], bytes]]) -> Array:
    """Numbers the text of each side of each pair from 0, int64 [n, sides]; equal texts have the same number."""
    known: dict[str, int] = {}
    return np.array(
        [[known.setdefault(text, len(known)) for text in json.loads(read())] for read in contents], np.int64
    )


OUTLINE = 128
"""Rows and columns of an outline, whatever the size of its picture."""

KINDS = np.dtype([("kind", np.int64), ("outline", np.uint8, (OUTLINE * OUTLINE // 8,))])
"""The truth of one picture: the number of its label, 0 for good, and its outline in bits, all 0 if there is none."""


def outline(mask: Array) -> str:
    """Returns a mask, bool [OUTLINE, OUTLINE], as a label holds it."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def outlines(truth: Array) -> Array:
    """Returns the masks of some pictures, bool [n, OUTLINE, OUTLINE]."""
    return np.unpackbits(truth["outline"], axis=1).astype(bool).reshape(-1, OUTLINE, OUTLINE)


def _kind(label: Label) -> Names:
    return (label.label if isinstance(label, Outlined) else str(label),)


def _kinds(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    number = {label: n for n, label in enumerate(labels)}
    found = np.zeros(len(given), KINDS)
    for row, label in zip(found, given, strict=True):
        row["kind"] = number[_kind(label)[0]]
        if isinstance(label, Outlined):
            row["outline"] = np.frombuffer(zlib.decompress(base64.b64decode(label.outline)), np.uint8)
    return found


BOX = np.dtype([("label", np.int64), ("corners", np.float32, (4,)), ("crowd", np.bool_)])
"""A row of the truth of a picture. `corners` are x1, y1, x2, y2 in its pixels. The first row is the picture itself,
with the label -1 and the corners 0, 0, width, height; one more follows for each box."""


def _boxed(label: Label) -> Names:
    assert isinstance(label, Boxed)
    return tuple(sorted({box.label for box in label.boxes}))


def _boxes(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    number, rows = {label: n for n, label in enumerate(labels)}, []
    for label in given:
        assert isinstance(label, Boxed)
        found = [(-1, (0.0, 0.0, float(label.width), float(label.height)), False)]
        found += [(number[b.label], (b.left, b.top, b.right, b.bottom), b.crowd) for b in label.boxes]
        rows.append(np.array(found, BOX))
    return ragged.of_rows(rows, np.zeros(0, BOX))


def _first_box(truth: Array) -> Ints:
    """Groups pictures by the label of their first box; those without boxes are a class of their own, 0."""
    return np.array([rows["label"][1] + 1 if len(rows) > 1 else 0 for rows in truth], np.int64)


def _by_picture(labels: Names, truth: Array) -> dict[str, int]:
    found = np.zeros(len(labels), np.int64)
    for rows in truth:
        found[np.unique(rows["label"][1:])] += 1
    return dict(zip(labels, found.tolist(), strict=True))


def _boxless(given: Sequence[Label]) -> str | None:
    there = any(isinstance(label, Boxed) and label.boxes for label in given)
    return None if there else "no picture with a box, so there is nothing to find"


def _on_mask(label: Label) -> Names:
    assert isinstance(label, Masked)
    return label.labels


def _masks(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    return masks.joined([label.mask for label in given if isinstance(label, Masked)])


def _rarest(truth: Array) -> Ints:
    """Groups masks by the class on them that the fewest masks have."""
    there = masks.present(truth)
    counts = np.where(there, there.sum(axis=0), len(there) + 1)
    return np.asarray(np.argmin(counts, axis=1), np.int64)


def _by_mask(labels: Names, truth: Array) -> dict[str, int]:
    return dict(zip(labels, masks.present(truth)[:, : len(labels)].sum(axis=0).tolist(), strict=True))


def _said(value: Any, separator: str | None) -> Label | Problem:
    text = cells.text(value, "transcript")
    if isinstance(text, Problem):
        return text
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return Said(words) if words else Problem("", "the transcript is empty; leave out sounds without speech")


def _transcripts(given: Sequence[Label], labels: Names, contents: Any) -> Array:
    return np.array([label.text for label in given if isinstance(label, Said)], np.str_)


def _by_length(truth: Array) -> Ints:
    """Groups each tenth of the transcripts, by length, into one class."""
    return np.argsort(np.argsort(np.char.str_len(truth), kind="stable")) * 10 // max(len(truth), 1)


def _rows(truth: Array) -> Ints:
    """Groups equal rows into one class."""
    return np.unique(truth, axis=0, return_inverse=True)[1].reshape(-1)


def _tenths(truth: Array) -> Ints:
    """Groups each tenth of the numbers into one class."""
    return np.argsort(np.argsort(truth[:, 0], kind="stable")) * 10 // max(len(truth), 1)


def _by_index(labels: Names, truth: Array) -> dict[str, int]:
    return dict(zip(labels, np.bincount(truth, minlength=len(labels)).tolist(), strict=True))


def _by_set(labels: Names, truth: Array) -> dict[str, int]:
    return {label: int(count) for label, count in zip(labels, truth.sum(0), strict=True)}


def _all(labels: Names, truth: Array) -> dict[str, int]:
    return {labels[0]: len(truth)}


def _by_first_text(digest: str, content: Callable[[], bytes]) -> str:
    """Keeps everything that belongs to one text in one split."""
    return hashlib.sha256(json.loads(content())[0].encode("utf-8", "surrogatepass")).hexdigest()


def _labels(ids: Sequence[str], given: Sequence[Label]) -> tuple[int, str]:
    return len({name for label in given for name in _several(label)}), "label"


def _values(ids: Sequence[str], given: Sequence[Label]) -> tuple[int, str]:
    return len({str(label) for label in given}), "different number"


def _lines(ids: Sequence[str], given: Sequence[Label]) -> tuple[int, str]:
    return len(set(ids)), "pair"


def _no_two(given: Sequence[Label]) -> str | None:
    return None if len(set(given)) < len(given) else "no two texts with the same label, so there is nothing to find"


LABEL = Truth("label", _text, "label", _one, _present, _indices, _rows, _by_index, least=_labels)
LABELS = Truth("labels", _set, "label", _several, _present, _sets, _rows, _by_set, least=_labels)
NUMBER = Truth("number", _number, "number", _none, _given, _numbers, _tenths, _all, differ=True, least=_values)
SCORES = Truth("scores", _score, "number", _none, _given, _numbers, _tenths, _all, differ=True, least=_values)
TEXT = Truth("text", _unsaid, "label", _none, _given, _nothing, _tenths, _all)
PAIRS = Truth(
    "pairs", _unsaid, "label", _none, _given, _numbered, _rows, _all, place=_by_first_text, repeats=False, least=_lines
)
GROUPS = Truth(
    "groups",
    _text,
    "label",
    _one,
    _present,
    _indices,
    _rows,
    _by_index,
    together=2,
    repeats=False,
    unseen=True,
    least=_labels,
    pairless=_no_two,
)

DEFECTS = Truth(
    "defects",
    _text,
    "label",
    _kind,
    _present,
    _kinds,
    lambda truth: truth["kind"],
    lambda labels, truth: _by_index(labels, truth["kind"]),
    unseen=True,
    alone=True,
)

BOXES = Truth(
    "boxes",
    _unsaid,
    "set of boxes",
    _boxed,
    _present,
    _boxes,
    _first_box,
    _by_picture,
    pairless=_boxless,
    alone=True,
)

MASK = Truth("mask", _unsaid, "mask", _on_mask, _given, _masks, _rarest, _by_mask, unseen=True, alone=True)

TRANSCRIPT = Truth("transcript", _said, "transcript", _none, _given, _transcripts, _by_length, _all)
"""What is said in a sound; the truth of a split is str [n]."""

TRUTHS: dict[str, Truth] = {
    one.name: one for one in (LABEL, LABELS, NUMBER, SCORES, TEXT, PAIRS, GROUPS, DEFECTS, BOXES, MASK, TRANSCRIPT)
}

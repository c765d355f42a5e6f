"""Data: one module a source, and the rules that hold for all of them.

`load` reads every example once, refuses what cannot be read right, and splits by content: a file's split
depends on its bytes alone, so a new file moves no other, and copies of one image never sit in two splits.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data.order import Order
from kerastune.data.source import SPLITS, Label, Problem, Progress, Source, counted, some
from kerastune.data.sources import chat, csv, folder, table, tfds
from kerastune.errors import DataError, listed, printable
from kerastune.modalities import MODALITIES, Example, Modality, Report
from kerastune.recipe import Data

__all__ = ["SOURCES", "Order", "Progress", "Split", "Splits", "few", "load", "spread"]

SOURCES: dict[str, Callable[[Any, Progress], Source]] = {
    "folder": folder.examples,
    "csv": csv.examples,
    "table": table.examples,
    "chat": chat.examples,
    "tfds": tfds.examples,
}
"""What reads a source, by the name that its settings give as `reader`."""

_BLOCK = 512  # examples between two calls of `progress`
_PART = 16  # examples a thread takes at a time


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, validation and test."""

    ids: tuple[str, ...]  # what a user recognises: a path inside the data folder, a line, or "train[123]"
    digests: tuple[str, ...]  # sha256 of the encoded bytes
    labels: npt.NDArray[Any]  # int64 [n], index into Splits.labels; float32 [n, K] of 0 and 1; float32 [n, 1]; or of
    # pairs int64 [n, sides], which of the split's texts each is
    read: Callable[[int], bytes]  # an encoded image, or a JSON list of texts or messages; thread-safe
    modality: Modality

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, i: int) -> Example:
        """An example as its modality decodes it."""
        return self.modality.decode(self.read(i))


@dataclass(frozen=True)
class Splits:
    """Data to train on, to choose by and to test with; nothing is in two of them."""

    labels: tuple[str, ...]  # where a number or a text is learnt, its name; of pairs "pairs"
    train: Split
    validation: Split
    test: Split
    fingerprint: str  # of (split, digest, label) in any order: the same for the same data anywhere
    notes: tuple[str, ...]  # what was read specially, left out or dropped, counted
    skipped: tuple[dict[str, str], ...]  # {"id", "problem"} of what skip_bad left out


def spread(split: Split, count: int, together: int = 1) -> list[int]:
    """Indices of up to `count` examples, `together` at a time taken from each class in turn, in a fixed order.

    A class is a label, a set of labels, or a tenth of the numbers. Classes with fewer than `together` come last.
    """
    labels = split.labels
    if labels.ndim > 1 and labels.shape[1] == 1:
        labels = np.argsort(np.argsort(labels[:, 0], kind="stable")) * 10 // len(labels)
    classes = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    rank = np.zeros(len(split), np.int64)  # an example's place within its class
    for label in range(classes.max(initial=-1) + 1):
        of_label = np.flatnonzero(classes == label)
        rank[of_label] = np.arange(len(of_label))
    is_small = np.bincount(classes)[classes] < together
    return [int(i) for i in np.lexsort((classes, rank // together, is_small))[:count]]


def few(split: Split, count: int, together: int = 1) -> Split:
    """Up to `count` examples of a split, spread over the labels as `spread` does."""
    chosen = spread(split, count, together)
    ids, digests = ([of[i] for i in chosen] for of in (split.ids, split.digests))
    return Split(tuple(ids), tuple(digests), split.labels[chosen], lambda i: split.read(chosen[i]), split.modality)


def load(settings: Data, progress: Progress | None = None) -> Splits:
    """Reads, checks and splits the data that a recipe names.

    Args:
        settings: the recipe's [data] table.
        progress: called with a stage, how many are done, and how many there are (0: not known).

    Raises:
        DataError: with every problem in one message, unless `skip_bad` leaves them out.
    """
    progress = progress or (lambda stage, done, total: None)
    draft = _Draft(settings, SOURCES[settings.reader](settings, progress))
    _require_two_labels(draft, chain.from_iterable(map(draft.labels, draft.alive)))
    _require_splits(draft, settings)
    _read_all(draft, progress)
    _refuse_two_labels_for_one_example(draft)
    _refuse_single_examples(draft)
    _assign(draft, settings)
    _part_copies(draft)
    _refuse_untrained(draft)
    if draft.problems and not settings.skip_bad:
        raise _everything_at_once(draft)
    _require_enough(draft, settings)
    return _build(draft)


@dataclass
class _Draft:
    """What is known so far; `alive` are the examples still in."""

    settings: Data
    source: Source
    alive: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alive = list(range(len(self.source.examples)))
        self.digests = [""] * len(self.alive)
        self.splits = [example.split or "" for example in self.source.examples]
        self.problems = list(self.source.problems)
        self.notes = list(self.source.notes)

    @property
    def modality(self) -> Modality:
        return MODALITIES[self.settings.modality]

    @property
    def unit(self) -> str:
        return self.modality.name

    @property
    def numbers(self) -> bool:
        return self.settings.target in ("number", "scores")

    @property
    def one(self) -> str:
        return self.modality.one

    def label(self, i: int) -> Label:
        return self.source.examples[i].label

    def labels(self, i: int) -> tuple[str, ...]:
        """The names that an example is given; none where it is given a number."""
        label = self.label(i)
        return label if isinstance(label, tuple) else (label,) if isinstance(label, str) else ()

    def id(self, i: int) -> str:
        return self.source.examples[i].id

    def declares(self, split: str) -> bool:
        return any(example.split == split for example in self.source.examples)

    def drop(self, gone: set[int]) -> None:
        self.alive = [i for i in self.alive if i not in gone]

    def by_label(self) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for i in self.alive:
            for label in self.labels(i):
                groups[label].append(i)
        return groups

    def labels_in(self, split: str) -> set[str]:
        return {label for i in self.alive if self.splits[i] == split for label in self.labels(i)}


# --- reading ------------------------------------------------------------------------------------------------


def _read_all(draft: _Draft, progress: Progress) -> None:
    """Hashes and checks every example, a block at a time."""
    remarks: dict[str, list[str]] = defaultdict(list)
    bad: set[int] = set()
    total = len(draft.alive)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow and hashlib release the GIL
        for start in range(0, total, _BLOCK):
            block = range(start, min(start + _BLOCK, total))
            parts = [block[at : at + _PART] for at in range(0, len(block), _PART)]
            checked = chain.from_iterable(pool.map(lambda part: [_check(draft, i) for i in part], parts))
            for i, (digest, report) in zip(block, checked, strict=True):
                draft.digests[i] = digest
                for remark in report.remarks:
                    remarks[remark].append(draft.id(i))
                if report.problem:
                    bad.add(i)
                    draft.problems.append(Problem(draft.id(i), report.problem))
            progress(f"checking {draft.unit}s", block.stop, total)
    draft.drop(bad)
    for remark, ids in sorted(remarks.items()):
        draft.notes.append(f"{counted(len(ids), draft.unit)}: {remark} ({some(ids)})")


def _check(draft: _Draft, i: int) -> tuple[str, Report]:
    try:
        data = draft.source.read(i)
    except OSError as error:
        return "", Report(problem=f"cannot be read: {error.strerror or error}")
    return hashlib.sha256(data).hexdigest(), draft.modality.check(data, draft.id(i))


# --- rules --------------------------------------------------------------------------------------------------


def _require_two_labels(draft: _Draft, labels: Iterable[str]) -> None:
    present = sorted(set(labels))
    if len(present) == 1:
        others = draft.problems
        beside = f"\nAnd {counted(len(others), 'problem')}:\n{listed(others)}" if others else ""
        raise DataError(
            f"Only one label in {draft.source.where}: {printable(present[0])!r}.{beside}",
            f"A classifier needs at least two labels with at least two {draft.unit}s each.",
        )


def _require_splits(draft: _Draft, settings: Data) -> None:
    for split, share, why in (
        ("test", settings.test_fraction, "the accuracy is measured there"),
        ("validation", settings.validation_fraction, "the best epoch is chosen there"),
    ):
        if share == 0 and not draft.declares(split):
            raise DataError(
                f"data.{split}_fraction = 0, and {draft.source.where} brings no {split} split.",
                f"Set data.{split}_fraction, for instance to 0.15: {why}.",
            )


def _refuse_two_labels_for_one_example(draft: _Draft) -> None:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in draft.alive:
        groups[draft.digests[i]].append(i)
    torn = [group for group in groups.values() if len({draft.label(i) for i in group}) > 1]
    if not torn:
        return
    unit, what = draft.unit, "number" if draft.numbers else "label"
    if not draft.source.mendable or what == "number":  # people who rate the same text differ
        ids = some([draft.id(group[0]) for group in torn])
        draft.notes.append(f"{counted(len(torn), unit)} under more than one {what} ({ids})")
        return
    for first, *others in torn:
        labels = len({draft.label(i) for i in (first, *others)})
        same = f"is the same {unit} as {draft.id(first)}: one {unit}, {labels} labels"
        draft.problems += [Problem(draft.id(i), same) for i in others]
    draft.drop({i for group in torn for i in group})


def _refuse_single_examples(draft: _Draft) -> None:
    singles = {label: members[0] for label, members in draft.by_label().items() if len(members) == 1}
    for label, i in singles.items():
        only = f"has one {draft.unit} that can be used ({draft.id(i)}); 2 are the least"
        draft.problems.append(Problem(f"label {printable(label)!r}", only))
    draft.drop(set(singles.values()))


def _assign(draft: _Draft, settings: Data) -> None:
    """Splits off from train, by content, what the source does not declare."""
    test = 0.0 if draft.declares("test") else settings.test_fraction
    validation = 0.0 if draft.declares("validation") else settings.validation_fraction
    for i in draft.alive:
        if draft.source.examples[i].split in (None, "train"):
            place = int(_decides(draft, i)[:16], 16) / 2**64
            draft.splits[i] = "test" if place < test else "validation" if place < test + validation else "train"


def _decides(draft: _Draft, i: int) -> str:
    """The hash that says which split an example goes to: of pairs that of the first text, so that all that belongs to
    it stays together."""
    if draft.settings.target != "pairs":
        return draft.digests[i]
    return hashlib.sha256(json.loads(draft.source.read(i))[0].encode("utf-8", "surrogatepass")).hexdigest()


def _part_copies(draft: _Draft) -> None:
    """Takes copies of test images out of validation and train, and of validation images out of train."""
    held: dict[str, str] = {}  # digest → the split that keeps it
    for wanted in reversed(SPLITS):
        held |= {
            draft.digests[i]: wanted for i in draft.alive if draft.splits[i] == wanted and draft.digests[i] not in held
        }
    gone = [i for i in draft.alive if held[draft.digests[i]] != draft.splits[i]]
    moves = Counter((draft.splits[i], held[draft.digests[i]]) for i in gone)
    for (split, other), count in sorted(moves.items()):
        draft.notes.append(f"{counted(count, draft.unit)} left out of {split}: exact copies of {other} {draft.unit}s")
    draft.drop(set(gone))
    first = {draft.digests[i]: i for i in reversed(draft.alive)}
    copies = len(draft.alive) - len(first)
    if copies and draft.settings.target in ("pairs", "groups"):  # a text that is there twice would find itself
        draft.drop(set(draft.alive) - set(first.values()))
        draft.notes.append(f"{counted(copies, 'exact copy', 'exact copies')} of another {draft.unit} left out")
    elif copies:
        draft.notes.append(f"{counted(copies, 'exact copy', 'exact copies')} of another {draft.unit} in the same split")


def _refuse_untrained(draft: _Draft) -> None:
    if draft.settings.target == "groups":  # vectors are of labels that training has not seen, too
        return
    trained = draft.labels_in("train")
    untrained = {label: members for label, members in draft.by_label().items() if label not in trained}
    for label, members in untrained.items():
        where = " and ".join(sorted({draft.splits[i] for i in members}))
        ids = f"{counted(len(members), draft.unit)} ({some([draft.id(i) for i in members])})"
        draft.problems.append(
            Problem(f"label {printable(label)!r}", f"has no training {draft.unit}; in {where}: {ids}")
        )
    draft.drop({i for members in untrained.values() for i in members})


def _require_enough(draft: _Draft, settings: Data) -> None:
    labels = draft.by_label()
    if not draft.alive:
        raise DataError(f"No usable {draft.unit} is left in {draft.source.where}.", listed(draft.problems))
    _require_two_labels(draft, labels)
    if draft.settings.target == "text":
        _require_texts(draft, settings)
        return
    for split in ("validation", "test"):
        members = [i for i in draft.alive if draft.splits[i] == split]
        present, what = draft.labels_in(split), "label"
        if draft.numbers:
            present, what = {str(draft.label(i)) for i in members}, "different number"
        elif draft.settings.target == "pairs":
            present, what = {draft.id(i) for i in members}, "pair"
        if len(present) < 2:
            raise DataError(
                f"The {split} split of {draft.source.where} holds {counted(len(members), draft.unit)} of "
                f"{counted(len(present), what)}: too few to measure anything.",
                _cure(draft, settings, split),
            )
        if draft.settings.target == "groups" and len(present) == len(members):
            raise DataError(
                f"The {split} split of {draft.source.where} holds no two texts of one label: there is nothing to find.",
                _cure(draft, settings, split),
            )
        missing = [repr(printable(label)) for label in sorted(labels) if label not in present]
        if missing:
            draft.notes.append(f"{counted(len(missing), 'label')} without {draft.one} in {split}: {some(missing)}")


def _require_texts(draft: _Draft, settings: Data) -> None:
    for split in SPLITS:
        if not any(draft.splits[i] == split for i in draft.alive):
            cure = f"Add {draft.unit}s." if split == "train" else _cure(draft, settings, split)
            raise DataError(f"The {split} split of {draft.source.where} holds no {draft.unit}.", cure)


def _cure(draft: _Draft, settings: Data, split: str) -> str:
    if draft.declares(split):
        of = "" if draft.settings.target == "text" else " of other labels"
        return f"Add {draft.unit}s{of} to {split}, or name a larger slice of the data."
    share = getattr(settings, f"{split}_fraction")
    return f"Add {draft.unit}s, or raise data.{split}_fraction = {share:g}."


def _everything_at_once(draft: _Draft) -> DataError:
    return DataError(
        f"{counted(len(draft.problems), 'problem')} in {draft.source.where}:\n{listed(draft.problems)}",
        "Mend or remove them; or set data.skip_bad = true to leave them out (run.json then lists them).",
    )


# --- building -----------------------------------------------------------------------------------------------


def _build(draft: _Draft) -> Splits:
    present = set(draft.by_label())
    order = draft.source.labels or tuple(sorted(present))
    is_named = draft.numbers or draft.settings.target in ("pairs", "text")
    labels = order if is_named else tuple(label for label in order if label in present)
    if unused := len(order) - len(labels):
        draft.notes.append(f"{counted(unused, 'label')} without {draft.one} left out")
    train, validation, test = (_split(draft, split, labels) for split in SPLITS)
    facts = sorted(f"{draft.splits[i]} {draft.digests[i]} {draft.label(i)!r}" for i in draft.alive)
    return Splits(
        labels=labels,
        train=train,
        validation=validation,
        test=test,
        fingerprint=hashlib.sha256("\n".join(facts).encode()).hexdigest(),
        notes=tuple(draft.notes),
        skipped=tuple({"id": problem.id, "problem": problem.text} for problem in draft.problems),
    )


def _split(draft: _Draft, split: str, labels: tuple[str, ...]) -> Split:
    members = [i for i in draft.alive if draft.splits[i] == split]
    read = draft.source.read
    target = draft.settings.target
    return Split(
        ids=tuple(draft.id(i) for i in members),
        digests=tuple(draft.digests[i] for i in members),
        labels=_numbered(read, members)
        if target == "pairs"
        else _targets([draft.label(i) for i in members], target, labels),
        read=lambda i: read(members[i]),
        modality=draft.modality,
    )


def _targets(given: list[Label], target: str, labels: tuple[str, ...]) -> npt.NDArray[Any]:
    """What examples are given, as `Split.labels` holds it."""
    if target in ("number", "scores"):
        return np.array(given, np.float32).reshape(-1, 1)
    number = {label: n for n, label in enumerate(labels)}
    if target == "text":
        return np.zeros((len(given), 1), np.float32)  # what is said is in the example itself
    if target in ("label", "groups"):
        return np.array([number[str(label)] for label in given], np.int64)
    found = np.zeros((len(given), len(labels)), np.float32)
    for row, names in zip(found, given, strict=True):
        row[[number[name] for name in names if name in number]] = 1  # type: ignore[union-attr]
    return found


def _numbered(read: Callable[[int], bytes], members: list[int]) -> npt.NDArray[np.int64]:
    """Which text each side of each pair is, counted from 0: equal texts have one number."""
    known: dict[str, int] = {}
    return np.array([[known.setdefault(text, len(known)) for text in json.loads(read(i))] for i in members], np.int64)

"""Data: one module a source, and the rules that hold for all of them.

`load` reads every example once, refuses what cannot be read right, and splits by content: a file's split
depends on its bytes alone, so a new file moves no other, and copies of one image never sit in two splits.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data import csv, folder, images, tfds
from kerastune.data.order import Order
from kerastune.data.source import SPLITS, Problem, Progress, Source, counted, some
from kerastune.errors import DataError, printable
from kerastune.recipe import CsvData, FolderData, TfdsData

__all__ = ["SOURCES", "Order", "Progress", "Split", "Splits", "load", "spread"]

SOURCES: dict[str, Callable[[Any, Progress], Source]] = {
    "folder": folder.examples,
    "csv": csv.examples,
    "tfds": tfds.examples,
}
_LISTED = 50  # problems shown in one message
_BLOCK = 512  # examples between two calls of `progress`
_PART = 16  # examples a thread takes at a time


@dataclass(frozen=True)
class Split:
    """One of train, validation and test."""

    ids: tuple[str, ...]  # what a user recognises: a path inside the data folder, or "train[123]"
    digests: tuple[str, ...]  # sha256 of the encoded bytes
    labels: npt.NDArray[np.int64]  # [n], index into Splits.labels
    read: Callable[[int], bytes]  # encoded bytes of the i-th example; thread-safe

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        return images.decode(self.read(i))  # [H, W, 3]


@dataclass(frozen=True)
class Splits:
    """Data to train on, to choose by and to test with; nothing is in two of them."""

    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str  # of (split, digest, label) in any order: the same for the same data anywhere
    notes: tuple[str, ...]  # what was read specially, left out or dropped, counted
    skipped: tuple[dict[str, str], ...]  # {"id", "problem"} of what skip_bad left out


def spread(split: Split, count: int) -> list[int]:
    """Indices of up to `count` examples, taken from each class in turn, in a fixed order."""
    rank = np.zeros(len(split), np.int64)  # an example's place within its class
    for label in np.unique(split.labels):
        of_label = np.flatnonzero(split.labels == label)
        rank[of_label] = np.arange(len(of_label))
    return [int(i) for i in np.lexsort((split.labels, rank))[:count]]


def load(settings: FolderData | CsvData | TfdsData, progress: Progress | None = None) -> Splits:
    """Reads, checks and splits the data that a recipe names.

    Args:
        settings: the recipe's [data] table.
        progress: called with a stage, how many are done, and how many there are (0: not known).

    Raises:
        DataError: with every problem in one message, unless `skip_bad` leaves them out.
    """
    progress = progress or (lambda stage, done, total: None)
    draft = _Draft(SOURCES[settings.source](settings, progress))
    _require_two_labels(draft, (example.label for example in draft.source.examples))
    _require_splits(draft, settings)
    _read_all(draft, progress)
    _refuse_two_labels_for_one_image(draft)
    _refuse_single_images(draft)
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

    def label(self, i: int) -> str:
        return self.source.examples[i].label

    def id(self, i: int) -> str:
        return self.source.examples[i].id

    def declares(self, split: str) -> bool:
        return any(example.split == split for example in self.source.examples)

    def drop(self, gone: set[int]) -> None:
        self.alive = [i for i in self.alive if i not in gone]

    def by_label(self) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for i in self.alive:
            groups[self.label(i)].append(i)
        return groups

    def labels_in(self, split: str) -> set[str]:
        return {self.label(i) for i in self.alive if self.splits[i] == split}


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
            progress("checking images", block.stop, total)
    draft.drop(bad)
    for remark, ids in sorted(remarks.items()):
        draft.notes.append(f"{counted(len(ids), 'image')}: {remark} ({some(ids)})")


def _check(draft: _Draft, i: int) -> tuple[str, images.Report]:
    try:
        data = draft.source.read(i)
    except OSError as error:
        return "", images.Report(problem=f"cannot be read: {error.strerror or error}")
    return hashlib.sha256(data).hexdigest(), images.check(data, draft.id(i))


# --- rules --------------------------------------------------------------------------------------------------


def _require_two_labels(draft: _Draft, labels: Iterable[str]) -> None:
    present = sorted(set(labels))
    if len(present) == 1:
        raise DataError(
            f"Only one label in {draft.source.where}: {printable(present[0])!r}.",
            "A classifier needs at least two labels with at least two images each.",
        )


def _require_splits(draft: _Draft, settings: FolderData | CsvData | TfdsData) -> None:
    for split, share, why in (
        ("test", settings.test_fraction, "the accuracy is measured there"),
        ("validation", settings.validation_fraction, "the best epoch is chosen there"),
    ):
        if share == 0 and not draft.declares(split):
            raise DataError(
                f"data.{split}_fraction = 0, and {draft.source.where} brings no {split} split.",
                f"Set data.{split}_fraction, for instance to 0.15: {why}.",
            )


def _refuse_two_labels_for_one_image(draft: _Draft) -> None:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in draft.alive:
        groups[draft.digests[i]].append(i)
    torn = [group for group in groups.values() if len({draft.label(i) for i in group}) > 1]
    if not torn:
        return
    if not draft.source.mendable:
        ids = some([draft.id(group[0]) for group in torn])
        draft.notes.append(f"{counted(len(torn), 'image')} under more than one label ({ids})")
        return
    for first, *others in torn:
        labels = len({draft.label(i) for i in (first, *others)})
        same = f"is the same image as {draft.id(first)}: one image, {labels} labels"
        draft.problems += [Problem(draft.id(i), same) for i in others]
    draft.drop({i for group in torn for i in group})


def _refuse_single_images(draft: _Draft) -> None:
    singles = {label: members[0] for label, members in draft.by_label().items() if len(members) == 1}
    for label, i in singles.items():
        only = f"has one image that can be used ({draft.id(i)}); 2 are the least"
        draft.problems.append(Problem(f"label {printable(label)!r}", only))
    draft.drop(set(singles.values()))


def _assign(draft: _Draft, settings: FolderData | CsvData | TfdsData) -> None:
    """Splits off from train, by content, what the source does not declare."""
    test = 0.0 if draft.declares("test") else settings.test_fraction
    validation = 0.0 if draft.declares("validation") else settings.validation_fraction
    for i in draft.alive:
        if draft.source.examples[i].split in (None, "train"):
            place = int(draft.digests[i][:16], 16) / 2**64
            draft.splits[i] = "test" if place < test else "validation" if place < test + validation else "train"


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
        draft.notes.append(f"{counted(count, 'image')} left out of {split}: exact copies of {other} images")
    draft.drop(set(gone))
    copies = len(draft.alive) - len({draft.digests[i] for i in draft.alive})
    if copies:
        draft.notes.append(f"{counted(copies, 'exact copy', 'exact copies')} of another image in the same split")


def _refuse_untrained(draft: _Draft) -> None:
    trained = draft.labels_in("train")
    untrained = {label: members for label, members in draft.by_label().items() if label not in trained}
    for label, members in untrained.items():
        where = " and ".join(sorted({draft.splits[i] for i in members}))
        ids = f"{counted(len(members), 'image')} ({some([draft.id(i) for i in members])})"
        draft.problems.append(Problem(f"label {printable(label)!r}", f"has no training image; in {where}: {ids}"))
    draft.drop({i for members in untrained.values() for i in members})


def _require_enough(draft: _Draft, settings: FolderData | CsvData | TfdsData) -> None:
    labels = draft.by_label()
    if not labels:
        raise DataError(f"No usable image is left in {draft.source.where}.", _listed(draft.problems))
    _require_two_labels(draft, labels)
    for split in ("validation", "test"):
        present = draft.labels_in(split)
        if len(present) < 2:
            count = sum(draft.splits[i] == split for i in draft.alive)
            raise DataError(
                f"The {split} split of {draft.source.where} holds {counted(count, 'image')} of "
                f"{counted(len(present), 'label')}: too few to measure anything.",
                _cure(draft, settings, split),
            )
        missing = [repr(printable(label)) for label in sorted(labels) if label not in present]
        if missing:
            draft.notes.append(f"{counted(len(missing), 'label')} without an image in {split}: {some(missing)}")


def _cure(draft: _Draft, settings: FolderData | CsvData | TfdsData, split: str) -> str:
    if draft.declares(split):
        return f"Add images of other labels to {split}, or name a larger slice of the data."
    share = getattr(settings, f"{split}_fraction")
    return f"Add images, or raise data.{split}_fraction = {share:g}."


def _everything_at_once(draft: _Draft) -> DataError:
    return DataError(
        f"{counted(len(draft.problems), 'problem')} in {draft.source.where}:\n{_listed(draft.problems)}",
        "Mend or remove them; or set data.skip_bad = true to leave them out (run.json then lists them).",
    )


def _listed(problems: list[Problem]) -> str:
    lines = [f"  {problem}" for problem in problems[:_LISTED]]
    more = len(problems) - _LISTED
    return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)


# --- building -----------------------------------------------------------------------------------------------


def _build(draft: _Draft) -> Splits:
    present = set(draft.by_label())
    order = draft.source.labels or tuple(sorted(present))
    unused = len(order) - len(present)
    labels = tuple(label for label in order if label in present)
    if unused:
        draft.notes.append(f"{counted(unused, 'label')} without an image left out")
    number = {label: n for n, label in enumerate(labels)}
    train, validation, test = (_split(draft, split, number) for split in SPLITS)
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


def _split(draft: _Draft, split: str, number: dict[str, int]) -> Split:
    members = [i for i in draft.alive if draft.splits[i] == split]
    read = draft.source.read
    return Split(
        ids=tuple(draft.id(i) for i in members),
        digests=tuple(draft.digests[i] for i in members),
        labels=np.array([number[draft.label(i)] for i in members], np.int64),  # [n]
        read=lambda i: read(members[i]),
    )

"""Splits: examples for training, validation and testing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kerastune.data.source import KNOWN
from kerastune.data.truths import Array, Truth
from kerastune.modalities import Example, Modality


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, validation and test."""

    ids: Sequence[str]  # for users: a path inside the data folder, a line, or "train[123]"
    digests: Sequence[str]  # sha256 of the encoded bytes
    labels: Array  # the truth, as `Truth.array` makes it: one row an example
    read: Callable[[int], bytes]  # the encoded example, as its modality decodes it; thread-safe
    modality: Modality
    truth: Truth
    groups: tuple[str | None, ...] = ()  # what each example belongs to; empty: not known
    kept: Callable[[Any], Any] | None = None  # indices int64 [b] -> decoded examples for training; None: not kept

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, i: int) -> Example:
        """Returns an example as its modality decodes it."""
        return self.modality.decode(self.read(i))


@dataclass(frozen=True)
class Splits:
    """Disjoint data for training, validation and testing."""

    labels: tuple[str, ...]  # for a number or a text, its name; for pairs "pairs"
    train: Split
    validation: Split
    test: Split
    fingerprint: str  # of (split, digest, label) in any order: equal for equal data
    notes: tuple[str, ...]  # counts of what was corrected or left out
    skipped: tuple[dict[str, str], ...]  # {"id", "problem"} of what skip_bad left out
    colors: tuple[str, ...] = ()  # of the labels, such as "#ff8000"; none: they have none
    known: Split | None = None  # examples that training never saw, of labels that it did; None: test has those

    @property
    def parts(self) -> dict[str, Split]:
        """Returns the splits that there are, by name."""
        known = {KNOWN: self.known} if self.known else {}
        return {"train": self.train, "validation": self.validation, "test": self.test, **known}


def spread(split: Split, count: int) -> list[int]:
    """Returns the indices of up to `count` examples, from each class in turn, in a fixed order.

    Takes `Truth.together` examples of a class at a time, the number needed to judge one; smaller classes come last.
    """
    classes, together = split.truth.classes(split.labels), split.truth.together
    rank = np.zeros(len(split), np.int64)  # an example's rank within its class
    for label in range(classes.max(initial=-1) + 1):
        of_label = np.flatnonzero(classes == label)
        rank[of_label] = np.arange(len(of_label))
    is_small = np.bincount(classes)[classes] < together
    return [int(i) for i in np.lexsort((classes, rank // together, is_small))[:count]]


def few(split: Split, count: int) -> Split:
    """Returns up to `count` examples of a split, spread over the classes by `spread`."""
    return picked(split, spread(split, count))


def picked(split: Split, chosen: Sequence[int]) -> Split:
    """Returns some examples of a split, in the order of their indices in `chosen`."""
    return replace(
        split,
        ids=tuple(split.ids[i] for i in chosen),
        digests=tuple(split.digests[i] for i in chosen),
        labels=split.labels[list(chosen)],
        read=lambda i: split.read(chosen[i]),
        groups=tuple(split.groups[i] for i in chosen) if split.groups else (),
        kept=None,
    )

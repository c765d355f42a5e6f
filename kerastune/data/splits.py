"""Splits: the examples to train on, to choose by and to test with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data.truths import Truth
from kerastune.modalities import Example, Modality


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, validation and test."""

    ids: tuple[str, ...]  # what a user recognises: a path inside the data folder, a line, or "train[123]"
    digests: tuple[str, ...]  # sha256 of the encoded bytes
    labels: npt.NDArray[Any]  # the truth, as `Truth.array` makes it: one row an example
    read: Callable[[int], bytes]  # the encoded example, as its modality decodes it; thread-safe
    modality: Modality
    truth: Truth

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


def spread(split: Split, count: int) -> list[int]:
    """Indices of up to `count` examples, taken from each class in turn, in a fixed order.

    As many of a class are taken at a time as it takes to judge one (`Truth.together`); smaller classes come last.
    """
    classes, together = split.truth.classes(split.labels), split.truth.together
    rank = np.zeros(len(split), np.int64)  # an example's place within its class
    for label in range(classes.max(initial=-1) + 1):
        of_label = np.flatnonzero(classes == label)
        rank[of_label] = np.arange(len(of_label))
    is_small = np.bincount(classes)[classes] < together
    return [int(i) for i in np.lexsort((classes, rank // together, is_small))[:count]]


def few(split: Split, count: int) -> Split:
    """Up to `count` examples of a split, spread over the classes as `spread` does."""
    chosen = spread(split, count)
    return replace(
        split,
        ids=tuple(split.ids[i] for i in chosen),
        digests=tuple(split.digests[i] for i in chosen),
        labels=split.labels[chosen],
        read=lambda i: split.read(chosen[i]),
    )

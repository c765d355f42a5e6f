"""Compares transcripts: the normalisation that is stated in reports, word and character errors, and terms.

Normalised, a transcript is in lower case and in Unicode's compatible composed form (NFKC); hyphens, dashes and other
punctuation are spaces, but an apostrophe within a word is left out; spaces are single. Numbers are not spelled out:
"4" and "four" differ.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STATED = "lower case, without punctuation; numbers are not spelled out"
_APOSTROPHES = re.compile(r"(?<=\w)['’ʼ](?=\w)")


def normalised(text: str) -> str:
    """Returns a transcript as it is compared."""
    text = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).lower())
    return " ".join("".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split())


def edits(said: Sequence[str], truth: Sequence[str]) -> int:
    """Returns the fewest insertions, deletions and substitutions that turn one sequence into the other."""
    number = {one: i for i, one in enumerate(dict.fromkeys([*said, *truth]))}
    mine = np.array([number[one] for one in said], np.int64)
    row = np.arange(len(mine) + 1)
    for i, one in enumerate(truth, start=1):
        # Insertions accumulate from the left: their running minimum, each place by one dearer than the last.
        best = np.minimum(row[1:] + 1, row[:-1] + (mine != number[one]))
        places = np.arange(len(mine) + 1)
        row = np.minimum.accumulate(np.concatenate([[i], best]) - places) + places
    return int(row[-1])


@dataclass(frozen=True)
class Found:
    """How often a term is said, written, and written where it is said."""

    said: int
    written: int
    right: int


def found(term: str, said: str, truth: str) -> Found:
    """Returns the counts of a term in a normalised transcript and its normalised truth.

    A recording counts as many right ones as it has in both, so that order within a recording does not matter.
    """
    wanted = term.split()
    counts = [_count(wanted, text.split()) for text in (truth, said)]
    return Found(counts[0], counts[1], min(counts))


def _count(term: list[str], text: list[str]) -> int:
    return sum(text[i : i + len(term)] == term for i in range(len(text) - len(term) + 1))

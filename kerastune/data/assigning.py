"""Assigns examples to splits if the source does not.

The hash of an example's content is a place between 0 and 1, and test and validation take the first parts of that range.
So copies stay together, names and order do not matter, and a new example moves no other. But hashes are random, and
could give a test split of 13 out of 38 images. So each label has bounds: a split holds between half and one and a half
of its share of the label, or is off by one example, and holds at least one if its share is a half or more. If the
hashes keep the bounds, nothing moves. Otherwise as few examples as necessary cross the border of train, nearest first.
So a new example moves nothing in labels of some hundred examples, and a few near the border in smaller ones: no rule
based on content alone can hold shares and never move anything.
"""

import functools
import hashlib
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kerastune.data.columns import Digests
from kerastune.data.rules import Draft
from kerastune.data.source import KNOWN, SPLITS, Problem, counted
from kerastune.errors import quoted
from kerastune.recipe import Data

_MOVABLE = (None, "train")
_KEPT = 4  # examples of a label that train needs at the least


Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Units:
    """What must stay in one split: groups, copies, and single examples, in the order of their places.

    Attributes:
        members: the examples, unit by unit, int64 [n].
        starts: where each unit begins in `members`, int64 [units + 1].
        places: from 0 to 1, float64 [units].
    """

    members: Ints
    starts: Ints
    places: npt.NDArray[np.float64]

    def of(self, unit: int) -> Ints:
        return self.members[self.starts[unit] : self.starts[unit + 1]]

    @property
    def sizes(self) -> Ints:
        return np.diff(self.starts)


def assign(draft: Draft, settings: Data) -> None:
    """Splits off from train the splits that the source does not declare."""
    _refuse_torn_groups(draft)
    test = 0.0 if draft.declares("test") else settings.test_fraction
    validation = 0.0 if draft.declares("validation") else settings.validation_fraction
    units = _units(draft)
    split_of = np.zeros(len(units.places), np.int8)
    for trained, held in _strata(draft, units):
        for placed in (_placed(trained, units, test, validation), _held_out(held, test, validation)):
            for split, those in placed.items():
                split_of[those] = SPLITS.index(split)
    for i, n in zip(units.members, np.repeat(split_of, units.sizes), strict=True):
        draft.splits[i] = SPLITS[n]
    _note_groups(draft)
    _hold_known(draft, settings.known_share)


def _units(draft: Draft) -> _Units:
    movable = array("q", (i for i in draft.alive if draft.examples.place(i)[0] in _MOVABLE))
    keys = Digests(len(movable))
    for n, i in enumerate(movable):
        keys[n] = _key(draft, i)
    order, starts = keys.sorted(np.arange(len(movable)))
    return _Units(np.asarray(movable, np.int64)[order], starts, keys.places()[order[starts[:-1]]])


def _strata(draft: Draft, units: _Units) -> Iterator[tuple[Ints, Ints]]:
    """Yields each label's units that may train, and those that may not; a unit with several counts for its rarest."""
    held: Counter[str] = Counter()
    for unit in range(len(units.places)):
        held.update(_labels(draft, units.of(unit)))
    strata: dict[str, tuple[array[int], array[int]]] = defaultdict(lambda: (array("q"), array("q")))
    for unit in range(len(units.places)):
        members = units.of(unit)
        rarest = min(_labels(draft, members), key=lambda label: (held[label], label), default="")
        trains = all(draft.examples.place(i)[2] for i in members)
        strata[rarest][not trains].append(unit)
    for trained, others in strata.values():
        yield np.asarray(trained, np.int64), np.asarray(others, np.int64)


def _key(draft: Draft, i: int) -> str:
    group = draft.examples.place(i)[1]
    if group is not None:
        return hashlib.sha256(group.encode()).hexdigest()
    return draft.truth.place(draft.digests[i], functools.partial(draft.source.read, i))


def _labels(draft: Draft, members: Iterable[int]) -> set[str]:
    """Returns the labels to hold shares of; none if judging an example needs others with its label."""
    return set() if draft.truth.together > 1 else {label for i in members for label in draft.labels(i)}


@dataclass
class _Circle:
    """The units of a label on the circle of places: test, validation, train, so that each has one border with train.

    Attributes:
        sizes: examples in each unit.
        first, middle, last: where test, validation and train begin. Train ends where test begins, once around.
    """

    sizes: Ints
    first: int
    middle: int
    last: int

    def size(self, split: str) -> int:
        start, end = (self.first, self.middle) if split == "test" else (self.middle, self.last)
        return int(self.sizes[np.arange(start, end) % len(self.sizes)].sum())

    def give(self, split: str, share: float) -> None:
        """Moves units across a split's border into train while it holds too much, and is the nearer to its share."""
        size, most = self.size(split), max(math.floor(share + _slack(share)), 1)
        while size > most:
            unit = int(self.sizes[(self.first if split == "test" else self.last - 1) % len(self.sizes)])
            if abs(size - unit - share) >= abs(size - share):
                break
            self._move(split, 1)
            size -= unit

    def take(self, split: str, share: float) -> None:
        """Moves units across a split's border out of train while it holds too little, but never the last one."""
        size, least = self.size(split), max(math.ceil(share - _slack(share)), 1 if share >= 0.5 else 0)
        while size < least and len(self.sizes) + self.first - self.last > 1:
            unit = int(self.sizes[(self.first - 1 if split == "test" else self.last) % len(self.sizes)])
            if size and abs(size + unit - share) >= abs(size - share):
                break
            self._move(split, -1)
            size += unit

    def _move(self, split: str, units: int) -> None:
        if split == "test":
            self.first += units
        else:
            self.last -= units


def _placed(units: Ints, of: _Units, test: float, validation: float) -> dict[str, Ints]:
    """Returns the units of each split."""
    sizes, places = of.sizes[units], of.places[units]
    circle = _Circle(sizes, 0, *(int(np.searchsorted(places, border)) for border in (test, test + validation)))
    shares = {split: int(sizes.sum()) * share for split, share in (("test", test), ("validation", validation)) if share}
    for change in (circle.give, circle.take):  # what one gives may be what the other takes
        for split, share in shares.items():
            change(split, share)
    borders = (circle.last, len(units) + circle.first), (circle.middle, circle.last), (circle.first, circle.middle)
    around = [units[np.arange(*border) % max(len(units), 1)] for border in borders]
    found = dict(zip(("train", "validation", "test"), around, strict=True))
    if not len(found["train"]) and len(units):  # the label must be in train
        split = max(("test", "validation"), key=lambda split: len(found[split]))
        found["train"], found[split] = found[split][-1:], found[split][:-1]
    return found


def _held_out(units: Ints, test: float, validation: float) -> dict[str, Ints]:
    """Returns the test and the validation units of those that never train, by the shares of the two."""
    share = test / (test + validation) if test + validation else 1.0
    border = round(len(units) * share)
    return {"train": units[:0], "test": units[:border], "validation": units[border:]}


def _slack(share: float) -> float:
    return max(1.0, share / 2)


def _hold_known(draft: Draft, share: float) -> None:
    """Takes a share of each training label's examples, at least two, out of train, by content; copies stay together.

    A label that would keep fewer than `_KEPT` gives none.
    """
    if not share:
        return
    held = [0, 0]
    for members in draft.by_label().values():
        movable = [i for i in members if draft.splits[i] == "train" and draft.examples.place(i)[0] in _MOVABLE]
        digests = sorted({draft.digests[i] for i in movable})
        count = max(round(share * len(digests)), 2)
        if len(digests) - count >= _KEPT:
            chosen = set(digests[:count])
            held[0] += 1
            for i in movable:
                if draft.digests[i] in chosen:
                    draft.splits[i] = KNOWN
                    held[1] += 1
    if held[0]:
        examples, labels = counted(held[1], draft.unit), counted(held[0], "training label")
        draft.notes.append(f"{examples} of {labels} kept out of train, to tell how well known labels are found")


# --- groups ------------------------------------------------------------------------------------------------


def _refuse_torn_groups(draft: Draft) -> None:
    """Refuses groups that lie in several declared splits; with `skip_bad` they stay in the last one."""
    gone: set[int] = set()
    whole = draft.settings.whole_labels
    for group, members in _groups(draft).items():
        there = Counter(split for i in members if (split := draft.examples.place(i)[0]))
        if len(there) < 2:
            continue
        last = max(there, key=SPLITS.index)
        words = " and ".join(f"{there[split]} in {split}" for split in SPLITS if split in there)
        kind, way = ("label", "set data.known_labels = true") if whole else ("group", "the others are left out")
        problem = f"is torn by the declared splits: {words}; {way}"
        draft.problems.append(Problem(f"{kind} {quoted(group)}", problem))
        gone |= {i for i in members if draft.examples.place(i)[0] != last}
    draft.drop(gone)


def _note_groups(draft: Draft) -> None:
    if not (groups := _groups(draft)):
        return
    there = Counter(draft.splits[members[0]] for members in groups.values())
    words = ", ".join(f"{there[split]:,} in {split}" for split in SPLITS)
    kind = "label" if draft.settings.whole_labels else "group"
    draft.notes.append(f"{counted(len(groups), kind)} kept together: {words}")


def _groups(draft: Draft) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in draft.alive:
        if (group := draft.examples.place(i)[1]) is not None:
            groups[group].append(i)
    return groups

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
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from kerastune.data.rules import Draft
from kerastune.data.source import KNOWN, SPLITS, Problem, counted
from kerastune.errors import quoted
from kerastune.recipe import Data

_MOVABLE = (None, "train")
_KEPT = 4  # examples of a label that train needs at the least


@dataclass(frozen=True)
class _Unit:
    """Examples that must stay in one split: a group, or copies."""

    place: float  # from 0 to 1
    members: list[int]
    trains: bool = True

    def __len__(self) -> int:
        return len(self.members)


def assign(draft: Draft, settings: Data) -> None:
    """Splits off from train the splits that the source does not declare."""
    _refuse_torn_groups(draft)
    test = 0.0 if draft.declares("test") else settings.test_fraction
    validation = 0.0 if draft.declares("validation") else settings.validation_fraction
    for units in _strata(draft).values():
        held = [unit for unit in units if not unit.trains]
        placed = _placed([unit for unit in units if unit.trains], test, validation)
        for split, those in (*placed.items(), *_held_out(held, test, validation)):
            for i in chain.from_iterable(unit.members for unit in those):
                draft.splits[i] = split
    _note_groups(draft)
    _hold_known(draft, settings.known_share)


def _strata(draft: Draft) -> dict[str, list[_Unit]]:
    """Returns the units of each label by their place; a unit with several labels counts for its rarest."""
    members: dict[str, list[int]] = defaultdict(list)
    for i in draft.alive:
        if draft.source.examples[i].split in _MOVABLE:
            members[_key(draft, i)].append(i)
    held: Counter[str] = Counter()
    names = {key: _labels(draft, those) for key, those in members.items()}
    for labels in names.values():
        held.update(labels)
    strata: dict[str, list[_Unit]] = defaultdict(list)
    for key, those in members.items():
        rarest = min(names[key], key=lambda label: (held[label], label), default="")
        trains = all(draft.source.examples[i].trains for i in those)
        strata[rarest].append(_Unit(int(key[:16], 16) / 2**64, those, trains))
    for units in strata.values():
        units.sort(key=lambda unit: unit.place)
    return dict(strata)


def _key(draft: Draft, i: int) -> str:
    group = draft.source.examples[i].group
    if group is not None:
        return hashlib.sha256(group.encode()).hexdigest()
    return draft.truth.place(draft.digests[i], functools.partial(draft.source.read, i))


def _labels(draft: Draft, members: Iterable[int]) -> set[str]:
    """Returns the labels to hold shares of; none if judging an example needs others with its label."""
    return set() if draft.truth.together > 1 else {label for i in members for label in draft.labels(i)}


def _placed(units: list[_Unit], test: float, validation: float) -> dict[str, deque[_Unit]]:
    """Returns the units of each split.

    On the circle of places, train lies between validation and test, so that each has one border with it.
    """
    found: dict[str, deque[_Unit]] = {split: deque() for split in SPLITS}
    for unit in units:
        split = "test" if unit.place < test else "validation" if unit.place < test + validation else "train"
        found[split].append(unit)
    total, train = sum(map(len, units)), found["train"]
    shares = {split: total * share for split, share in (("test", test), ("validation", validation)) if share}
    for change in (_give, _take):  # what one gives may be what the other takes
        for split, share in shares.items():
            change(found[split], train, share, split == "test")
    if not train and units:  # the label must be in train
        split = max(("test", "validation"), key=lambda split: len(found[split]))
        train.append(found[split].pop())
    return found


def _held_out(units: list[_Unit], test: float, validation: float) -> list[tuple[str, list[_Unit]]]:
    """Returns the test and the validation units of those that never train, by the shares of the two."""
    share = test / (test + validation) if test + validation else 1.0
    border = round(len(units) * share)
    return [("test", units[:border]), ("validation", units[border:])]


def _give(held: deque[_Unit], train: deque[_Unit], share: float, at_front: bool) -> None:
    """Moves units across a split's border into train while the split holds too much, and is the nearer to its share."""
    size, most = sum(map(len, held)), max(math.floor(share + _slack(share)), 1)
    while size > most:
        unit = held[0] if at_front else held[-1]
        if abs(size - len(unit) - share) >= abs(size - share):
            break
        if at_front:
            train.append(held.popleft())
        else:
            train.appendleft(held.pop())
        size -= len(unit)


def _take(held: deque[_Unit], train: deque[_Unit], share: float, at_front: bool) -> None:
    """Moves units across a split's border out of train while the split holds too little, but never the last one."""
    size, least = sum(map(len, held)), max(math.ceil(share - _slack(share)), 1 if share >= 0.5 else 0)
    while size < least and len(train) > 1:
        unit = train[-1] if at_front else train[0]
        if held and abs(size + len(unit) - share) >= abs(size - share):
            break
        if at_front:
            held.appendleft(train.pop())
        else:
            held.append(train.popleft())
        size += len(unit)


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
        movable = [i for i in members if draft.splits[i] == "train" and draft.source.examples[i].split in _MOVABLE]
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
        there = Counter(split for i in members if (split := draft.source.examples[i].split))
        if len(there) < 2:
            continue
        last = max(there, key=SPLITS.index)
        words = " and ".join(f"{there[split]} in {split}" for split in SPLITS if split in there)
        kind, way = ("label", "set data.known_labels = true") if whole else ("group", "the others are left out")
        problem = f"is torn by the declared splits: {words}; {way}"
        draft.problems.append(Problem(f"{kind} {quoted(group)}", problem))
        gone |= {i for i in members if draft.source.examples[i].split != last}
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
        if (group := draft.source.examples[i].group) is not None:
            groups[group].append(i)
    return groups

"""Rules for all data: what is refused, and what is left out."""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from kerastune.data.columns import Digests, Examples
from kerastune.data.source import KNOWN, SPLITS, Label, Problem, Source, counted, some
from kerastune.data.truths import TRUTHS, Truth
from kerastune.errors import DataError, listed, quoted
from kerastune.modalities import MODALITIES, Modality
from kerastune.recipe import Data


@dataclass
class Draft:
    """The data so far; `alive` are the examples still included."""

    settings: Data
    source: Source
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    copies: list[tuple[int, str]] = field(default_factory=list)
    """The examples left out as copies, and the split that keeps the other."""

    def __post_init__(self) -> None:
        given = self.source.examples
        self.examples = given if isinstance(given, Examples) else Examples(given)
        self.alive = array("q", range(len(given)))
        self.digests = Digests(len(given))
        self.splits = [self.examples.place(i)[0] or "" for i in self.alive]
        self.problems = list(self.source.problems)
        self.notes = list(self.source.notes)

    @property
    def modality(self) -> Modality:
        return MODALITIES[self.settings.modality]

    @property
    def unit(self) -> str:
        return self.modality.name

    @property
    def truth(self) -> Truth:
        return TRUTHS[self.settings.target]

    @property
    def one(self) -> str:
        return self.modality.one

    def label(self, i: int) -> Label:
        return self.examples.label(i)

    def labels(self, i: int) -> tuple[str, ...]:
        """Returns the label names of an example; none if its truth is something else."""
        return self.truth.names(self.label(i))

    def id(self, i: int) -> str:
        return self.examples.ids[i]

    def declares(self, split: str) -> bool:
        return any(self.examples.place(i)[0] == split for i in range(len(self.examples)))

    def drop(self, gone: set[int]) -> None:
        if gone:
            self.alive = array("q", (i for i in self.alive if i not in gone))

    def members(self, split: str) -> "array[int]":
        return array("q", (i for i in self.alive if self.splits[i] == split))

    def by_label(self) -> "dict[str, array[int]]":
        groups: dict[str, array[int]] = defaultdict(lambda: array("q"))
        for i in self.alive:
            for label in self.labels(i):
                groups[label].append(i)
        return groups

    def labels_in(self, split: str) -> set[str]:
        return {label for i in self.alive if self.splits[i] == split for label in self.labels(i)}


# --- rules --------------------------------------------------------------------------------------------------


def require_two_labels(draft: Draft, labels: Iterable[str]) -> None:
    present = sorted(set(labels))
    if len(present) == 1 and not draft.truth.alone:
        others = draft.problems
        beside = f"\nAnd {counted(len(others), 'problem')}:\n{listed(others)}" if others else ""
        raise DataError(
            f"Only one label in {draft.source.where}: {quoted(present[0])}.{beside}",
            f"A classifier needs at least two labels with at least two {draft.unit}s each.",
        )


def require_splits(draft: Draft, settings: Data) -> None:
    for split, share, why in (
        ("test", settings.test_fraction, "the accuracy is measured there"),
        ("validation", settings.validation_fraction, "the best epoch is chosen there"),
    ):
        if share == 0 and not draft.declares(split):
            raise DataError(
                f"data.{split}_fraction = 0, but {draft.source.where} has no {split} split.",
                f"Set data.{split}_fraction, for instance to 0.15: {why}.",
            )


def refuse_two_labels_for_one_example(draft: Draft) -> None:
    torn = [group for group in draft.digests.copies(draft.alive) if len({draft.label(i) for i in group}) > 1]
    if not torn:
        return
    unit, what = draft.unit, draft.truth.word
    if not draft.source.mendable or draft.truth.differ:
        ids = some([draft.id(group[0]) for group in torn])
        draft.notes.append(f"{counted(len(torn), unit)} under more than one {what} ({ids})")
        return
    for first, *others in torn:
        labels = len({draft.label(i) for i in (first, *others)})
        same = f"is the same {unit} as {draft.id(first)}: one {unit}, {labels} labels"
        draft.problems += [Problem(draft.id(i), same) for i in others]
    draft.drop({i for group in torn for i in group})


def refuse_single_examples(draft: Draft) -> None:
    if draft.truth.alone:
        return
    singles = {label: members[0] for label, members in draft.by_label().items() if len(members) == 1}
    for label, i in singles.items():
        only = f"has only one usable {draft.unit} ({draft.id(i)}); at least 2 are needed"
        draft.problems.append(Problem(f"label {quoted(label)}", only))
    draft.drop(set(singles.values()))


def part_copies(draft: Draft) -> None:
    """Removes copies of test examples from validation and train, and copies of validation examples from train."""
    order = ("test", "validation", KNOWN, "train")
    held: dict[int, str] = {}  # of copies: the split that keeps one
    for same in draft.digests.copies(draft.alive):
        held |= dict.fromkeys(same, min((draft.splits[i] for i in same), key=order.index))
    gone = sorted(i for i, split in held.items() if split != draft.splits[i])
    moves = Counter((draft.splits[i], held[i]) for i in gone)
    for (split, other), count in sorted(moves.items()):
        draft.notes.append(f"{counted(count, draft.unit)} left out of {split}: exact copies of {other} {draft.unit}s")
    draft.copies = [(i, held[i]) for i in gone]
    draft.drop(set(gone))
    again = {i for _, *others in draft.digests.copies(draft.alive) for i in others}
    copies = len(again)
    if copies and not draft.truth.repeats:  # a duplicate would find itself
        draft.drop(again)
        draft.notes.append(f"{counted(copies, 'exact copy', 'exact copies')} of another {draft.unit} left out")
    elif copies:
        draft.notes.append(f"{counted(copies, 'exact copy', 'exact copies')} of another {draft.unit} in the same split")


def refuse_untrained(draft: Draft) -> None:
    if draft.truth.unseen:
        return
    trained = draft.labels_in("train")
    untrained = {label: members for label, members in draft.by_label().items() if label not in trained}
    for label, members in untrained.items():
        where = " and ".join(sorted({draft.splits[i] for i in members}))
        ids = f"{counted(len(members), draft.unit)} ({some([draft.id(i) for i in members])})"
        why = f"has no training {draft.unit}{_copies(draft, 'train', label)}; in {where}: {ids}"
        draft.problems.append(Problem(f"label {quoted(label)}", why))
    draft.drop({i for members in untrained.values() for i in members})


def keep_few(draft: Draft, settings: Data) -> None:
    """Leaves all but `per_label` training examples of each label out, those of the least hash with the seed kept.

    A larger number keeps those of a smaller one. Of copies, one is kept.
    """
    if settings.per_label is None:
        return
    kept: set[int] = set()
    short: list[str] = []
    train = draft.members("train")
    for label, members in draft.by_label().items():
        trained = [i for i in reversed(members) if draft.splits[i] == "train"]
        place = {draw_key(draft.digests[i], settings.per_label_seed): i for i in trained}
        kept |= {place[one] for one in sorted(place)[: settings.per_label]}
        if len(place) < settings.per_label:
            short.append(f"{quoted(label)} has {len(place)}")
    draft.drop(set(train) - kept)
    left = counted(len(train) - len(kept), f"training {draft.unit}")
    draft.notes.append(f"{left} left out: data.per_label = {settings.per_label:,} keeps {len(kept):,}")
    if short:
        draft.notes.append(f"fewer than data.per_label = {settings.per_label:,} in train: {some(sorted(short))}")


def draw_key(digest: str, seed: int) -> str:
    """Returns the place of an example in the draw of a seed; the least come first."""
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()


def _copies(draft: Draft, split: str, label: str | None = None) -> str:
    """Explains how many examples of a split, or of a label in it, were left out as copies; "" if none."""
    others = Counter(
        other for i, other in draft.copies if draft.splits[i] == split and label in (None, *draft.labels(i))
    )
    found = [
        f"{counted(n, draft.unit)} in {split} {'is an exact copy' if n == 1 else 'are exact copies'} of {other} "
        f"{draft.unit}s"
        for other, n in others.items()
    ]
    return " left: " + " and ".join(found) if found else ""


def require_enough(draft: Draft, settings: Data) -> None:
    labels = draft.by_label()
    if not draft.alive:
        raise DataError(f"No usable {draft.unit} is left in {draft.source.where}.", listed(draft.problems))
    require_two_labels(draft, labels)
    for split in SPLITS:
        members = draft.members(split)
        if not members and draft.truth.least([], []) is None:
            cure = f"Add {draft.unit}s." if split == "train" else _cure(draft, settings, split)
            copies = _copies(draft, split)
            raise DataError(f"The {split} split of {draft.source.where} holds no {draft.unit}s{copies}.", cure)
        if split == "train":
            continue
        ids, given = [draft.id(i) for i in members], [draft.label(i) for i in members]
        if (least := draft.truth.least(ids, given)) and least[0] < 2:
            raise DataError(
                f"The {split} split of {draft.source.where} holds {counted(len(members), draft.unit)} of "
                f"{counted(*least)}{_copies(draft, split)}: too few to measure anything.",
                _cure(draft, settings, split),
            )
        if why := draft.truth.pairless(given):
            raise DataError(f"The {split} split of {draft.source.where} holds {why}.", _cure(draft, settings, split))
        present = draft.labels_in(split)
        missing = [quoted(label) for label in sorted(labels) if label not in present]
        if missing:
            draft.notes.append(f"{counted(len(missing), 'label')} without {draft.one} in {split}: {some(missing)}")


def _cure(draft: Draft, settings: Data, split: str) -> str:
    if draft.declares(split):
        of = " of other labels" if draft.truth.least([], []) else ""
        return f"Add {draft.unit}s{of} to {split}, or name a larger slice of the data."
    share = getattr(settings, f"{split}_fraction")
    return f"Add {draft.unit}s, or raise data.{split}_fraction = {share:g}."


def everything_at_once(draft: Draft) -> DataError:
    return DataError(
        f"{counted(len(draft.problems), 'problem')} in {draft.source.where}:\n{listed(draft.problems)}",
        "Fix or remove them; or set data.skip_bad = true to leave them out (run.json then lists them).",
    )

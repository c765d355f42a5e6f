"""Reads, checks and splits the data of a recipe: every example once, all problems in one message."""

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

from kerastune import assets
from kerastune.data.assigning import assign
from kerastune.data.columns import Chosen, Examples
from kerastune.data.labels import normalised
from kerastune.data.rules import (
    Draft,
    everything_at_once,
    keep_few,
    part_copies,
    refuse_single_examples,
    refuse_two_labels_for_one_example,
    refuse_untrained,
    require_enough,
    require_splits,
    require_two_labels,
)
from kerastune.data.source import KNOWN, SPLITS, Problem, Progress, Source, counted, some
from kerastune.data.sources import (
    chat,
    coco_boxes,
    coco_masks,
    csv,
    csv_boxes,
    defects,
    folder,
    masks,
    pairs,
    table,
    tfds,
    tfds_boxes,
    tfds_masks,
    yolo,
)
from kerastune.data.splits import Split, Splits
from kerastune.errors import DataError, listed
from kerastune.modalities import MODALITIES, Report
from kerastune.recipe import Data

SOURCES: dict[str, Callable[[Any, Progress], Source]] = {
    "folder": folder.examples,
    "csv": csv.examples,
    "table": table.examples,
    "chat": chat.examples,
    "tfds": tfds.examples,
    "defects": defects.examples,
    "coco_boxes": coco_boxes.examples,
    "coco_masks": coco_masks.examples,
    "yolo": yolo.examples,
    "csv_boxes": csv_boxes.examples,
    "tfds_boxes": tfds_boxes.examples,
    "masks": masks.examples,
    "tfds_masks": tfds_masks.examples,
    "pairs": pairs.examples,
}
"""Functions that read a source, by the `reader` of its settings."""

_BLOCK = 512  # examples between two calls of `progress`
_SMALL = 1_000_000  # bytes of a table that is read twice, so that a wrong column is found at once
_PART = 16  # examples a thread takes at a time


def load(settings: Data, progress: Progress | None = None) -> Splits:
    """Reads, checks and splits the data that a recipe names.

    Args:
        settings: the recipe's [data] table.
        progress: called with a stage, the number done, and the total (0: unknown).

    Raises:
        DataError: lists every problem in one message, unless `skip_bad` leaves them out.
    """
    progress = progress or _silent
    MODALITIES[settings.modality].require()
    source = normalised(SOURCES[settings.reader](settings, progress))
    draft = Draft(settings, _whole_labels(source) if settings.whole_labels else source)
    require_two_labels(draft, chain.from_iterable(map(draft.labels, draft.alive)))
    require_splits(draft, settings)
    _read_all(draft, progress)
    refuse_two_labels_for_one_example(draft)
    refuse_single_examples(draft)
    assign(draft, settings)
    part_copies(draft)
    refuse_untrained(draft)
    if draft.problems and not settings.skip_bad:
        raise everything_at_once(draft)
    keep_few(draft, settings)
    require_enough(draft, settings)
    return _build(draft)


def whole(settings: Data, progress: Progress | None = None) -> Split:
    """Reads and checks every example of a source as one split, whatever split it declares.

    Raises:
        DataError: lists every problem in one message, unless `skip_bad` leaves them out; or nothing is left.
    """
    draft = Draft(settings, normalised(SOURCES[settings.reader](settings, progress or _silent)))
    _read_all(draft, progress or _silent)
    refuse_two_labels_for_one_example(draft)
    if draft.problems and not settings.skip_bad:
        raise everything_at_once(draft)
    if not draft.alive:
        raise DataError(f"No usable {draft.unit} is left in {draft.source.where}.", listed(draft.problems))
    draft.splits = ["test"] * len(draft.splits)
    return _split(draft, "test", draft.truth.ordered(draft.source.labels, tuple(sorted(draft.by_label()))))


def _silent(stage: str, done: int, total: int) -> None: ...


def _whole_labels(source: Source) -> Source:
    """Returns the source with each label as a group, so that it stays in one split."""
    return replace(source, examples=Examples(replace(one, group=str(one.label)) for one in source.examples))


def refuse_missing(settings: Data) -> None:
    """Raises DataError, as `load`, for data that are not there, and for small tables without the columns."""
    path = getattr(settings, "path", None)  # TensorFlow Datasets have none
    if path is None:
        return
    name = path.partition("/")[0]
    is_there = assets.is_fetched(name) if name in assets.ASSETS else os.path.exists(path)
    if not is_there or (os.path.isfile(path) and os.path.getsize(path) <= _SMALL):
        SOURCES[settings.reader](settings, _silent)


# --- reading ------------------------------------------------------------------------------------------------


def _read_all(draft: Draft, progress: Progress) -> None:
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
                if digest:
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


def _check(draft: Draft, i: int) -> tuple[str, Report]:
    try:
        data = draft.source.read(i)
    except OSError as error:
        return "", Report(problem=f"cannot be read: {error.strerror or error}")
    except ValueError as error:  # a part of a file that cannot be cut out of it
        return "", Report(problem=str(error))
    report, longest, stored = draft.modality.check(data, draft.id(i)), draft.settings.longest, draft.modality.stored
    if longest and not report.problem and stored and stored.longer and stored.longer(data, longest):
        report = Report(problem=f"is longer than data.window = {longest:g} s; raise it, or cut the {draft.unit}")
    return hashlib.sha256(data).hexdigest(), report


# --- building -----------------------------------------------------------------------------------------------


def _build(draft: Draft) -> Splits:
    order = draft.source.labels
    labels = draft.truth.ordered(order, tuple(sorted(draft.by_label())))
    if order and (unused := len(order) - len(labels)):
        draft.notes.append(f"{counted(unused, 'label')} without {draft.one} left out")
    train, validation, test = (_split(draft, split, labels) for split in SPLITS)
    known = _split(draft, KNOWN, labels)
    return Splits(
        labels=labels,
        train=train,
        validation=validation,
        test=test,
        fingerprint=_fingerprint(draft),
        notes=tuple(draft.notes),
        skipped=tuple({"id": problem.id, "problem": problem.text} for problem in draft.problems),
        colors=draft.source.colors,
        known=known if len(known) else None,
    )


def _fingerprint(draft: Draft) -> str:
    """Returns the sha256 of the sorted lines "split digest label", joined by line feeds."""
    found = hashlib.sha256()
    between = b""
    for split in sorted(set(draft.splits)):
        order, starts = draft.digests.sorted(draft.members(split))
        for start, end in pairwise(starts):
            digest = draft.digests[int(order[start])]
            for label in sorted(f"{draft.label(i)!r}" for i in order[start:end]):
                found.update(between + f"{split} {digest} {label}".encode())
                between = b"\n"
    return found.hexdigest()


def _split(draft: Draft, split: str, labels: tuple[str, ...]) -> Split:
    members, read = draft.members(split), draft.source.read
    return Split(
        ids=Chosen(draft.examples.ids, members),
        digests=Chosen(draft.digests, members),
        labels=draft.truth.array(
            [draft.label(i) for i in members], labels, (functools.partial(read, i) for i in members)
        ),
        read=lambda i: read(members[i]),
        modality=draft.modality,
        truth=draft.truth,
        groups=tuple(draft.examples.place(i)[1] for i in members),
    )

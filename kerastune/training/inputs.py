"""Decoded examples of training and validation, made once and kept in memory or on disk for all epochs."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import environment
from kerastune.data import Split
from kerastune.data.source import counted
from kerastune.progress import Progress
from kerastune.training.batches import Batches
from kerastune.training.prefix import cache
from kerastune.workers.group import Group

SPLITS = ("train", "validation")


def spec(batches: Batches) -> cache.Spec | None:
    """Returns what is kept of an example; None where the task keeps nothing."""
    if (found := batches.decoded("validation")) is None:
        return None
    of, _ = found.element_spec
    return cache.Spec(tuple(of.shape[1:]), of.dtype.name)


def key(batches: Batches, name: str, of: cache.Spec) -> str:
    """Returns the key under which a split's decoded examples are kept on disk."""
    digests, made = batches.split(name).digests, batches.fingerprint(False)
    return cache.key(digests, "decoded", (of,), made, "decoded", 1, environment.machine()["cpu"])


def stored(batches: Batches, of: cache.Spec) -> bool:
    """Returns whether an earlier run kept the decoded examples on disk."""
    return all(cache.stored(key(batches, name, of)) for name in SPLITS)


def size(batches: Batches, of: cache.Spec) -> int:
    """Returns the bytes of all decoded examples."""
    return sum(len(batches.split(name)) for name in SPLITS) * of.nbytes


def keep(batches: Batches, on_disk: bool, progress: Progress, group: Group | None = None) -> Batches:
    """Decodes each example once, or finds those of an earlier run. Returns batches that read what is kept.

    Args:
        group: the workers that share the work. Each decodes all where the examples are kept on disk, which need not be
            the same disk.
    """
    started, group, of = time.perf_counter(), group or Group(), spec(batches)
    assert of, "nothing to keep"
    found: dict[str, Split] = {}
    for name in SPLITS:
        split, kept_as = batches.split(name), key(batches, name, of) if on_disk else None
        features = cache.stored(kept_as, progress.say) if kept_as else None
        if features is None:
            shares, stage = group.is_apart and not on_disk, f"decoding {split.modality.plural} ({name})"
            features = cache.compute(
                lambda batch: (batch.numpy(),),
                _decoded(batches, name, group if shares else Group()),
                len(split),
                (of,),
                kept_as,
                f"{batches.recipe.name}, decoded {split.modality.plural}, {name}",
                lambda done: progress.advance(stage, done, len(split)),  # noqa: B023  called at once
                whole=group.sum_rows if shares else None,
            )
        found[name] = replace(split, kept=_Rows(features))
    count, unit = sum(map(len, found.values())), batches.splits.train.modality
    progress.say(
        f"{counted(count, unit.name, unit.plural)} decoded once ({time.perf_counter() - started:.0f} s, "
        f"{cache.shown_size(count * of.nbytes)} {'on disk' if on_disk else 'in memory'})"
    )
    return replace(batches, splits=replace(batches.splits, train=found["train"], validation=found["validation"]))


class _Rows:
    """The rows of decoded examples, by their indices."""

    def __init__(self, features: cache.Features) -> None:
        self._features = features

    def __call__(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        (found,) = self._features.rows(indices)
        return found


def _decoded(batches: Batches, name: str, group: Group) -> Iterator[tuple[Any, Any]]:
    """Yields a group's part of the batches of decoded examples, or all."""
    order = batches.order(name)
    own = group.block(order.steps)
    order = replace(order, start=own.start, kinds=None)
    found = batches.decoded(name, order)
    assert found is not None
    yield from islice(found, len(own))

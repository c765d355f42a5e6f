"""Features of a phase: the frozen prefix's outputs for every example, computed in one pass or read from the cache."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import environment
from kerastune.progress import Progress
from kerastune.tasks.contract import Targets, Tensors
from kerastune.training.batches import Batches
from kerastune.training.prefix import cache, forward, truths
from kerastune.training.prefix.cutting import Cut
from kerastune.training.prefix.forward import Forward, Implementation
from kerastune.workers.group import Group

Key = Callable[[Implementation, str, int | None], str]


@dataclass(frozen=True)
class Kept:
    """Features of all examples.

    Attributes:
        views: features of the training split, one for each augmented view, or a single one without augmentation.
        validation: features of the validation split.
    """

    views: tuple["View", ...]
    validation: "View"


@dataclass(frozen=True)
class View:
    """Features of a split, and the truth that belongs to them."""

    features: cache.Features
    targets: Targets

    def rows(self, indices: npt.NDArray[np.int64]) -> tuple[cache.Arrays, Tensors, npt.NDArray[np.float32]]:
        """The features, truth and weights of some examples."""
        return self.features.rows(indices), *self.targets.rows(indices)


def keys(batches: Batches, phase: int, cut: Cut) -> Key:
    """Returns a function (implementation, split, number of the augmented view or None) -> the key of these features."""
    fingerprint = cut.fingerprint()  # hashes all weights, so only once
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    device = f"{environment.machine()['cpu']} {gpus}"

    @functools.cache
    def truth(name: str) -> str:
        return truths.digest(batches.targets[name])

    def key(by: Implementation, name: str, view: int | None) -> str:
        drawn = None if view is None else [view, batches.recipe.seed, phase, truth(name)]
        preprocessing = f"{batches.fingerprint(view is not None)} {drawn}"
        digests, batch_size = batches.split(name).digests, batches.recipe.train.batch_size
        return cache.key(digests, fingerprint, cut.specs, preprocessing, by, batch_size, device)

    return key


def stored(key: Key, views: int) -> Implementation | None:
    """Returns the implementation whose features of the training split an earlier run cached on disk, or None."""
    first = 0 if views else None
    return next((by for by in get_args(Implementation) if cache.stored(key(by, "train", first))), None)


def count(batches: Batches) -> int:
    """Returns the number of feature rows that a phase caches."""
    views = max(batches.recipe.train.cache_views, 1)
    return views * len(batches.split("train")) + len(batches.split("validation"))


def fastest(batches: Batches, phase: int, cut: Cut, progress: Progress) -> tuple[Forward, Implementation, str]:
    """Returns the fastest implementation for a phase's features, its name, and the reason."""
    first = [x for x, _ in itertools.islice(_inputs(batches, phase, "train", None), 3)]
    needed = math.ceil(count(batches) / batches.recipe.train.batch_size)
    return forward.fastest(cut, first, needed, progress, batches.bucketed)


def keep(
    batches: Batches,
    phase: int,
    cut: Cut,
    key: Key,
    by: Implementation,
    on_disk: bool,
    title: str,
    progress: Progress,
    run_prefix: Forward | None = None,
    group: Group | None = None,
) -> Kept:
    """Runs the prefix once over all examples, or reads the cache of an earlier run.

    Args:
        title: names the phase in messages.
        run_prefix: the prefix in the implementation `by`; None to make it when needed.
        group: the workers that share the pass. Each computes all where the features are kept on disk, which need not be
            the same disk, and of augmented views.
    """
    started, found, group = time.perf_counter(), [], group or Group()
    views: list[int | None] = [*range(batches.recipe.train.cache_views)] or [None]
    wanted: list[tuple[str, int | None]] = [*(("train", view) for view in views), ("validation", None)]
    for name, view in wanted:
        own = batches.targets[name]
        kept_as = key(by, name, view) if on_disk else None
        known = cache.stored(kept_as, progress.say) if kept_as else None
        if known and kept_as:
            found.append(View(known, truths.load(cache.folder(kept_as), own)))
        else:
            run_prefix = run_prefix or forward.forward(cut, by, batches.example, batches.bucketed)
            stage, total = f"{title}, frozen layers ({name})", len(batches.split(name))
            seen = truths.Gathered(own)
            shares = group.is_apart and view is None and not on_disk
            known = cache.compute(
                run_prefix,
                _inputs(batches, phase, name, view, None if view is None else seen.add, group if shares else None),
                total,
                cut.specs,
                kept_as,
                f"{batches.recipe.name}, {title}, {name}",
                lambda done: progress.advance(stage, done, total),  # noqa: B023  called at once
                seen.save,
                group.sum_rows if shares else None,
            )
            found.append(View(known, seen.targets))
    examples = count(batches)
    size = f"{examples * cut.bytes_per_example / 1e6:.1f} MB cached {'on disk' if on_disk else 'in memory'}"
    progress.say(
        f"{title}: the frozen layers up to {', '.join(cut.after)} ran once over {examples:,} examples "
        f"({time.perf_counter() - started:.0f} s, {size})"
    )
    return Kept(tuple(found[:-1]), found[-1])


def _inputs(
    batches: Batches,
    phase: int,
    name: str,
    view: int | None,
    told: Callable[[Any, Any, Any], None] | None = None,
    group: Group | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yields batches of (inputs, indices of their rows), a group's part of them or all.

    Args:
        told: gets the truth, weights and indices of each batch.
    """
    # Texts come in order of length, but the timed batches should be typical.
    order = batches.order(name, seed=(0,) if batches.bucketed else None)
    own = (group or Group()).block(order.steps)
    changes = None if view is None else batches.changes(phase, view)
    found = batches.of(name, replace(order, start=own.start), changes)
    for x, truth, weights, i in itertools.islice(found, len(own)):
        if told:
            told(truth, weights, i)
        yield x, i

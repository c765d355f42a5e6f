"""Features of a phase: the frozen prefix's outputs for every example, computed in one pass or read from the cache."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from kerastune.progress import Progress
from kerastune.training.batches import Batches
from kerastune.training.prefix import cache, forward
from kerastune.training.prefix.cutting import Cut
from kerastune.training.prefix.forward import Forward, Implementation

Key = Callable[[Implementation, str, int | None], str]


@dataclass(frozen=True)
class Kept:
    """Features of all examples.

    Attributes:
        views: features of the training split, one for each augmented view, or a single one without augmentation.
        validation: features of the validation split.
    """

    views: tuple[cache.Features, ...]
    validation: cache.Features


def keys(batches: Batches, phase: int, cut: Cut) -> Key:
    """Returns a function (implementation, split, number of the augmented view or None) -> the key of these features."""
    fingerprint = cut.fingerprint()  # hashes all weights, so only once

    def key(by: Implementation, name: str, view: int | None) -> str:
        drawn = None if view is None else [view, batches.recipe.seed, phase]
        preprocessing = f"{batches.fingerprint(view is not None)} {drawn}"
        digests, batch_size = batches.split(name).digests, batches.recipe.train.batch_size
        return cache.key(digests, fingerprint, cut.specs, preprocessing, by, batch_size)

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
) -> Kept:
    """Runs the prefix once over all examples, or reads the cache of an earlier run.

    Args:
        title: names the phase in messages.
        run_prefix: the prefix in the implementation `by`; None to make it when needed.
    """
    started, found = time.perf_counter(), []
    views: list[int | None] = [*range(batches.recipe.train.cache_views)] or [None]
    wanted: list[tuple[str, int | None]] = [*(("train", view) for view in views), ("validation", None)]
    for name, view in wanted:
        known = cache.stored(key(by, name, view)) if on_disk else None
        if known is None:
            run_prefix = run_prefix or forward.forward(cut, by, batches.example, batches.bucketed)
            stage, total = f"{title}, frozen layers ({name})", len(batches.split(name))
            known = cache.compute(
                run_prefix,
                _inputs(batches, phase, name, view),
                total,
                cut.specs,
                key(by, name, view) if on_disk else None,
                f"{batches.recipe.name}, {title}, {name}",
                lambda done: progress.advance(stage, done, total),  # noqa: B023  called at once
            )
        found.append(known)
    examples = count(batches)
    size = f"{examples * cut.bytes_per_example / 1e6:.1f} MB cached {'on disk' if on_disk else 'in memory'}"
    progress.say(
        f"{title}: the frozen layers up to {', '.join(cut.after)} ran once over {examples:,} examples "
        f"({time.perf_counter() - started:.0f} s, {size})"
    )
    return Kept(tuple(found[:-1]), found[-1])


def _inputs(batches: Batches, phase: int, name: str, view: int | None) -> Iterator[tuple[Any, Any]]:
    """Yields batches of (inputs, indices of their rows)."""
    # Texts come in order of length, but the timed batches should be typical.
    order = batches.order(name, seed=(0,) if batches.bucketed else None)
    for x, _, _, i in batches.of(name, order, None if view is None else batches.changes(phase, view)):
        yield x, i

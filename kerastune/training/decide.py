"""Makes the decisions that a recipe leaves to `auto`: where to keep features and decoded examples, and whether to use
XLA."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from kerastune import environment, keras_private, tasks
from kerastune.errors import RecipeError
from kerastune.recipe import Recipe
from kerastune.records import Decision
from kerastune.training import inputs as decoded
from kerastune.training.batches import Batches
from kerastune.training.prefix import cache as store
from kerastune.training.prefix import cutting, features
from kerastune.training.steps import Steps, without_xla

Where = Literal["off", "memory", "disk"]
TIMED_STEPS = 5
_SAVED = 0.5  # fraction of a step that XLA can save, at best


# --- features ------------------------------------------------------------------------------------------------


def cache(batches: Batches, number: int) -> Decision:
    """Decides where a phase, counted from 1 and already frozen in the model, caches the outputs of its frozen layers.

    Raises:
        RecipeError: what was asked for cannot be had.
    """
    recipe = batches.recipe
    phase, settings = recipe.phases[number - 1], recipe.train
    if not phase.epochs:
        return Decision("train.cache", settings.cache, "off", "the phase has no epochs", number)
    if tasks.get(recipe.task).learning.fit:
        return Decision("train.cache", settings.cache, "off", "one pass, so nothing would be used twice", number)
    cut, where = cutting.cut(batches.task, batches.example, batches.bucketed)
    if cut and (fault := cutting.prove(cut, batches.example)):
        cut, where = None, fault
    got, why = place(
        settings.cache,
        bytes_needed=features.count(batches) * cut.bytes_per_example if cut else 0,
        epochs=phase.epochs,
        memory_available=environment.memory_available(),
        disk_available=store.room(),
        changes=recipe.augments and not settings.cache_views,
        cut_reason=None if cut else where,
        is_stored=cut is not None and bool(features.stored(features.keys(batches, number, cut), settings.cache_views)),
    )
    if cut is None:
        return Decision("train.cache", settings.cache, got, why, number)
    return Decision("train.cache", settings.cache, got, f"{why}; {where}", number, cut.after, cut.bytes_per_example)


def place(
    asked: Literal["auto", "off", "memory", "disk"],
    *,
    bytes_needed: int,
    epochs: int,
    memory_available: int,
    disk_available: int,
    changes: bool,
    cut_reason: str | None,
    is_stored: bool = False,
) -> tuple[Where, str]:
    """Decides where to cache a phase's features, with the reason.

    Args:
        memory_available, disk_available: bytes; the latter is `cache.room()`.
        changes: whether augmentation changes the inputs each epoch.
        cut_reason: why there is nothing to cache, or None.
        is_stored: whether an earlier run cached the same features on disk.

    Raises:
        RecipeError: what was asked for cannot be had.
    """
    size = store.shown_size(bytes_needed)
    if asked == "off":
        return "off", "as asked"
    if asked != "auto":
        wish = f'train.cache = "{asked}"'
        if cut_reason is not None:
            raise RecipeError(
                f"{wish}, but a phase has nothing to cache: {cut_reason}.", 'Use cache = "auto", or train fewer layers.'
            )
        if changes:
            raise RecipeError(
                f"{wish}, but [augment] changes the images every epoch.",
                "Set train.cache_views to the number of views of each to cache, or leave out [augment].",
            )
        if not (asked == "disk" and is_stored):
            available = memory_available if asked == "memory" else disk_available
            _refuse_without_room("cache", asked, f"the features take {size}", bytes_needed, available)
        return asked, f"as requested; {size}"
    if cut_reason is not None:
        return "off", f"nothing to cache: {cut_reason}"
    if changes:
        return "off", "[augment] changes the images every epoch; train.cache_views would cache some views"
    if is_stored:
        return "disk", f"an earlier run cached them ({size})"
    if epochs <= 1:
        return "off", "the phase has one epoch, so nothing would be used twice"
    return _by_size(bytes_needed, memory_available, disk_available)


def _refuse_without_room(key: str, asked: Where, what: str, bytes_needed: int, available: int) -> None:
    if bytes_needed > available:
        raise RecipeError(
            f'train.{key} = "{asked}", but {what}, and the {asked} has room for {store.shown_size(available)}.',
            f'Use {key} = "auto"; KERASTUNE_CACHE_GB limits the disk.',
        )


def _by_size(bytes_needed: int, memory_available: int, disk_available: int) -> tuple[Where, str]:
    size, memory, disk = map(store.shown_size, (bytes_needed, memory_available, disk_available))
    if bytes_needed <= memory_available / 4:
        return "memory", f"{size}, at most a quarter of the {memory} of free memory"
    if bytes_needed <= disk_available:
        return "disk", f"{size}, more than a quarter of the {memory} of free memory; the disk has room for {disk}"
    return (
        "off",
        f"{size}, more than a quarter of the {memory} of free memory, and more than the disk has room for ({disk})",
    )


# --- decoded examples ----------------------------------------------------------------------------------------


def inputs(batches: Batches, caches: Sequence[Decision]) -> Decision | None:
    """Decides where to keep decoded examples, in all phases; None for a task that keeps none and was not asked to.

    Args:
        caches: what `cache` has decided for each phase.

    Raises:
        RecipeError: what was asked for cannot be had.
    """
    recipe, of = batches.recipe, decoded.spec(batches)
    asked = recipe.train.inputs
    if of is None:
        if asked in ("memory", "disk"):
            units = batches.splits.train.modality.plural
            said = f'train.inputs = "{asked}", but {recipe.task} keeps no decoded {units}.'
            raise RecipeError(said, "Remove it.")
        return None
    if asked == "off":
        return Decision("train.inputs", asked, "off", "as asked")
    needed, memory, disk = decoded.size(batches, of), environment.memory_available(), store.room()
    is_stored, what = decoded.stored(batches, of), f"{store.shown_size(needed)} of decoded examples"
    if asked != "auto":
        if not (asked == "disk" and is_stored):
            available = memory if asked == "memory" else disk
            _refuse_without_room("inputs", asked, f"there are {what}", needed, available)
        return Decision("train.inputs", asked, asked, f"as requested; {what}")
    read = sum(_read(recipe, one) for one in caches)
    if read <= 1:
        return Decision("train.inputs", asked, "off", "each example is read once, so nothing would be used twice")
    if is_stored:
        return Decision("train.inputs", asked, "disk", f"an earlier run kept them ({what})")
    got, why = _by_size(needed, memory, disk)
    return Decision("train.inputs", asked, got, f"examples are read {read} times; {why}")


def _read(recipe: Recipe, decision: Decision) -> int:
    """Returns how often a phase reads an example, given where it keeps features."""
    epochs = recipe.phases[(decision.phase or 1) - 1].epochs
    return epochs if decision.got == "off" else max(recipe.train.cache_views, 1)


# --- XLA -----------------------------------------------------------------------------------------------------


def xla(
    compiled: Callable[[bool], Steps],
    task: keras.Model,
    kept: bool,
    batches: Iterable[Any],
    left: int,
    shapes: int,
    metrics: Sequence[keras.metrics.Metric],
    unchanged: Callable[[], AbstractContextManager[None]],
) -> tuple[Steps, bool, str]:
    """Times real training steps with and without XLA. Returns the faster steps, whether they use XLA, and the reason.

    Args:
        compiled: makes the steps, with XLA or without.
        kept: whether the outputs of frozen layers are kept, so that the steps do not run these.
        batches: the batches of an epoch.
        left: number of steps of the phase.
        shapes: number of batch shapes; each is compiled.
        unchanged: a context that restores the training at its end.
    """
    plain = compiled(False)
    if bad := without_xla(task):
        return plain, False, f"XLA does not support these layers: {', '.join(bad)}"
    if _is_convolutional(task, kept) and not tf.config.list_physical_devices("GPU"):
        return plain, False, "XLA has no fast convolutions on CPUs (EfficientNet-Lite0: 9 images/s instead of 119)"
    if left <= 2 * TIMED_STEPS:
        return plain, False, f"the phase has {left} steps, too few to measure"
    same = _of_one_shape(batches, TIMED_STEPS + 1)
    with unchanged():
        traced_s, plain_s = _timed(plain, same, metrics)
        if shapes * traced_s > _SAVED * plain_s * left:  # compiling takes longer than tracing, for every shape
            why = f"{left} steps of {1e3 * plain_s:.1f} ms are too few for compiling {shapes} shapes to pay off"
            return plain, False, f"{why}: tracing one takes {traced_s:.1f} s"
        fused = compiled(True)
        try:
            compile_s, xla_s = _timed(fused, same, metrics, give_up=2 * plain_s)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            return plain, False, f"XLA cannot compile the step: {str(error).splitlines()[0][:200]}"
    # Every other shape, such as that of an epoch's last batch, needs another compilation.
    cost = left * xla_s + (shapes - 1) * compile_s
    times = f"a step takes {1e3 * plain_s:.1f} ms without XLA and {1e3 * xla_s:.1f} ms with it"
    why = f"{times}, after {compile_s:.0f} s of compiling for each of {shapes} shapes, for {left} steps"
    return (fused, True, why) if cost < plain_s * left else (plain, False, why)


def _is_convolutional(task: keras.Model, kept: bool) -> bool:
    """Whether most of the kernels that a step runs are those of convolutions."""
    layers = [layer for layer in keras_private.layers(task) if layer.trainable_variables or not kept]
    kernels = [layer for layer in layers if hasattr(layer, "kernel")]
    return sum(hasattr(layer, "kernel_size") for layer in kernels) > len(kernels) / 2


def _of_one_shape(batches: Iterable[Any], count: int) -> list[Any]:
    """Returns the first batches of one shape, repeated if there are too few."""
    groups: dict[str, list[Any]] = {}
    for batch in batches:
        of_shape = groups.setdefault(str([x.shape for x in tf.nest.flatten(batch)]), [])
        of_shape.append(batch)
        if len(of_shape) == count:
            return of_shape
    most = max(groups.values(), key=len)
    return list(itertools.islice(itertools.cycle(most), count))


def _timed(
    steps: Steps, batches: Sequence[Any], metrics: Sequence[keras.metrics.Metric], give_up: float = math.inf
) -> tuple[float, float]:
    """Returns the seconds of the first step, including tracing and compiling, and of a later one (median)."""
    seconds: list[float] = []
    for batch in batches:
        started = time.perf_counter()
        steps.train(*batch)
        float(metrics[0].result())  # waits for the device
        seconds.append(time.perf_counter() - started)
        if len(seconds) > 1 and seconds[-1] > give_up:
            break
    return seconds[0], float(np.median(seconds[1:]))

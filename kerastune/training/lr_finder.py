"""Learning-rate range test: finds usable rates for a phase in one short run with a rising rate.

Smith 2017, Cyclical learning rates for training neural networks, arXiv:1506.01186.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kerastune import files, tasks
from kerastune.errors import RecipeError
from kerastune.progress import Progress
from kerastune.recipe import Phase, Recipe
from kerastune.training import freezing, optimizers
from kerastune.training.feed import Feed
from kerastune.training.loop import Training
from kerastune.training.plan import plan

LOWEST, HIGHEST = 1e-7, 1.0
_MEMORY = 0.95  # decay of the running mean that smooths the losses
_DIVERGED = 4.0  # times the lowest loss, where the test ends
_CLEAR = 6.0  # standard deviations of noise that a fall must exceed: noise alone does in less than 1 of 50 curves

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """A range test, with one entry per step.

    Attributes:
        rates: float64 [n], rising.
        losses: float64 [n], smoothed.
        suggestion: the rate at which the loss falls fastest, or None.
        why_none: why there is no suggestion, or None.
    """

    phase: int
    rates: Floats
    losses: Floats
    suggestion: float | None
    why_none: str | None = None


def find(recipe: Recipe, phase: int = 1, steps: int = 100, progress: Progress | None = None) -> Found:
    """Trains a phase with a rate that rises from 1e-7 to 1, a little each step, until the loss diverges.

    Trains the earlier phases first, because the phase starts from their weights. Keeps nothing.

    Raises:
        RecipeError: there is no such phase, or it trains nothing.
        DataError, AssetError: as `fine_tune`.
    """
    if not 1 <= phase <= len(recipe.phases):
        raise RecipeError(f"There is no phase {phase}: the recipe has {len(recipe.phases)}.", "Count from 1.")
    tested = recipe.phases[phase - 1]
    if tasks.get(recipe.task).learning.fit:
        raise RecipeError(f"{recipe.task} has no learning rate: it computes statistics in one pass.")
    if not tested.epochs:
        raise RecipeError(f"Phase {phase} (unfreeze = {tested.unfreeze!r}) trains nothing.")
    progress = progress or Progress()
    made = plan(recipe, progress)
    with files.scratch() as scratch:
        training = Training(made, scratch, {}, progress)
        if training.run(phase - 1):
            raise KeyboardInterrupt
        settings = {"epochs": math.ceil(steps / training.steps), "schedule": "constant"}
        losses = _climb(training, tested.model_copy(update=settings), steps, progress)
    rates = np.array([LOWEST * _growth(steps) ** step for step in range(len(losses))])
    return Found(phase, rates, _smoothed(losses), *_steepest(rates, losses))


def _growth(steps: int) -> float:
    return float((HIGHEST / LOWEST) ** (1 / max(steps - 1, 1)))


def _climb(training: Training, phase: Phase, steps: int, progress: Progress) -> Floats:
    """Returns the loss of each step until it diverges."""
    freezing.freeze(training.task, phase)
    training.optimizer = optimizers.of_phase(phase, training.task, steps, training.steps)
    growth = _growth(steps)
    inner = getattr(training.optimizer, "inner_optimizer", training.optimizer)
    inner.learning_rate = keras.optimizers.schedules.ExponentialDecay(LOWEST, 1, growth)  # grows
    feed = training.feed(phase.epochs)
    functions = training.compiled(feed, xla=False)
    losses: list[float] = []
    lowest = math.inf
    for number, batch in enumerate(_batches(feed, steps, training.steps), start=1):
        training.metrics[0].reset_state()
        functions.train(*batch)
        loss = float(training.metrics[0].result())
        smooth = float(_smoothed(np.array([*losses, loss]))[-1])
        if not math.isfinite(loss) or (number > steps // 10 and smooth > _DIVERGED * lowest):
            break
        losses.append(loss)
        lowest = min(lowest, smooth)
        progress.advance(
            "raising rate", number, steps, f"rate {LOWEST * growth ** (number - 1):.1e}  loss {smooth:.4f}"
        )
    return np.array(losses)


def _batches(feed: Feed, steps: int, an_epoch: int) -> Iterator[Any]:
    epochs = (feed.train(epoch, 0) for epoch in range(1, math.ceil(steps / an_epoch) + 1))
    return itertools.islice(itertools.chain.from_iterable(epochs), steps)


def _smoothed(losses: Floats) -> Floats:
    """Returns the running mean of each loss and those before it."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        found.append(mean / (1 - _MEMORY**number))
    return np.array(found)


def _steepest(rates: Floats, losses: Floats) -> tuple[float | None, str | None]:
    """Returns the rate at which the smoothed loss falls fastest on its longest fall; or None and why there is none."""
    if len(losses) < 10:
        return None, f"the loss diverges after {len(losses)} steps"
    smooth = _smoothed(losses)
    first = len(losses) // 10  # too few losses for a mean
    falls = np.maximum.accumulate(smooth[first:]) - smooth[first:]
    end = first + int(falls.argmax())
    begin = first + int(smooth[first : end + 1].argmax())
    if begin == end:
        return None, "the loss does not fall at any rate"
    noise = _noise(losses[: end + 1], begin)
    if falls.max() < _CLEAR * noise:
        return None, f"the curve is too noisy: the loss falls by {falls.max():.2g}, and noise moves it by {noise:.2g}"
    half = max(1, len(losses) // 25)  # a slope over several steps: a single one is noise
    at = np.arange(begin, end + 1)
    before, after = np.maximum(at - half, begin), np.minimum(at + half, end)
    slopes = (smooth[after] - smooth[before]) / (after - before)
    return float(rates[at[slopes.argmin()]]), None


def _noise(losses: Floats, step: int) -> float:
    """Returns the standard deviation of the smoothed loss at a step, counted from 0, that batches alone cause."""
    single = float(np.std(np.diff(losses))) / math.sqrt(2)
    decay = _MEMORY ** (step + 1)
    return single * math.sqrt((1 - _MEMORY) / (1 + _MEMORY) * (1 - decay**2)) / (1 - decay)


def plot(found: Found, path: Path) -> None:
    """Plots loss over learning rate, with the suggestion, to a PNG, SVG or PDF file."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    axes.plot(found.rates, found.losses)
    axes.set_title(f"Learning-rate range test, phase {found.phase}")
    if found.suggestion:
        axes.axvline(found.suggestion, linestyle="--", label=f"steepest: {found.suggestion:.1e}")
        axes.legend()
    figure.savefig(path)

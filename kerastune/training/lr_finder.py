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

from kerastune import files
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


@dataclass(frozen=True)
class Found:
    """A range test, with one entry per step.

    Attributes:
        rates: float64 [n], rising.
        losses: float64 [n], smoothed.
        suggestion: the rate at which the loss falls fastest, or None if it never falls.
    """

    phase: int
    rates: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    suggestion: float | None


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
    if not tested.epochs:
        raise RecipeError(f"Phase {phase} (unfreeze = {tested.unfreeze!r}) trains nothing.")
    progress = progress or Progress()
    made = plan(recipe, progress)
    with files.scratch() as scratch:
        training = Training(made, scratch, {}, progress)
        if training.run(phase - 1):
            raise KeyboardInterrupt
        settings = {"epochs": math.ceil(steps / training.steps), "schedule": "constant"}
        rates, losses = _climb(training, tested.model_copy(update=settings), steps, progress)
    return Found(phase, rates, losses, _steepest(rates, losses))


def _climb(training: Training, phase: Phase, steps: int, progress: Progress) -> tuple[Any, Any]:
    freezing.freeze(training.task, phase)
    training.optimizer = optimizers.of_phase(phase, training.task, steps)
    growth = (HIGHEST / LOWEST) ** (1 / max(steps - 1, 1))
    inner = getattr(training.optimizer, "inner_optimizer", training.optimizer)
    inner.learning_rate = keras.optimizers.schedules.ExponentialDecay(LOWEST, 1, growth)  # grows
    feed = training.feed(phase.epochs)
    functions = training.compiled(feed, xla=False)
    losses: list[float] = []
    mean = 0.0
    for number, batch in enumerate(_batches(feed, steps, training.steps), start=1):
        training.metrics[0].reset_state()
        functions.train(*batch)
        loss = float(training.metrics[0].result())
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        smooth = mean / (1 - _MEMORY**number)
        if not math.isfinite(loss) or (number > steps // 10 and smooth > _DIVERGED * min(losses)):
            break
        losses.append(smooth)
        progress.advance(
            "raising rate", number, steps, f"rate {LOWEST * growth ** (number - 1):.1e}  loss {smooth:.4f}"
        )
    return LOWEST * growth ** np.arange(len(losses)), np.array(losses)


def _batches(feed: Feed, steps: int, an_epoch: int) -> Iterator[Any]:
    epochs = (feed.train(epoch, 0) for epoch in range(1, math.ceil(steps / an_epoch) + 1))
    return itertools.islice(itertools.chain.from_iterable(epochs), steps)


def _steepest(rates: npt.NDArray[np.float64], losses: npt.NDArray[np.float64]) -> float | None:
    if len(rates) < 10:
        return None
    slope = np.gradient(losses, np.log10(rates))
    slope[: len(slope) // 10] = 0  # too few losses for the smoothed mean
    return float(rates[slope.argmin()]) if slope.min() < 0 else None


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

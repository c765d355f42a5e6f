"""After training: divides the logits by the temperature that suits the validation split, and sets the threshold."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerastune import tasks
from kerastune.data import Split, Splits
from kerastune.errors import RecipeError, quoted
from kerastune.progress import Progress
from kerastune.recipe import Recipe
from kerastune.tasks import losses
from kerastune.tasks.learnt import Predictions, calibration


def calibrate(recipe: Recipe, task: Any, splits: Splits, progress: Progress) -> float | None:
    """Divides the head's weights by the temperature, so that every export has it inside, and returns it.

    Returns None if the recipe does not ask for it.
    """
    if not recipe.train.calibrate:
        return None
    split = splits.validation
    told = functools.partial(progress.advance, "calibrating", total=len(split))
    found = tasks.get(recipe.task).predict(recipe, task, split, recipe.train.batch_size, told)
    heat = calibration.temperature(np.asarray(found["scores"]), split.labels, _exclusive(recipe))
    for weight in losses.head(task):
        weight.assign(weight / heat)
    return heat


def errors(recipe: Recipe, heat: float, split: Split, predictions: Predictions) -> dict[str, float]:
    """Returns the expected calibration error of a split "before" the logits were divided by `heat`, and "after".

    Args:
        predictions: of the calibrated model.
    """
    after, exclusive = np.asarray(predictions["scores"]), _exclusive(recipe)
    both = {"before": calibration.heated(after, 1 / heat, exclusive), "after": after}
    return {
        when: round(calibration.calibration_error(*_sure(scores, split.labels)), 5) for when, scores in both.items()
    }


def refuse_unknown(recipe: Recipe, splits: Splits) -> None:
    """Raises RecipeError for a threshold on a label that the data do not have, or validation lacks."""
    asked = recipe.threshold
    if not asked:
        return
    if asked.label not in splits.labels:
        there = ", ".join(map(quoted, splits.labels[:20]))
        raise RecipeError(f"threshold.label = {quoted(asked.label)}, but the labels are {there}.")
    if splits.labels.index(asked.label) not in splits.validation.labels:
        raise RecipeError(
            f"threshold.label = {quoted(asked.label)}: no validation example has it, so nothing can be chosen there.",
            "Raise data.validation_fraction, or add examples.",
        )


def decision(recipe: Recipe, splits: Splits, said: Mapping[str, Predictions]) -> dict[str, Any] | None:
    """Returns the threshold that the recipe asks for, chosen on validation, and its rates on both splits, for run.json.

    Args:
        said: the saved model's predictions by split.
    """
    asked = recipe.threshold
    if not asked:
        return None
    label = splits.labels.index(asked.label)
    scores = {name: np.asarray(said[name]["scores"])[:, label] for name in ("validation", "test")}
    positive = {name: splits.parts[name].labels == label for name in scores}
    least = calibration.threshold(positive["validation"], scores["validation"], asked.sensitivity, asked.miss_cost)
    rates = {name: calibration.rates(positive[name], scores[name] >= least) for name in scores}
    return {"label": asked.label, "threshold": least, **rates}


def _sure(scores: Any, truth: Any) -> tuple[Any, Any]:
    """Returns the confidence in each answer and whether it is right; of several labels, each answer counts."""
    if truth.ndim == 1:
        return scores.max(-1), scores.argmax(-1) == truth
    called = scores > 0.5
    return np.where(called, scores, 1 - scores).ravel(), (called == (truth > 0.5)).ravel()


def _exclusive(recipe: Recipe) -> bool:
    return recipe.data.target == "label"

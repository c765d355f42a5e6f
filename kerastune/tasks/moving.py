"""Feeds pictures whose truth lies in places: augmentation moves both."""

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from kerastune.data import Order, Split
from kerastune.recipe.settings import Recipe
from kerastune.tasks import draws, geometry
from kerastune.tasks.contract import Changes, Dataset, Feeding, Model, Targets
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.image_classification.settings import Augment as Colours
from kerastune.tasks.pipeline import ahead, with_truth


class Augment(Protocol):
    """What may change in training pictures."""

    flip: geometry.Flip
    crop: float
    zoom_out: float
    color: float

    def model_dump_json(self) -> str:
        """Returns all of it as text."""


def moving(augment_of: Callable[[Any], Augment], moved: Callable[[Any, tf.Tensor], Any]) -> Feeding[Any]:
    """Returns how a task is fed.

    Args:
        augment_of: gives a recipe's settings.
        moved: gives the truth of a batch as it lies in windows onto its pictures, as of `geometry`.
    """

    def batches(
        recipe: Recipe, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
    ) -> Dataset:
        if changes is None:
            return with_truth(feeding.training(model, split, order), targets)
        augment, seed, view = augment_of(recipe), changes.seed, changes.view
        found = with_truth(feeding.training(model, split, order, Colours(color=augment.color), seed, view), targets)
        if not (augment.flip != "none" or augment.crop or augment.zoom_out):
            return found

        def seen(number: tf.Tensor, batch: Any) -> Any:
            x, truth, weights, i = batch
            keys = draws.keys(seed, draws.time(order, number, view), i)
            windows = geometry.windows(keys, augment.flip, augment.crop, augment.zoom_out)
            x = tf.ensure_shape(geometry.pictures(x, windows), x.shape)
            return x, moved(truth, windows), weights, i

        return ahead(found.enumerate(order.start).map(seen))

    return Feeding(
        order=lambda recipe, *rest: feeding.order(*rest),
        batches=batches,
        example=lambda recipe, model, split, batch_size: feeding.example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: (
            feeding.preprocessing(model) + (augment_of(recipe).model_dump_json() if changed else "")
        ),
        shapes="fixed",
        decoded=lambda recipe, *rest: feeding.decoded(*rest),
        parts=lambda recipe: True,
    )

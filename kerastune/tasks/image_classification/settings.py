"""Settings for image classification recipes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kerastune.recipe.base import Settings
from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import CsvData, FolderData, TfdsData


class Augment(Settings):
    """Random changes to training images, never to validation images, by Keras layers in the input pipeline."""

    flip: Literal["none", "horizontal", "vertical", "horizontal_and_vertical"] = "none"
    """Mirror half of the images."""
    crop: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Fraction of the height and width that a random crop removes (then resized back)."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random brightness, contrast and saturation."""
    rand_augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of RandAugment (two random operations per image; Cubuk et al. 2019, arXiv:1909.13719)."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Blends each image and its label with another; alpha of the Beta distribution of the fraction (Zhang et al. 2018,
    arXiv:1710.09412). 0.2 is usual."""
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pastes a rectangle of another image into each; alpha as above, 1.0 is usual (Yun et al. 2019,
    arXiv:1905.04899)."""

    @property
    def any(self) -> bool:
        """Returns whether training images change from epoch to epoch."""
        return self != Augment()


class ImageClassification(Recipe):
    """Labels, or a number, for an image."""

    task: Literal["image_classification"]
    data: Annotated[FolderData | CsvData | TfdsData, Field(discriminator="source")]
    augment: Augment = Augment()

    @property
    def augments(self) -> bool:
        return self.augment.any

    @model_validator(mode="after")
    def _augmentation_suits_training(self) -> "ImageClassification":
        train, augment = self.train, self.augment
        if train.cache_views and (augment.mixup or augment.cutmix):
            raise ValueError("train.cache_views cannot cache mixup or cutmix, which need two images at a time")
        return self


RECIPE = ImageClassification

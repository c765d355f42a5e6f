"""Settings for image segmentation recipes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kerastune.recipe.base import Settings
from kerastune.recipe.mask_sources import MaskData
from kerastune.recipe.settings import Recipe


class MaskAugment(Settings):
    """Random changes to training pictures, never to validation pictures. Masks move with what they show, and no class
    is blended with another."""

    flip: Literal["none", "horizontal", "vertical", "horizontal_and_vertical"] = "none"
    """Mirror half of the pictures."""
    crop: Annotated[float, Field(ge=0, le=0.7)] = 0.0
    """Largest share of the height and width that a random crop removes (then resized back): things become larger."""
    zoom_out: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Largest share by which a picture is put on a larger plain ground (then resized back): things become smaller. The
    ground does not count."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random brightness, contrast and saturation."""

    @property
    def any(self) -> bool:
        """Returns whether training pictures change from epoch to epoch."""
        return self != MaskAugment()


class Segmenter(Settings):
    """The head: a light DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611)."""

    width: Annotated[int, Field(ge=8, le=512)] = 64
    """Channels of the head."""
    dice: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Weight of the Dice loss (Milletari et al. 2016, arXiv:1606.04797) beside the cross-entropy."""
    probabilities: bool = False
    """Whether exported files also give the probability of each class at each pixel: 4 bytes each, so those of 7 classes
    take 28 times as much as the map."""


MOST = 2**24
"""Probabilities of a picture of the model's size, at most: a proof holds those of four pictures, of 64 MiB each."""


class ImageSegmentation(Recipe):
    """The class of each pixel of a picture."""

    task: Literal["image_segmentation"]
    data: MaskData
    augment: MaskAugment = MaskAugment()
    segmenter: Segmenter = Segmenter()

    @property
    def augments(self) -> bool:
        return self.augment.any

    @model_validator(mode="after")
    def _holds_its_probabilities(self) -> "ImageSegmentation":
        side, classes = self.data.image_size, len(self.data.classes)
        if self.segmenter.probabilities and (count := side**2 * classes) > MOST:
            raise ValueError(
                f"segmenter.probabilities: a picture of {side} x {side} pixels has {count:,} of {classes} classes, and "
                f"{MOST:,} are allowed; lower data.image_size, or leave it out and take the logits, in larger cells"
            )
        return self


RECIPE = ImageSegmentation
"""The settings of this task."""

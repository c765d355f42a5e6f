"""Settings for image segmentation recipes."""

from typing import Annotated, Literal

from pydantic import Field

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


class ImageSegmentation(Recipe):
    """The class of each pixel of a picture."""

    task: Literal["image_segmentation"]
    data: MaskData
    augment: MaskAugment = MaskAugment()
    segmenter: Segmenter = Segmenter()

    @property
    def augments(self) -> bool:
        return self.augment.any


RECIPE = ImageSegmentation
"""The settings of this task."""

"""Settings for object detection recipes."""

from typing import Annotated, Literal

from pydantic import Field

from kerastune.recipe.base import Settings
from kerastune.recipe.box_sources import BoxData
from kerastune.recipe.settings import Recipe


class BoxAugment(Settings):
    """Random changes to training pictures, never to validation pictures. Boxes move with what they show."""

    flip: Literal["none", "horizontal", "vertical", "horizontal_and_vertical"] = "none"
    """Mirror half of the pictures."""
    crop: Annotated[float, Field(ge=0, le=0.7)] = 0.0
    """Largest share of the height and width that a random crop removes (then resized back): objects become larger."""
    zoom_out: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Largest share by which a picture is put on a larger plain ground (then resized back): objects become smaller."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random brightness, contrast and saturation."""

    @property
    def any(self) -> bool:
        """Returns whether training pictures change from epoch to epoch."""
        return self != BoxAugment()


class BoxHead(Settings):
    """The head: a light feature pyramid, and two small networks that all its levels share."""

    width: Annotated[int, Field(ge=8, le=512)] = 64
    """Channels of the pyramid and the shared networks."""
    anchor_scale: Annotated[float, Field(ge=1, le=16)] | Literal["auto"] = "auto"
    """Side of the smallest anchor, in cells of its level. "auto" takes the one whose anchors cover most of the training
    boxes."""


class ObjectDetection(Recipe):
    """Boxes around what is looked for, each with its label and a score."""

    task: Literal["object_detection"]
    data: BoxData
    augment: BoxAugment = BoxAugment()
    detector: BoxHead = BoxHead()

    @property
    def augments(self) -> bool:
        return self.augment.any


RECIPE = ObjectDetection
"""The settings of this task."""

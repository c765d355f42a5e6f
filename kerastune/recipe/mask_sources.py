"""The [data] table of segmentation: pictures, and masks with the class of each pixel."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from kerastune.errors import quoted
from kerastune.recipe.base import Text
from kerastune.recipe.coco_sources import CocoImages
from kerastune.recipe.paths import AssetOrPath
from kerastune.recipe.sources import Images, Reader, Target, TfdsImages

CELL = 32
"""Pixels that a picture's side must be a multiple of: the coarsest feature map has as many a cell."""


def _colour(value: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise ValueError(f"{quoted(value)} is no colour such as #ff8000")
    return value.lower()


Colour = Annotated[str, AfterValidator(_colour)]


class Masks(Images):
    """Settings of every source of pictures with masks."""

    classes: Annotated[tuple[Text, ...], Field(strict=False, min_length=2, max_length=255)]
    """Names of the classes: the first is that of pixels of value 0, the next of value 1, and so on. Of a COCO file: the
    first is that of pixels without annotation, and the others are its categories."""
    image_size: Annotated[int, Field(ge=CELL, le=4096, multiple_of=CELL)] = 256
    """Side in pixels of the model's square input. A multiple of 32."""

    @property
    def target(self) -> Target:
        return "mask"

    @model_validator(mode="after")
    def _classes_are_told_apart(self) -> "Masks":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names a class twice")
        return self


class StoredMasks(Masks):
    """Settings of sources whose masks are pictures."""

    colors: Annotated[tuple[Colour, ...], Field(strict=False)] = ()
    """Colours of the classes in their order, such as "#ff8000", for masks that are painted with colours. Maps are drawn
    in them, or else in those of the masks' palettes."""
    ignore: Annotated[int, Field(ge=0, le=255)] | None = 255
    """Value of pixels that neither train nor count, such as borders."""

    @model_validator(mode="after")
    def _values_are_told_apart(self) -> "StoredMasks":
        if self.colors and len(self.colors) != len(self.classes):
            raise ValueError(f"colors has {len(self.colors)} colours for {len(self.classes)} classes")
        if len(set(self.colors)) < len(self.colors):
            raise ValueError("colors names a colour twice")
        if self.ignore is not None and self.ignore < len(self.classes):
            raise ValueError(
                f"ignore = {self.ignore} is also the value of the class {quoted(self.classes[self.ignore])}"
            )
        return self


class MaskFolders(StoredMasks):
    """Pictures and masks in two folders, path/images/NAME.jpg and path/masks/NAME.png; or, with declared splits, in
    path/{train,validation,test}/images and …/masks. Folders inside them must be alike."""

    reader: ClassVar[Reader] = "masks"

    source: Literal["masks"]
    path: AssetOrPath
    """Folder that holds the two folders, or the splits; or a fetched asset."""
    images: Text = "images"
    """Name of the folder of pictures."""
    masks: Text = "masks"
    """Name of the folder of masks: PNG files, whose values are numbers of classes."""


class TfdsMasks(StoredMasks, TfdsImages):
    """A TensorFlow Datasets data set with an image and a mask of the same size."""

    reader = "tfds_masks"

    mask_key: Text = "segmentation_mask"
    """The feature with the mask."""


class CocoMasks(Masks, CocoImages):
    """A COCO file of annotations, with "images", "annotations", whose "segmentation" counts, and "categories"."""

    reader = "coco_masks"


MaskData = Annotated[MaskFolders | TfdsMasks | CocoMasks, Field(discriminator="source")]

"""The [data] table of object detection: settings for the sources of boxes in kerastune/data/sources."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from kerastune.errors import quoted
from kerastune.recipe.base import Text
from kerastune.recipe.coco_sources import CocoImages
from kerastune.recipe.paths import AssetOrPath
from kerastune.recipe.sources import CsvImages, Images, Reader, Target, TfdsImages

CELL = 8
"""Pixels of the finest cells of a detector. Smaller objects can hardly be told apart."""
_MULTIPLE = 32


class Boxes(Images):
    """Settings of every source of pictures with boxes."""

    image_size: Annotated[int, Field(ge=64, le=2048)] = 320
    """Side in pixels of the model's square input, a multiple of 32. Pictures are stretched to it, and boxes come out in
    their own pixels. Small objects need a large one."""

    @field_validator("image_size")
    @classmethod
    def _is_whole_cells(cls, value: int) -> int:
        if value % _MULTIPLE:
            near = max(round(value / _MULTIPLE), 2) * _MULTIPLE
            raise ValueError(f"{quoted(value)} is not a multiple of {_MULTIPLE}; {near} is near")
        return value

    @property
    def target(self) -> Target:
        return "boxes"


class CocoData(Boxes, CocoImages):
    """A COCO file of annotations, with "images", "annotations", whose boxes count, and "categories"."""

    reader = "coco_boxes"


class YoloData(Boxes):
    """Pictures and label files in parallel folders images/ and labels/, as Ultralytics has them."""

    reader: ClassVar[Reader] = "yolo"

    source: Literal["yolo"]
    path: AssetOrPath
    """data.yaml with "names" and the folders or lists of "train", "val" and "test"; or the folder that holds it."""


class CsvBoxes(Boxes, CsvImages):
    """A CSV file with a row for each box: an image path, a label and four corners; empty cells if a picture shows
    nothing."""

    reader = "csv_boxes"

    box_columns: Annotated[tuple[Text, Text, Text, Text], Field(strict=False)] = ("xmin", "ymin", "xmax", "ymax")
    """Columns of the left, upper, right and lower edge, in pixels."""


class TfdsBoxes(Boxes, TfdsImages):
    """A TensorFlow Datasets data set with an image and a sequence of objects, each with a "bbox" and a label."""

    reader = "tfds_boxes"

    objects_key: Text = "objects"
    """The feature with the objects. `label_key` names the label in it."""
    box_key: Text = "bbox"
    """The feature of an object with its box."""


BoxData = Annotated[CocoData | YoloData | CsvBoxes | TfdsBoxes, Field(discriminator="source")]

"""The [data] table of images that are told apart without a label for each output: groups, and defects."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from kerastune.recipe.base import Fraction, Text
from kerastune.recipe.paths import FilePath
from kerastune.recipe.sources import CsvImages, Data, FolderData, Images, Reader, Target, TfdsImages

_KNOWN = 0.15  # of the images of each training label, where a recipe says nothing


class Defects(Images):
    """Settings of every source of pictures of good pieces and, for the report, of defective ones."""

    reader: ClassVar[Reader] = "defects"

    good: Text = "good"
    """Label of good pictures, or name of their folder. Every other one is a kind of defect."""
    image_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side in pixels of the squares that pictures are resized to. Default: the size of the training pictures. Small
    defects vanish from pictures that are made smaller."""
    validation_fraction: Fraction = 0.3
    """Fraction of good pictures held out to set the threshold, if there is no validation split. Of defective ones,
    which are never learnt, validation and test take their shares."""

    @property
    def target(self) -> Target:
        return "defects"


class MaskedDefects(Defects):
    """Settings of sources whose defects may have masks."""

    masks: FilePath | None = None
    """Folder of masks of the defects, white on black: <kind>/NAME.png or <kind>/NAME_mask.png, if need be below
    validation/ and test/. Default: the folder ground_truth beside the pictures, if there is one."""


class FolderDefects(MaskedDefects, FolderData):
    """Pictures in folders: path/good/*.jpg and path/<kind>/*.jpg, or path/{train,validation,test}/{good,<kind>}/*.jpg
    with train/good alone, as in MVTec AD."""

    reader = "defects"


class CsvDefects(MaskedDefects, CsvImages):
    """A CSV file with a column of image paths and a column of labels, one of them for good pictures."""

    reader = "defects"


class TfdsDefects(Defects, TfdsImages):
    """A TensorFlow Datasets data set with an image and a label. Defective images of train go to validation and test."""

    reader = "defects"


class Grouped(Data):
    """Settings of every source of images in which images with the same label belong together."""

    known_labels: bool = False
    """Whether the images of a label may lie in several splits. Default: validation and test hold labels that training
    never saw, so the figures say how well new ones are told apart."""

    known_fraction: Fraction | None = None
    """Fraction of the images of each training label, at least two, kept out of training to report how well known labels
    are found. A label that would keep fewer than four gives none. Default: 0.15; without known_labels only."""

    @property
    def target(self) -> Target:
        return "groups"

    @property
    def whole_labels(self) -> bool:
        return not self.known_labels

    @property
    def known_share(self) -> float:
        if self.known_labels:
            return 0.0
        return _KNOWN if self.known_fraction is None else self.known_fraction

    @model_validator(mode="after")
    def _known_images_are_asked_for_once(self) -> "Grouped":
        if self.known_labels and self.known_fraction is not None:
            raise ValueError("known_fraction needs known_labels = false: otherwise test holds known labels already")
        return self

    @model_validator(mode="after")
    def _groups_split_known_labels(self) -> "Grouped":
        named = [key for key in ("group_column", "group_key", "group_folders") if getattr(self, key, None)]
        if named and not self.known_labels:
            raise ValueError(f"{named[0]} needs known_labels = true: otherwise each label is a group of its own")
        return self


class FolderGroups(FolderData, Grouped):
    """Images in one folder per label: path/<label>/*.jpg, or path/{train,validation,test}/<label>/*.jpg."""


class CsvGroups(CsvImages, Grouped):
    """A CSV file with a column of image paths and a column of labels; or, with `anchor_column` and `positive_column`,
    of pairs of images that belong together. Images that pairs join, directly or by others, are a group."""

    reader: ClassVar[Reader] = "pairs"

    anchor_column: Text | None = None
    """Image paths. Replaces `image_column` and `label_column`."""
    positive_column: Text | None = None
    """The image that belongs to each."""
    negative_column: Text | None = None
    """An image that does not, checked against the groups; may be empty. Images of all other groups are negatives."""

    @model_validator(mode="after")
    def _is_one_layout(self) -> "CsvGroups":
        pairs = [key for key in ("anchor_column", "positive_column", "negative_column") if getattr(self, key)]
        if pairs and not {"anchor_column", "positive_column"} <= set(pairs):
            raise ValueError("pairs take both anchor_column and positive_column")
        others = [key for key in ("image_column", "label_column", "group_column") if key in self.model_fields_set]
        if pairs and others:
            raise ValueError(f"{', '.join(others)}: pairs have no such column; remove it")
        return self


class TfdsGroups(TfdsImages, Grouped):
    """A TensorFlow Datasets data set with an image and a label."""

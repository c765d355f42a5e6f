"""Settings for image embedding recipes."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kerastune.recipe.base import Fraction
from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import CsvImages, Data, FolderData, Target, TfdsImages
from kerastune.tasks.image_classification.settings import Augment

Size = Annotated[int, Field(ge=2, le=4096)]


class Grouped(Data):
    """Settings of every source of images in which images with the same label belong together."""

    known_labels: bool = False
    """Whether the images of a label may lie in several splits. Default: validation and test hold labels that training
    never saw, so the figures say how well new ones are told apart."""

    known_fraction: Fraction = 0.15
    """Fraction of the images of each training label, at least two, kept out of training to report how well known labels
    are found. A label that would keep fewer than four gives none."""

    @property
    def target(self) -> Target:
        return "groups"

    @property
    def whole_labels(self) -> bool:
        return not self.known_labels

    @property
    def known_share(self) -> float:
        return 0.0 if self.known_labels else self.known_fraction

    @model_validator(mode="after")
    def _known_images_are_asked_for_once(self) -> "Grouped":
        if self.known_labels and "known_fraction" in self.model_fields_set:
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
    """A CSV file with a column of image paths and a column of labels."""


class TfdsGroups(TfdsImages, Grouped):
    """A TensorFlow Datasets data set with an image and a label."""


class ImageEmbedding(Recipe):
    """Vectors of images that are similar for images with the same label."""

    task: Literal["image_embedding"]
    data: Annotated[FolderGroups | CsvGroups | TfdsGroups, Field(discriminator="source")]
    augment: Augment = Augment()
    dimensions: Annotated[tuple[Size, ...], Field(strict=False, min_length=1, max_length=8)] = (128,)
    """Sizes of the vector, largest first. It has the first one; cut to one of the others, it works, too (Matryoshka;
    Kusupati et al. 2022, arXiv:2205.13147)."""

    @property
    def augments(self) -> bool:
        return self.augment.any

    @field_validator("dimensions")
    @classmethod
    def _fall(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes), reverse=True):
            raise ValueError(f"{list(sizes)} must fall from size to size, as in [128, 64, 32]")
        return sizes

    @model_validator(mode="after")
    def _images_are_not_blended(self) -> "ImageEmbedding":
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError("augment.mixup and augment.cutmix blend labels, and a vector learns from one label")
        return self


RECIPE = ImageEmbedding

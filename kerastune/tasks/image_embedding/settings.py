"""Settings for image embedding recipes."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kerastune.recipe.image_sources import CsvGroups, FolderGroups, TfdsGroups
from kerastune.recipe.settings import Recipe
from kerastune.tasks.image_classification.settings import Augment

Size = Annotated[int, Field(ge=2, le=4096)]


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

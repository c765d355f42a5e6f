"""What a recipe of text classification may ask for."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import TableData, TfdsTextData


class TextClassification(Recipe):
    """Labels, or a number, for a text or a pair of texts."""

    task: Literal["text_classification"]
    data: Annotated[TableData | TfdsTextData, Field(discriminator="source")]

    @model_validator(mode="after")
    def _views_are_of_images(self) -> "TextClassification":
        if self.train.cache_views:
            raise ValueError("train.cache_views keeps augmented views of images, and texts have none")
        return self

    @model_validator(mode="after")
    def _numbers_have_no_classes(self) -> "TextClassification":
        if self.data.target != "label" and (self.train.class_weights != "none" or self.train.label_smoothing):
            raise ValueError("train.class_weights and train.label_smoothing are for one label a text")
        return self


RECIPE = TextClassification

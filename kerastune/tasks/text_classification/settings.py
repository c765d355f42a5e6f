"""Settings for text classification recipes."""

from typing import Annotated, Literal

from pydantic import Field

from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import TableData, TfdsTextData


class TextClassification(Recipe):
    """Labels or a number for a text or a pair of texts."""

    task: Literal["text_classification"]
    data: Annotated[TableData | TfdsTextData, Field(discriminator="source")]
    head: Literal["auto", "pooler", "mean", "cls"] = "auto"
    """What the head reads: "mean" of the tokens' vectors, "cls" (the first token's), or "pooler" (what KerasHub's own
    classifier reads). `auto` cross-validates them on the training examples."""


RECIPE = TextClassification

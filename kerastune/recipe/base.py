"""Base class of settings, and types that they share."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from kerastune.errors import quoted


class Settings(BaseModel):
    """A table of a recipe: frozen, strict, without unknown keys. A field's docstring is its text in the schema."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def regular_expression(value: str) -> str:
    """Returns the value; raises ValueError if it is not a regular expression."""
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{quoted(value)} is not a regular expression: {error}") from error
    return value


MAX_NAME = 200  # file systems take 255 bytes; unfinished folders have longer names
MAX_TABLES = 100  # [[phases]] or [[exports]] of a recipe

Text = Annotated[str, StringConstraints(min_length=1)]
Regex = Annotated[Text, AfterValidator(regular_expression)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME)]
"""The name of a folder."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=10)]

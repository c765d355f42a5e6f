"""Which texts of a recipe are paths, and what they count from."""

import os
from importlib.resources import files
from typing import Annotated

from pydantic import AfterValidator

from kerastune import assets
from kerastune.recipe.base import Text


def _absolute(path: str) -> str:
    # Resolved once, against the folder the command runs in, so that a run still finds its data from elsewhere.
    return os.path.abspath(os.path.expanduser(path))


def _absolute_if_a_path(value: str) -> str:
    is_name = "://" in value or value in assets.ASSETS
    is_path = os.sep in value or value.startswith((".", "~")) or os.path.isdir(value)
    return _absolute(value) if is_path and not is_name else value


def _shipped_or_a_path(value: str) -> str:
    shipped = files("kerastune.recipes").joinpath(value)
    if value.endswith(".jsonl") and os.path.basename(value) == value and not os.path.exists(value):
        return str(shipped) if shipped.is_file() else value
    return _absolute_if_a_path(value)


FilePath = Annotated[Text, AfterValidator(_absolute)]
AssetOrPath = Annotated[Text, AfterValidator(_absolute_if_a_path)]
ShippedOrPath = Annotated[Text, AfterValidator(_shipped_or_a_path)]

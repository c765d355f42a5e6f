"""Paths in recipes, and the names that may stand in their place.

A path is made absolute once, when the recipe is read: relative to the folder that the command runs in, with `~` as the
home folder. A run therefore finds its data from any folder. Where a name may stand instead of a path:

- an asset's name always means the asset; ./NAME is a file or folder called so;
- a URL stays as it is;
- for data, the bare name of a shipped .jsonl file means that file, unless a file of that name is there;
- for presets, a bare name is a KerasHub preset, unless a folder of that name holds a preset.
"""

import os
from importlib.resources import files
from typing import Annotated

from pydantic import AfterValidator, Field

from kerastune import assets


def _absolute(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path has no NUL character")
    return os.path.abspath(os.path.expanduser(path))


def _data(value: str) -> str:
    if value in assets.ASSETS or "://" in value:
        return value
    path = _absolute(value)
    if value.endswith(".jsonl") and os.path.basename(value) == value and not os.path.exists(path):
        shipped = files("kerastune.recipes").joinpath(value)
        return str(shipped) if shipped.is_file() else path
    return path


def _preset(value: str) -> str:
    folder = None if value in assets.ASSETS else assets.named_folder(value)
    return _absolute(value) if folder else value


_Path = Annotated[str, Field(min_length=1, max_length=4096)]
FilePath = Annotated[_Path, AfterValidator(_absolute)]
"""A file or folder."""
AssetOrPath = Annotated[_Path, AfterValidator(_data)]
"""A file or folder; or an asset, or a file that is shipped with the recipes."""
Preset = Annotated[_Path, AfterValidator(_preset)]
"""What a model starts from."""

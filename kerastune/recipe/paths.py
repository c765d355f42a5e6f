"""Paths in recipes, and names that can replace them.

A path becomes absolute when the recipe is read: relative to the working directory, with `~` as the home folder. A run
therefore finds its data from any folder. Where a name can replace a path:

- an asset's name always means the asset, and NAME/FILE a file in it; ./NAME is a file or folder of that name;
- a URL stays unchanged;
- for data, the bare name of a shipped .jsonl file means that file, unless a local file has that name;
- for presets, a bare name is a KerasHub preset, unless a local folder of that name holds a preset.
"""

import os
from importlib.resources import files
from typing import Annotated

from pydantic import AfterValidator, Field

from kerastune import assets


def _absolute(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    return os.path.abspath(os.path.expanduser(path))


def _data(value: str) -> str:
    if value.partition("/")[0] in assets.ASSETS or "://" in value:
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
"""A file or folder; or an asset, a file in it, or a file shipped with the recipes."""
Preset = Annotated[_Path, AfterValidator(_preset)]
"""The pretrained model to start from."""

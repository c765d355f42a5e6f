"""The products of the asset: things alone, the same pictures everywhere; a slow test fetches the real packages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerastune import assets
from kerastune.assets import products
from kerastune.errors import AssetError


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """Three stamps of things, a letter, a mirrored and a tiny one; and a photo."""
    random = np.random.default_rng(0)
    sizes = {"food/pear": 60, "food/plum": 80, "town/bank": 90, "symbols/a": 90, "town/bank_mirror": 90, "food/pea": 9}
    for name, side in sizes.items():
        path = tmp_path / "usr/share/tuxpaint/stamps" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (side, side, 4), np.uint8), "RGBA").save(path)
    photo = tmp_path / "usr/share/tuxpaint/templates/wall.jpg"
    photo.parent.mkdir(parents=True)
    Image.fromarray(random.integers(0, 255, (200, 300, 3), np.uint8)).save(photo)
    return tmp_path


def test_products_are_things_that_can_be_seen(unpacked: Path) -> None:
    assert list(products.cut_outs(unpacked)) == ["food-pear", "food-plum", "town-bank"]


def test_each_product_is_pictured_differently_and_always_the_same(
    unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products.debian, "check_used", lambda *given: None)
    for name in ("one", "two"):
        products.build_from_packages(unpacked, unpacked / name)
    first, second = (sorted((unpacked / name).rglob("*.jpg")) for name in ("one", "two"))
    assert len(first) == 3 * products.PICTURES
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len({path.read_bytes() for path in first}) == len(first)
    assert {np.asarray(Image.open(path)).shape for path in first} == {(products.SIDE, products.SIDE, 3)}


def test_other_stamps_are_refused(unpacked: Path) -> None:
    with pytest.raises(AssetError, match="are not those that kerastune was tested with"):
        products.build_from_packages(unpacked, unpacked / "made")


def test_a_machine_without_debian_s_tools_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match="this machine has no apt-get"):
        products.build(tmp_path, lambda line: None)


@pytest.mark.slow
def test_the_real_packages_give_3200_pictures() -> None:
    assert len(list(assets.fetch("products").rglob("*.jpg"))) == products.PRODUCTS * products.PICTURES

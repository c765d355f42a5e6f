"""Photos of products that are told apart: Tux Paint's stamps, each photographed several times on parts of photos.

Cut-outs and photos come from Debian packages. A product is one cut-out: PRODUCT/NUMBER.jpg shows it in another place,
size, turn and light each time. No splits are declared: `image_embedding` holds whole products out.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageEnhance, ImageFilter

from kerastune.assets import debian
from kerastune.assets.asset import Asset, Progress

if TYPE_CHECKING:  # naming an asset does not need NumPy
    import numpy as np
    from numpy.typing import NDArray

PACKAGES = ("tuxpaint-stamps-default", "tuxpaint-data")
SIDE = 160
"""Height and width of a picture."""
PRODUCTS = 400
PICTURES = 8
"""Pictures of each product."""

_STAMPS, _PHOTOS = "usr/share/tuxpaint/stamps", "usr/share/tuxpaint/templates"
_NOT_THINGS = ("naturalforces", "people", "space", "symbols")  # letters, suns and faces are no products
_FEWEST_PIXELS = 48  # of a cut-out's longer side
_SHARE = (0.45, 0.85)  # of the picture's side, for the longer side of a cut-out
_TURN = 35  # degrees, to both sides
_SHA256 = "7ae09937e05a5c5f7ec8796d6523661bbf7982ed6c6805285a8029af3de2137d"
"""The hash of the names and contents of all files that are used."""


def build(folder: Path, progress: Progress) -> None:
    """Downloads the packages and writes the pictures.

    Raises:
        AssetError: this machine has no apt-get, its registry has other files, or it cannot be reached.
    """
    with debian.unpacked(ASSET.name, PACKAGES, ASSET.download_mb, progress) as content:
        progress(f"taking {PRODUCTS * PICTURES:,} pictures of {PRODUCTS} products")
        build_from_packages(content, folder)


def build_from_packages(unpacked: Path, folder: Path) -> None:
    """Writes the pictures from the unpacked packages.

    Raises:
        AssetError: their files are others.
    """
    import numpy as np

    chosen, photos = cut_outs(unpacked), sorted((unpacked / _PHOTOS).glob("*.jpg"))
    debian.check_used(ASSET.name, PACKAGES, unpacked, [*chosen.values(), *photos], _SHA256)
    backgrounds = [Image.open(path).convert("RGB") for path in photos]
    for name, path in chosen.items():
        stamp = Image.open(path).convert("RGBA")
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))
        (folder / name).mkdir(parents=True)
        for number in range(1, PICTURES + 1):
            background = backgrounds[int(random.integers(len(backgrounds)))]
            Image.fromarray(pictured(stamp, background, random)).save(folder / name / f"{number}.jpg", quality=90)


def cut_outs(unpacked: Path) -> dict[str, Path]:
    """Returns the products' cut-outs by their names: those of things, large enough, in an order that names decide."""
    root = unpacked / _STAMPS
    found = {}
    for path in root.rglob("*.png"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in _NOT_THINGS or path.stem.endswith("_mirror"):
            continue
        with Image.open(path) as image:
            if max(image.size) >= _FEWEST_PIXELS:
                found["-".join(parts)] = path
    kept = sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())[:PRODUCTS]
    return {name: found[name] for name in sorted(kept)}


# --- a picture ----------------------------------------------------------------------------------------------


def pictured(stamp: Image.Image, photo: Image.Image, random: "np.random.Generator") -> "NDArray[np.uint8]":
    """Returns a picture of a cut-out, RGBA, on a part of a photo: uint8 [SIDE, SIDE, 3]."""
    side = int(random.integers(SIDE, min(photo.size) + 1))
    x, y = (int(random.integers(whole - side + 1)) for whole in photo.size)
    picture = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (x, y, x + side, y + side))
    factor = random.uniform(*_SHARE) * SIDE / max(stamp.size)
    width, height = (max(round(one * factor), 2) for one in stamp.size)
    changed = stamp.resize((width, height), Image.Resampling.LANCZOS)
    changed = changed.rotate(random.uniform(-_TURN, _TURN), Image.Resampling.BICUBIC, expand=True)
    x, y = (int(random.integers(min(SIDE - one, 0), max(SIDE - one, 0) + 1)) for one in changed.size)
    picture.paste(changed, (x, y), changed)
    return _lit(picture, random)


def _lit(picture: Image.Image, random: "np.random.Generator") -> "NDArray[np.uint8]":
    """Returns the picture in other light, slightly out of focus, as another camera sees it."""
    import numpy as np

    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.6, 1.3))
    picture = ImageEnhance.Contrast(picture).enhance(random.uniform(0.75, 1.2))
    picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.2)))
    tinted = np.asarray(picture, np.float32) * random.uniform(0.85, 1.15, 3).astype(np.float32)
    return np.clip(tinted + random.normal(0, 4, tinted.shape), 0, 255).astype(np.uint8)


ASSET = Asset(
    name="products",
    kind="dataset",
    summary=f"{PRODUCTS * PICTURES:,} pictures of 160 px of {PRODUCTS} products: cut-outs on photos, each in "
    f"{PICTURES} places, sizes, turns and lights",
    licence="GPL-2.0 (Tux Paint's stamps and templates)",
    source=f"Debian {', '.join(PACKAGES)}",
    download_mb=169,
    sha256={"the stamps and photos": _SHA256},
    build=build,
)

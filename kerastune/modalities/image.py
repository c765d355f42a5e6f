"""Decodes encoded bytes to RGB pixels, the same way everywhere, and explains why a file cannot be read.

Files are opened by content, never by extension, and only by Pillow's classes for five formats: data are untrusted
input, and should reach as few parsers as possible. The decoder is `kerastune.targets.images`, which ships with every
artifact.
"""

import base64
import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image, ImageOps

from kerastune.modalities.asked import Kind
from kerastune.modalities.contract import Asked, Example, Modality, Report, Stored
from kerastune.targets import images as reader

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif")
FOREIGN_EXTENSIONS = (*("heic", "heif", "avif", "jxl", "jp2", "tif", "tiff", "dng", "cr2", "cr3", "nef", "arw", "raw"),)
LARGEST = 2**28  # bytes of a file: a bitmap of 89 megapixels fits
_LARGE = 2**25  # pixels; of larger images one is decoded at a time, since each may take a gigabyte
_one_large = threading.Lock()

_FOREIGN = {  # to name the file's format in messages
    "a TIFF image": rb"II\*\0|MM\0\*",
    "a HEIC image": rb"(?s)....ftyp(hei|hev|mif1|msf1)",
    "an AVIF image": rb"(?s)....ftypavi",
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP|\xff\x4f\xff\x51",
    "a PDF document": rb"%PDF",
    "a Photoshop document": rb"8BPS",
    "an SVG drawing": rb"(?s)\s*(<\?xml.{0,500})?<svg",
}
# Pillow warns about odd metadata, which we do not use, and about large images, which we limit.
_PILLOW_WARNS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class UnreadableImage(ValueError):
    """The bytes cannot be read correctly as an image. The message says why, and follows a file's name."""


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Decodes upright RGB pixels: transparency on white, 16 bits scaled to 8, the first frame of an animation.

    Raises:
        UnreadableImage: the bytes are empty, truncated, damaged, too large or not one of the five formats.
    """
    return _read(data)[0]  # [H, W, 3]


def check(data: bytes, name: str) -> Report:
    """Reads an image as `decode` does and reports on it; only the extension of `name` is used."""
    try:
        _, remarks = _read(data)
    except UnreadableImage as error:
        return Report(problem=str(error))
    extension = os.path.splitext(name)[1].lower().lstrip(".").replace("jpeg", "jpg")
    if extension in EXTENSIONS and extension != reader.format_of(data):
        remarks.append("extension and content differ, read by content")
    return Report(remarks=tuple(remarks))


def pixels(data: bytes) -> int:
    """Returns the number of pixels in an image's header, without decoding it; 0 for anything else."""
    try:
        with reader.opened(data) as image:
            return int(image.width * image.height)
    except (KeyError, *reader.DAMAGE, Image.DecompressionBombError):
        return 0


def upright_size(data: bytes) -> tuple[int, int] | None:
    """Returns the width and height of what `decode` would give, from the header; None for anything else."""
    try:
        with reader.opened(data) as image:
            sideways = reader.orientation(image) in (5, 6, 7, 8)
            return (image.height, image.width) if sideways else (image.width, image.height)
    except (KeyError, *reader.DAMAGE, Image.DecompressionBombError):
        return None


def stored(data: bytes) -> npt.NDArray[np.generic]:
    """Returns the values in an image file as they are: numbers of a palette's colours, not the colours.

    Returns:
        Values [H, W], or RGB pixels uint8 [H, W, 3].

    Raises:
        UnreadableImage: it is damaged or too large.
    """
    if 0 < reader.MAX_PIXELS < pixels(data):
        raise UnreadableImage(f"has more than {reader.MAX_PIXELS:,} pixels")
    try:
        with reader.opened(data) as image:
            image.load()
            plain = image.mode in ("1", "L", "P") or image.mode.startswith("I")
            return np.asarray(image if plain else image.convert("RGB"))
    except (KeyError, *reader.DAMAGE, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"is damaged: {' '.join(str(error).split())[:80]}") from error


def palette(data: bytes) -> list[tuple[int, int, int]]:
    """Returns the colours in the header of an image file whose pixels are numbers of them; none of other files."""
    try:
        with reader.opened(data) as image:
            values = (image.getpalette("RGB") if image.mode == "P" else None) or []
    except (KeyError, *reader.DAMAGE, Image.DecompressionBombError):
        return []
    return [(values[i], values[i + 1], values[i + 2]) for i in range(0, len(values), 3)]


def _read(data: bytes) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Decodes with the device's own reader, so that both see the same pixels."""
    kind = reader.format_of(data)
    if kind is None:
        raise UnreadableImage(_what_it_is(data))
    if _PILLOW_WARNS not in warnings.filters:  # tests and libraries reset the filters
        warnings.filters.insert(0, _PILLOW_WARNS)  # type: ignore[attr-defined]
    try:
        with _one_large if pixels(data) > _LARGE else contextlib.nullcontext():
            found, remarks = reader.decode(data)
    except reader.TooLarge as error:
        raise UnreadableImage(str(error)) from error
    except ValueError as error:
        raise UnreadableImage(_damage(data, kind, error.__cause__ or error)) from error
    return found, remarks


def _damage(data: bytes, kind: str, error: BaseException) -> str:
    missing = _declared_size(data, kind) - len(data)
    if missing > 0:
        return f"is truncated: it ends {missing:,} {'byte' if missing == 1 else 'bytes'} early"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return f"is truncated: its {len(data):,} bytes end before the image does"
    why = " ".join(str(error).split())[:80] or type(error).__name__
    return f"is damaged: {kind} that cannot be decoded ({why})"


def _declared_size(data: bytes, kind: str) -> int:
    """Returns the length that the file declares, for the two formats that do."""
    if kind == "webp":
        return int.from_bytes(data[4:8], "little") + 8
    return int.from_bytes(data[2:6], "little") if kind == "bmp" else 0


def _what_it_is(data: bytes) -> str:
    if not data:
        return "is empty (0 bytes)"
    for what, magic in _FOREIGN.items():
        if re.match(magic, data[:1024]):
            return f"is {what}, which is not supported; convert it to png or jpg"
    return f"is not an image (starts with {data[:12]!r})"


_THUMBNAIL = (200, 200)


def preview(pixels: Example, alternative: str) -> Markup:
    """Returns a thumbnail as an <img> with inline data."""
    picture = Image.fromarray(pixels)
    small = max(picture.size) <= _THUMBNAIL[0] // 2  # enlarged so that pixels are visible
    picture = ImageOps.contain(picture, _THUMBNAIL, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    return embedded(picture, alternative)


def embedded(picture: Image.Image, alternative: str) -> Markup:
    """Returns a picture as an <img> with inline data."""
    picture.save(buffer := io.BytesIO(), "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Markup('<img src="{}" alt="{}">').format(source, alternative)


def ask(paths: Sequence[str | Path], sides: int) -> Asked:
    """Checks image files; decodes each one on demand.

    Raises:
        DataError: some files cannot be read; names them all.
    """
    return Kind("an image", _STORED, check, decode).ask(paths)


def png(pixels: Example) -> bytes:
    """Returns the image as a lossless PNG file."""
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def shrunk(pixels: Example, side: int) -> Example:
    """Returns the image shrunk to at most `side` pixels in each direction, with its aspect ratio."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def tinted(pixels: Example) -> list[Example]:
    """Returns the image tinted red and tinted blue: grey data alone would not show swapped channels."""
    red = (pixels * np.array([1, 0.5, 0])).astype(np.uint8)
    return [red, np.ascontiguousarray(red[..., ::-1])]


_STORED = Stored(EXTENSIONS, FOREIGN_EXTENSIONS, "jpg or png", LARGEST)
IMAGE = Modality(
    name="image",
    plural="images",
    one="an image",
    check=check,
    decode=decode,
    is_one=lambda array: array.dtype == np.uint8 and array.ndim == 3 and array.size > 0 and array.shape[2] == 3,
    preview=preview,
    ask=ask,
    asked_as="photo.jpg",
    is_picture=True,
    readers=("images.py",),
    packages=("pillow",),
    encode=png,
    stored=_STORED,
)

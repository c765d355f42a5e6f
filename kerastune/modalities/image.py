"""Encoded bytes → RGB pixels, the same way everywhere; and what to tell a user whose file cannot be read.

Files are opened by content, never by extension, and by Pillow's classes for the five formats in `_FORMATS`
only: a data folder is input from strangers, and the fewer parsers it reaches the better.
"""

import base64
import io
import os
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from kerastune.errors import DataError
from kerastune.modalities.contract import Asked, Example, Modality, Report

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif")
MAX_PIXELS = 2**27  # 134 megapixels: a 108-megapixel phone photo fits, a decompression bomb does not

_Open = Callable[[io.BytesIO], ImageFile.ImageFile]
_FORMATS: dict[str, tuple[bytes, _Open]] = {
    "jpg": (rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    "png": (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    "webp": (rb"(?s)RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    "bmp": (rb"BM", BmpImagePlugin.BmpImageFile),
    "gif": (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
}
_FOREIGN = {  # only to tell a user what the file is
    "a TIFF image": rb"II\*\0|MM\0\*",
    "a HEIC image": rb"(?s)....ftyp(hei|hev|mif1|msf1)",
    "an AVIF image": rb"(?s)....ftypavi",
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP|\xff\x4f\xff\x51",
    "a PDF document": rb"%PDF",
    "a Photoshop document": rb"8BPS",
    "an SVG drawing": rb"(?s)\s*(<\?xml.{0,500})?<svg",
}
_UPRIGHT = {  # EXIF orientation → what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises for files that were cut or mangled (tests/test_images.py mangles some on every run).
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
# Pillow warns about odd metadata, which we do not use, and about large images, which have a limit here.
_PILLOW_WARNS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class UnreadableImage(ValueError):
    """The bytes are no image that can be read right; the text says why, and follows a file's name."""


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Upright RGB pixels: transparency on white, 16 bits scaled to 8, the first frame of an animation.

    Raises:
        UnreadableImage: the bytes are empty, cut, damaged, too large or not one of the five formats.
    """
    return np.asarray(_read(data)[0])  # [H, W, 3]


def check(data: bytes, name: str) -> Report:
    """Reads an image as `decode` does and reports on it; `name` is only asked for its extension."""
    try:
        _, remarks = _read(data)
    except UnreadableImage as error:
        return Report(problem=str(error))
    extension = os.path.splitext(name)[1].lower().lstrip(".").replace("jpeg", "jpg")
    if extension in EXTENSIONS and extension != _format(data):
        remarks.append("extension and content differ, read by content")
    return Report(remarks=tuple(remarks))


def pixels(data: bytes) -> int:
    """The pixels that an image's header announces, without decoding it; 0 of anything else."""
    kind = _format(data)
    try:
        with _FORMATS[kind or ""][1](io.BytesIO(data)) as image:
            return image.width * image.height
    except (KeyError, *_DAMAGE):
        return 0


def _read(data: bytes) -> tuple[Image.Image, list[str]]:
    kind = _format(data)
    if kind is None:
        raise UnreadableImage(_what_it_is(data))
    if _PILLOW_WARNS not in warnings.filters:  # tests and libraries reset the filters now and then
        warnings.filters.insert(0, _PILLOW_WARNS)  # type: ignore[attr-defined]
    try:
        with _FORMATS[kind][1](io.BytesIO(data)) as image:
            _refuse_bomb(image)
            image.load()
            rgb, remarks = _rgb(image)
            rgb, turned = _upright(rgb, _orientation(image))
            animated = _is_animated(image)
    except UnreadableImage:
        raise
    except _DAMAGE as error:
        raise UnreadableImage(_damage(data, kind, error)) from error
    if kind == "png" and data[24] == 16:  # the bit depth in IHDR; Pillow has already forgotten it for RGB
        remarks.append("16-bit values scaled to 8 bits")
    if turned:
        remarks.append("EXIF orientation applied")
    if animated:
        remarks.append("animated, first frame used")
    return rgb, remarks


def _format(data: bytes) -> str | None:
    return next((kind for kind, (magic, _) in _FORMATS.items() if re.match(magic, data)), None)


def _refuse_bomb(image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UnreadableImage(
            f"has {image.width:,} × {image.height:,} pixels, more than the {MAX_PIXELS:,} "
            "that are safe to open; make it smaller"
        )


def _rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own convert() would clip at 255
        return _grey16(image)
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # the pixels are 8-bit by now
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    remarks = ["CMYK converted to RGB without its colour profile"] if image.mode == "CMYK" else []
    return image.convert("RGB"), remarks


def _grey16(image: Image.Image) -> tuple[Image.Image, list[str]]:
    values = np.asarray(image)  # [H, W]
    grey = (values >> 8).astype(np.uint8)  # the high byte: what Pillow and libpng do for 16-bit RGB
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey).convert("RGB"), []
    grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB"), ["transparency shown on white"]


def _on_white(rgba: Image.Image) -> tuple[Image.Image, list[str]]:
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB"), []
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB"), ["transparency shown on white"]


def _upright(rgb: Image.Image, orientation: int) -> tuple[Image.Image, bool]:
    method = _UPRIGHT.get(orientation)
    return (rgb, False) if method is None else (rgb.transpose(method), True)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112)
    except _DAMAGE:
        return 1  # damaged metadata say nothing about the pixels
    return value if isinstance(value, int) else 1


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except _DAMAGE:
        return True  # a second frame that is damaged; the first one, which we use, is not


def _damage(data: bytes, kind: str, error: Exception) -> str:
    missing = _declared_size(data, kind) - len(data)
    if missing > 0:
        return f"is truncated: it ends {missing:,} {'byte' if missing == 1 else 'bytes'} early"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return f"is truncated: its {len(data):,} bytes end before the image does"
    why = " ".join(str(error).split())[:80] or type(error).__name__
    return f"is damaged: {kind} that cannot be decoded ({why})"


def _declared_size(data: bytes, kind: str) -> int:
    """How long the file says it is, for the two formats that say so."""
    if kind == "webp":
        return int.from_bytes(data[4:8], "little") + 8
    return int.from_bytes(data[2:6], "little") if kind == "bmp" else 0


def _what_it_is(data: bytes) -> str:
    if not data:
        return "is empty (0 bytes)"
    for what, magic in _FOREIGN.items():
        if re.match(magic, data[:1024]):
            return f"is {what}, which is not read; convert it to png or jpg"
    return f"is not an image (starts with {data[:12]!r})"


_THUMBNAIL = (200, 200)


def preview(pixels: Example, alternative: str) -> Markup:
    """A thumbnail as an <img> that needs no file."""
    picture = Image.fromarray(pixels)
    small = max(picture.size) <= _THUMBNAIL[0] // 2  # enlarged so that its pixels can be seen
    picture = ImageOps.contain(picture, _THUMBNAIL, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    picture.save(buffer := io.BytesIO(), "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Markup('<img src="{}" alt="{}">').format(source, alternative)


def ask(paths: Sequence[str | Path], sides: int) -> Asked:
    """Reads image files.

    Raises:
        DataError: files that cannot be read, all of them at once.
    """
    pixels: list[Example] = []
    problems = []
    for path in paths:
        try:
            encoded = Path(path).read_bytes()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if problem := check(encoded, str(path)).problem:
            problems.append(f"{path}: {problem}")
        else:
            pixels.append(decode(encoded))
    if problems:
        raise DataError("\n".join(["Some files cannot be read:", *problems]), "Mend them or leave them out.")
    return Asked([str(path) for path in paths], pixels)


def png(pixels: Example) -> bytes:
    """The image as a PNG file, without loss."""
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def shrunk(pixels: Example, side: int) -> Example:
    """The image, no larger than `side` pixels either way; its shape is kept."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def tinted(pixels: Example) -> list[Example]:
    """The image in red, and the same in blue: grey data alone would not tell red from blue."""
    red = (pixels * np.array([1, 0.5, 0])).astype(np.uint8)
    return [red, np.ascontiguousarray(red[..., ::-1])]


IMAGE = Modality(
    name="image",
    plural="images",
    one="an image",
    check=check,
    decode=decode,
    preview=preview,
    ask=ask,
    asked_as="photo.jpg",
    is_picture=True,
    readers=(),
    packages=("pillow",),
)

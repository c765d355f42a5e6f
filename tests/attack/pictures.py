"""Image files of every kind that people and cameras make, and of some that only attackers do."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Random = np.random.Generator


def pixels(random: Random) -> Any:
    """Noise around a colour, uint8 [H, W, 3]."""
    height, width = random.integers(8, 60, 2)
    return (random.integers(0, 256, 3) + random.normal(0, 25, (height, width, 3))).clip(0, 255).astype(np.uint8)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def png(pixels: Any) -> bytes:
    return saved(Image.fromarray(pixels), "PNG")


def _exif(random: Random) -> Any:
    exif = Image.Exif()
    if random.random() < 0.5:
        exif[0x010F] = "camera"
    exif[0x0112] = int(random.integers(0, 10))
    return exif


def _turned(random: Random) -> bytes:
    """A photo with an EXIF orientation, in either order of bytes."""
    exif = _exif(random).tobytes()
    if random.random() < 0.5:
        value = random.integers(1, 9)
        ifd = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, value, 0, 0)
        exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + ifd
    return saved(Image.fromarray(pixels(random)), "JPEG", quality=95, exif=exif)


def _transparent(random: Random) -> Any:
    found = pixels(random)
    alpha = random.integers(0, 256, found.shape[:2]).astype(np.uint8)
    return Image.fromarray(np.dstack([found, alpha]))


def _deep(random: Random) -> bytes:
    return saved(Image.fromarray(random.integers(0, 2**16, (20, 30)).astype(np.uint16)), "PNG")


KINDS: dict[str, Callable[[Random], bytes]] = {
    "png": lambda random: saved(Image.fromarray(pixels(random)), "PNG"),
    "grey png": lambda random: saved(Image.fromarray(pixels(random)).convert("L"), "PNG"),
    "black and white png": lambda random: saved(Image.fromarray(pixels(random)).convert("1"), "PNG"),
    "palette png": lambda random: saved(Image.fromarray(pixels(random)).convert("P"), "PNG"),
    "palette png with transparency": lambda random: saved(_transparent(random).quantize(16), "PNG"),
    "transparent png": lambda random: saved(_transparent(random), "PNG"),
    "grey transparent png": lambda random: saved(_transparent(random).convert("LA"), "PNG"),
    "16-bit png": _deep,
    "turned png": lambda random: saved(Image.fromarray(pixels(random)), "PNG", exif=_exif(random)),
    "jpeg": lambda random: saved(Image.fromarray(pixels(random)), "JPEG", quality=int(random.integers(5, 100))),
    "progressive jpeg": lambda random: saved(Image.fromarray(pixels(random)), "JPEG", progressive=True),
    "grey jpeg": lambda random: saved(Image.fromarray(pixels(random)).convert("L"), "JPEG"),
    "cmyk jpeg": lambda random: saved(Image.fromarray(pixels(random)).convert("CMYK"), "JPEG", quality=95),
    "turned jpeg": _turned,
    "gif": lambda random: saved(Image.fromarray(pixels(random)), "GIF"),
    "bmp": lambda random: saved(Image.fromarray(pixels(random)), "BMP"),
    "webp": lambda random: saved(Image.fromarray(pixels(random)), "WEBP", lossless=True),
    "tiff": lambda random: saved(Image.fromarray(pixels(random)), "TIFF"),
}
"""Files that are what they seem to be."""

TAKEN = [kind for kind in KINDS if kind not in ("cmyk jpeg", "gif", "bmp", "webp", "tiff")]
"""Those that a SavedModel decodes itself."""


def damaged(random: Random) -> tuple[str, bytes]:
    """One of them with bytes changed, cut off or added."""
    kind = str(random.choice(TAKEN))
    data = bytearray(KINDS[kind](random))
    how = str(random.choice(["cut", "changed", "filled", "longer"]))
    at = int(random.integers(2, len(data)))
    if how == "cut":
        del data[at:]
    elif how == "changed":
        for _ in range(int(random.integers(1, 6))):
            data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
    elif how == "filled":
        data[at : at + 20] = bytes(20)
    else:
        data += random.bytes(50)
    return f"{kind}, {how}", bytes(data)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that declares that many pixels, and holds a part of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(height * (3 * width + 1), 10**7)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

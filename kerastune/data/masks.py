"""Masks, the class of each pixel of a picture, compressed: a few kilobytes each, unpacked one at a time."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data.ragged import Ragged

Mask = npt.NDArray[np.uint8]

IGNORED = 255
"""The value of pixels that neither train nor count."""
MOST = 255
"""Classes at most."""

_SIZE = struct.Struct("<II")  # height, width
_VALUES = 256 // 8  # bytes with a bit for each value on the mask
_LARGEST = 2**27  # pixels, as of a picture
_START = _SIZE.size + _VALUES


def packed(mask: Mask) -> bytes:
    """Returns a mask uint8 [H, W] in bytes."""
    there = np.zeros(256, np.bool_)
    there[np.unique(mask)] = True
    return _SIZE.pack(*mask.shape) + np.packbits(there).tobytes() + zlib.compress(mask.tobytes(), 6)


def unpacked(row: npt.NDArray[np.uint8]) -> Mask:
    """Returns the mask of `packed` bytes, uint8 [H, W].

    Raises:
        ValueError: the bytes are damaged.
    """
    data = row.tobytes()
    height, width = size(row)
    if height * width > _LARGEST:
        raise ValueError(f"a mask has {height} x {width} pixels")
    found = zlib.decompressobj().decompress(data[_START:], height * width)
    if len(found) != height * width:
        raise ValueError(f"a mask has {len(found):,} pixels instead of {height} x {width}")
    return np.frombuffer(found, np.uint8).reshape(height, width)


def size(row: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Returns the height and width of a packed mask."""
    if len(row) < _START:
        raise ValueError(f"a mask has only {len(row)} bytes")
    height, width = _SIZE.unpack(row[: _SIZE.size].tobytes())
    return height, width


def present(truth: Any) -> npt.NDArray[np.bool_]:
    """Returns which classes are on each of many packed masks, bool [n, 255]."""
    rows = [row[_SIZE.size : _START] for row in truth]
    return np.unpackbits(np.array(rows, np.uint8).reshape(-1, _VALUES), axis=1)[:, :IGNORED].astype(np.bool_)


def joined(rows: list[bytes]) -> Ragged:
    """Returns many packed masks as an array of rows of bytes."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Ragged(np.frombuffer(b"".join(rows), np.uint8), offsets)


# --- colours -------------------------------------------------------------------------------------------------


def named_color(values: Sequence[int] | npt.NDArray[np.uint8]) -> str:
    """Returns the name of red, green and blue, 0 to 255 each: "#ff8000"."""
    return "#{:02x}{:02x}{:02x}".format(*values)


def channels(colors: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Returns red, green and blue of colours such as "#ff8000", uint8 [n, 3]."""
    return np.frombuffer(bytes.fromhex("".join(colors).replace("#", "")), np.uint8).reshape(-1, 3)

"""Arrays whose length varies by example, stored without pickle."""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """The concatenated rows of all examples.

    Attributes:
        values: [rows, …].
        offsets: start of each example's rows, and the end of the last, int64 [n + 1].
        shapes: for maps, whose height and width vary by example, int64 [n, 2]; their rows are the pixels, each a value
            or several. None for everything else.
    """

    values: npt.NDArray[Any]
    offsets: Ints
    shapes: Ints | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """Returns the rows of one example, or a `Ragged` of several."""
        if isinstance(index, int | np.integer):
            rows = self.values[self.offsets[index] : self.offsets[index + 1]]
            return rows if self.shapes is None else rows.reshape(*self.shapes[index], *rows.shape[1:])
        some = [self[int(i)] for i in np.arange(len(self))[index]]
        return of_rows(some, self.values[:0]) if self.shapes is None else of_maps(some, self.values[:0])

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return (self[i] for i in range(len(self)))


Array: TypeAlias = npt.NDArray[Any] | Ragged
Arrays: TypeAlias = Mapping[str, Array]
"""Named arrays with one row, or one list of rows, per example."""

_OFFSETS, _SHAPES = "/offsets", "/shapes"


def of_rows(rows: Sequence[npt.NDArray[Any]], empty: npt.NDArray[Any]) -> Ragged:
    """Joins the rows of each example to a `Ragged`; `empty` gives dtype and shape if there are no examples."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Ragged(np.concatenate([empty, *rows]), offsets)


def of_maps(maps: Sequence[npt.NDArray[Any]], empty: npt.NDArray[Any]) -> Ragged:
    """Joins a map [height, width, …] of each example to a `Ragged`; `empty` gives dtype and shape of no pixel."""
    rows = of_rows([one.reshape(-1, *one.shape[2:]) for one in maps], empty)
    return Ragged(rows.values, rows.offsets, np.array([one.shape[:2] for one in maps], np.int64).reshape(-1, 2))


def joined(rows: Sequence[npt.NDArray[Any]], like: Array) -> Array:
    """Joins the rows of each example to an array of the kind of another one."""
    if not isinstance(like, Ragged):
        return np.stack(rows)
    return (of_rows if like.shapes is None else of_maps)(rows, like.values[:0])


def take(arrays: Arrays, index: Any) -> dict[str, Array]:
    """Returns the arrays for some examples."""
    return {name: array[index] for name, array in arrays.items()}


def count(arrays: Arrays) -> int:
    """Returns the number of examples."""
    return len(next(iter(arrays.values())))


def concatenated(parts: Sequence[Arrays]) -> dict[str, Array]:
    """Concatenates the arrays of several parts."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Array]) -> Array:
    if isinstance(parts[0], Ragged):
        return joined([rows for part in parts for rows in part], parts[0])
    return np.concatenate([np.asarray(part) for part in parts])


LARGEST = 2**33
"""Most bytes of a file of arrays, unpacked."""


def read(path: Path, prefix: str = "", most: int = LARGEST) -> dict[str, npt.NDArray[Any]]:
    """Returns the arrays of an .npz whose names begin with a prefix, by name.

    Raises:
        ValueError: it is damaged, holds objects, or unpacks to more than `most` bytes.
    """
    try:
        with zipfile.ZipFile(path) as stored:
            if (size := sum(one.file_size for one in stored.infolist())) > most:
                raise ValueError(f"it unpacks to {size:,} bytes")
            named = {one.filename.removesuffix(".npy"): one for one in stored.infolist()}
            return {name: _array(stored, one) for name, one in named.items() if name.startswith(prefix)}
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they like
        raise ValueError(str(error) or type(error).__name__) from error


def _array(stored: zipfile.ZipFile, one: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with stored.open(one) as file:
        header = np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(file) != (1, 0):
            header = np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        # NumPy reserves memory for what the header says, whatever follows.
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != one.file_size - file.tell() or not dtype.itemsize:
            raise ValueError(f"{one.filename} is not an array of {shape} {dtype}")
    with stored.open(one) as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def packed(arrays: Arrays, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Returns plain arrays to store: NAME, for ragged ones NAME/offsets, and for maps NAME/shapes."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, array in arrays.items():
        if isinstance(array, Ragged):
            found |= {f"{prefix}{name}": array.values, f"{prefix}{name}{_OFFSETS}": array.offsets}
            if array.shapes is not None:
                found[f"{prefix}{name}{_SHAPES}"] = array.shapes
        else:
            found[f"{prefix}{name}"] = array
    return found


def unpacked(stored: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> dict[str, Array]:
    """Restores arrays that `packed` stored under a prefix.

    Raises:
        ValueError: offsets do not match their values.
    """
    found: dict[str, Array] = {}
    for key in stored:
        if not key.startswith(prefix) or key.endswith((_OFFSETS, _SHAPES)):
            continue
        values = stored[key]
        if key + _OFFSETS not in stored:
            found[key.removeprefix(prefix)] = values
            continue
        offsets = stored[key + _OFFSETS]
        if not values.ndim or offsets.ndim != 1 or offsets.dtype.kind not in "iu":
            raise ValueError(f"{key} has no rows, or its offsets are not whole numbers")
        offsets = offsets.astype(np.int64)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values):
            raise ValueError(f"the offsets of {key} do not fit its {len(values)} rows")
        if (np.diff(offsets) < 0).any():
            raise ValueError(f"the offsets of {key} fall")
        shapes = stored.get(key + _SHAPES)
        if shapes is not None and (
            shapes.shape != (len(offsets) - 1, 2)
            or shapes.dtype.kind not in "iu"
            or not np.array_equal(shapes.prod(axis=1), np.diff(offsets))
        ):
            raise ValueError(f"the shapes of {key} do not fit its offsets")
        found[key.removeprefix(prefix)] = Ragged(values, offsets, shapes)
    return found

"""Checkpoints: complete files or none, and checks that nothing relevant has changed since.

WORK/checkpoints/000012.npz    arrays, and a record as JSON; the last two files are kept
"""

import contextlib
import errno
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import files
from kerastune.errors import ConverterError, KerastuneError

Arrays = dict[str, npt.NDArray[Any]]
KEPT = 2
_RECORD = "record"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def write(folder: Path, record: Mapping[str, Any], arrays: Arrays) -> None:
    """Writes the next checkpoint and deletes all but the last two.

    Raises:
        ConverterError: the disk is full; earlier checkpoints are untouched.
    """
    numbers = _numbers(folder)
    path = folder / f"{max(numbers, default=0) + 1:06}.npz"
    write_arrays(path, {_RECORD: np.array(json.dumps(record)), **arrays})
    for number in numbers[: -KEPT + 1]:
        (folder / f"{number:06}.npz").unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Writes an .npz that is complete on disk before it gets its name."""
    with _room_for(path), files.whole_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ConverterError(
            f"{path} cannot be written: {os.strerror(error.errno)}.",
            "Free some disk space; the last checkpoint is intact, and kerastune resume continues from it.",
        ) from error


def read(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Returns the record and the arrays of the newest complete checkpoint.

    Raises:
        KerastuneError: there is none.
    """
    damaged = []
    for number in reversed(_numbers(folder)):
        path = folder / f"{number:06}.npz"
        try:
            arrays = read_arrays(path)
            return json.loads(str(arrays.pop(_RECORD))), arrays
        except _DAMAGE as error:
            damaged.append(f"{path.name}: {error or type(error).__name__}")
    why = f"its checkpoints are damaged ({'; '.join(damaged)})" if damaged else "it has no checkpoint yet"
    raise KerastuneError(f"{folder.parent} cannot be resumed: {why}.", "Train again: kerastune run RECIPE --force")


def read_arrays(path: Path, names: Iterable[str] | None = None) -> Arrays:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in names or stored.files}  # checks each array's CRC


def records(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of all readable checkpoints."""
    found = []
    for number in _numbers(folder):
        with contextlib.suppress(*_DAMAGE):
            found.append(json.loads(str(read_arrays(folder / f"{number:06}.npz", [_RECORD])[_RECORD])))
    return found


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("[0-9]*.npz"))

"""Bytes by row: in memory while they are few, else in a file without a name, to keep memory flat."""

import mmap
import os
import tempfile
import weakref
from array import array
from typing import IO

import numpy as np
import numpy.typing as npt

from kerastune.errors import DataError

MOST = 2**24
"""Bytes of contents that stay in memory."""


class Contents:
    """Bytes of each row, appended first and then read by index, also from several threads."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._starts = most, array("Q", [0])
        self._held = bytearray()  # the last rows, which are not on disk
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, data: bytes) -> None:
        """Adds a row.

        Raises:
            DataError: there is no room for it in the folder for temporary files.
        """
        self._held += data
        self._starts.append(self._starts[-1] + len(data))
        if len(self._held) > self._most:
            self._write()

    def __getitem__(self, i: int) -> bytes:
        start, end = self._starts[i], self._starts[i + 1]
        written = self._starts[-1] - len(self._held)
        if start >= written:
            return bytes(self._held[start - written : end - written])
        assert self._file
        return os.pread(self._file.fileno(), end - start, start)

    def all(self) -> tuple[npt.NDArray[np.uint64], memoryview | mmap.mmap]:
        """Returns where each row begins, uint64 [n + 1], and all rows one behind the other.

        What is on disk is mapped anew, because touched pages count as this process's memory until they are unmapped.
        """
        if self._file is not None and self._held:
            self._write()
        file = self._file and mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._starts, np.uint64), file or memoryview(self._held)

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="kerastune-", buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            left = memoryview(bytes(self._held))
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise DataError(
                f"The data do not fit into {tempfile.gettempdir()}: {error.strerror or error}.",
                "Make room, or set TMPDIR to a folder with more.",
            ) from error
        self._held.clear()

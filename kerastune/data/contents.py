"""Contents of a table's rows: in memory while they are small, else in a file without a name, to keep memory flat."""

import os
import tempfile
import weakref
from array import array
from typing import IO

from kerastune.errors import DataError

MOST = 2**26
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
                f"The texts do not fit into {tempfile.gettempdir()}: {error.strerror or error}.",
                "Make room, or set TMPDIR to a folder with more.",
            ) from error
        self._held.clear()

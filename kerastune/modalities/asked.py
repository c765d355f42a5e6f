"""Files that are asked about: all are checked before the first is decoded, and each is decoded on demand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from kerastune.errors import DataError, listed, printable, shortened
from kerastune.modalities.contract import Asked, Example, Report, Stored


@dataclass(frozen=True)
class Kind:
    """How files of a kind are read.

    Attributes:
        one: the word with its article: "an image".
        stored, check, decode: as in `Modality`.
    """

    one: str
    stored: Stored
    check: Callable[[bytes, str], Report]
    decode: Callable[[bytes], Example]

    def ask(self, paths: Sequence[str | Path]) -> Asked:
        """Returns the files' names, and their examples.

        Raises:
            DataError: some files cannot be read; names them all.
        """
        problems = []
        for path in paths:
            try:
                encoded = self.read(path)
            except OSError as error:
                problems.append(f"{shortened(printable(str(path)))}: {error.strerror}")
                continue
            if problem := self.check(encoded, str(path)).problem:
                problems.append(f"{path}: {problem}")
        if problems:
            raise DataError(f"Some files cannot be read:\n{listed(problems)}", "Fix them or leave them out.")
        return Asked([str(path) for path in paths], _Files(self, [Path(path) for path in paths]))

    def read(self, path: str | Path) -> bytes:
        """Returns a file's bytes; raises OSError."""
        return self.stored.read(str(path), self.one)


class _Files(Sequence[Example]):
    """Examples of files, decoded on demand: a whole folder of photos would not fit in memory."""

    def __init__(self, kind: Kind, paths: Sequence[Path]) -> None:
        self._kind, self._paths = kind, paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "_Files": ...
    def __getitem__(self, index: int | slice) -> "Example | _Files":
        if isinstance(index, slice):
            return _Files(self._kind, self._paths[index])
        return self._kind.decode(self._kind.read(self._paths[index]))

"""What is known about each example, in packed columns: a million examples take megabytes instead of gigabytes."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kerastune.data.contents import Contents
from kerastune.data.source import Example, Label

Ints = npt.NDArray[np.int64]
Place = tuple[str | None, str | None, bool]
"""Split, group and whether it may train, of an example."""

_HELD = 2**22  # bytes of a column of texts that stay in memory


class _Column(Sequence[str]):
    """Texts by index. Equal to any other sequence of the same texts."""

    def _at(self, i: int) -> str:
        raise NotImplementedError

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[str, ...]: ...
    def __getitem__(self, i: int | slice) -> str | tuple[str, ...]:
        if isinstance(i, slice):
            return tuple(map(self._at, range(*i.indices(len(self)))))
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self._at(i % len(self))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


class Strings(_Column):
    """Texts one behind the other, which may hold lone surrogates, as paths do; all but the last of many are on disk."""

    def __init__(self) -> None:
        self._contents = Contents(_HELD)

    def append(self, text: str) -> None:
        self._contents.append(text.encode("utf-8", "surrogatepass"))

    def __len__(self) -> int:
        return len(self._contents)

    def _at(self, i: int) -> str:
        return self._contents[i].decode("utf-8", "surrogatepass")


class Digests(_Column):
    """SHA-256 digests in 32 bytes each, as hexadecimal texts; of zeros at first."""

    def __init__(self, count: int) -> None:
        self._bytes = np.zeros((count, 32), np.uint8)

    def __len__(self) -> int:
        return len(self._bytes)

    def _at(self, i: int) -> str:
        return bytes(self._bytes[i]).hex()

    def __setitem__(self, i: int, digest: str) -> None:
        self._bytes[i] = np.frombuffer(bytes.fromhex(digest), np.uint8)

    def places(self) -> npt.NDArray[np.float64]:
        """Returns each digest as a number between 0 and 1."""
        return self._numbers(slice(None))[:, 0] / 2.0**64

    def sorted(self, among: "Ints | array[int]") -> tuple[Ints, Ints]:
        """Returns the indices in `among` by their digests, equal ones as they come, and where each digest begins.

        Returns:
            int64 [n], and int64 [digests + 1], which ends with n.
        """
        indices = np.asarray(among, np.int64)
        numbers = self._numbers(indices)
        order = np.lexsort(numbers.T[::-1])
        numbers = numbers[order]
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (numbers[1:] != numbers[:-1]).any(1)
        return indices[order], np.append(np.flatnonzero(is_first), len(order))

    def copies(self, among: "Ints | array[int]") -> list[list[int]]:
        """Returns the indices in `among` that share a digest with another one, those of one together, as they come."""
        order, starts = self.sorted(among)
        several = np.flatnonzero(np.diff(starts) > 1)
        return sorted(order[starts[k] : starts[k + 1]].tolist() for k in several)

    def _numbers(self, which: Any) -> npt.NDArray[np.uint64]:
        """Returns digests as four numbers each, uint64 [n, 4], which sort as the texts do."""
        return np.ascontiguousarray(self._bytes[which]).view(">u8").astype(np.uint64)


class Chosen(_Column):
    """Some of the texts of another column."""

    def __init__(self, column: Sequence[str], members: "array[int]") -> None:
        self._column, self._members = column, members

    def __len__(self) -> int:
        return len(self._members)

    def _at(self, i: int) -> str:
        return self._column[self._members[i]]


class Examples(Sequence[Example]):
    """Examples without their contents: ids packed, equal labels and places held once."""

    def __init__(self, made: Iterable[Example] = ()) -> None:
        self.ids = Strings()
        self._labels: list[Label] = []
        self._places: list[Place] = []
        self._known: dict[Label | Place, Any] = {}
        for one in made:
            self.append(one)

    def append(self, one: Example) -> None:
        place = (one.split, one.group, one.trains)
        # Numbers are not shared: 0.0 equals -0.0.
        self._labels.append(self._known.setdefault(one.label, one.label) if isinstance(one.label, str) else one.label)
        self._places.append(self._known.setdefault(place, place))
        self.ids.append(one.id)

    def label(self, i: int) -> Label:
        return self._labels[i]

    def place(self, i: int) -> Place:
        return self._places[i]

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, i: int) -> Example: ...
    @overload
    def __getitem__(self, i: slice) -> list[Example]: ...
    def __getitem__(self, i: int | slice) -> Example | list[Example]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return Example(self.ids[i], self._labels[i], *self._places[i])

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

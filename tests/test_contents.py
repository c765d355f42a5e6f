"""Contents of rows leave memory when they grow, and are the same when they are read."""

import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from kerastune.data.contents import Contents
from kerastune.errors import DataError

ROWS = [f"{i} ".encode() * (i % 7) for i in range(1000)]  # some of them empty


def filled(most: int) -> Contents:
    contents = Contents(most)
    for row in ROWS:
        contents.append(row)
    return contents


@pytest.mark.parametrize("most", [0, 100, 2**20])
def test_rows_are_read_as_they_were_added_from_memory_and_from_disk(most: int) -> None:
    contents = filled(most)
    assert len(contents) == len(ROWS)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(contents.__getitem__, range(len(ROWS)))) == ROWS


def test_no_more_than_the_bound_stays_in_memory() -> None:
    assert len(filled(100)._held) <= 100


def test_a_full_disk_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match="No space left on device") as caught:
        filled(100)
    assert "TMPDIR" in str(caught.value.hint)

"""Checkpoints are whole or not there, and say what differs."""

from pathlib import Path

import numpy as np
import pytest

from kerastune.errors import KerastuneError
from kerastune.records import differences
from kerastune.training import checkpoint

ARRAYS = {"weights/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "seeds/0": np.array([1, 2], np.uint32)}


def written(folder: Path, count: int) -> None:
    for number in range(count):
        checkpoint.write(folder, {"number": number}, ARRAYS)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written(tmp_path, 1)
    record, arrays = checkpoint.read(tmp_path)
    assert record == {"number": 0}
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].dtype == value.dtype


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    written(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004.npz", "000005.npz"]
    assert [record["number"] for record in checkpoint.records(tmp_path)] == [3, 4]


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"", lambda b: b[:200] + b"\0\0" + b[202:]])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage) -> None:
    written(tmp_path, 2)
    path = tmp_path / "000002.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoint.read(tmp_path)[0] == {"number": 0}


def test_none_that_can_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(KerastuneError, match="it has no checkpoint yet"):
        checkpoint.read(tmp_path)
    (tmp_path / "000001.npz").write_bytes(b"PK")
    with pytest.raises(KerastuneError, match=r"its checkpoints are damaged \(000001.npz: "):
        checkpoint.read(tmp_path)


def test_an_unfinished_write_is_no_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, 1)
    (tmp_path / ".000002.npz.partial").write_bytes(b"half")
    assert checkpoint.read(tmp_path)[0] == {"number": 0}


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ({"a": {"b": 8}}, {"a": {"b": 16}}, ["a.b: 8 then, 16 now"]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ["a.1.b: 2 then, 3 now"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: [1] then, [1, 2] now"]),
        ({"a": 1}, {"b": 1}, ["a: 1 then, not set now", "b: not set then, 1 now"]),
        ({"a": {"b": 1, "c": None}}, {"a": None}, ["a: b = 1 then, not set now"]),
        ({"a": 1}, {"a": 1}, []),
    ],
)
def test_differences_are_named_with_their_path(then, now, expected) -> None:
    assert differences(then, now) == expected

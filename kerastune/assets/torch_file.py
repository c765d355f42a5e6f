"""Reads a torch checkpoint in the legacy (pre-zip) format, without torch and without running its code.

A pickle is a program. torch writes a tensor as a call of one function on a reference to raw bytes after the pickles,
so a state dict needs only four names. They map to harmless stand-ins; any other name is refused before it is looked
up.

The file: five pickles (magic number, protocol, system, state dict, storage keys), then per storage an int64
count and its little-endian values.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kerastune.errors import AssetError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int  # in elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _StateDictUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise AssetError(
                f"The torch file asks for {module}.{name}, which no state dict needs. Nothing was run.",
                "Do not trust this file. If it is yours: torch.save(model.state_dict(), FILE).",
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, count = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        return _Storage(str(key), dtype, int(count))


def read_state_dict(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Returns the arrays by name in a file that ``torch.save(model.state_dict(), …)`` wrote before torch 1.6."""
    try:
        if (_load(file), _load(file)) != (_MAGIC, _PROTOCOL):
            raise AssetError("Not a legacy torch file: its magic number and protocol are missing.")
        if not _load(file)["little_endian"]:
            raise AssetError("The torch file was written on a big-endian machine, which is not supported.")
        state: Mapping[str, _Tensor] = _load(file)
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in state.values()}
        values = {key: _read_values(file, dtypes[key]) for key in _load(file)}
        return {name: _view(values[tensor.storage.key], tensor) for name, tensor in state.items()}
    # Any error that a damaged pickle stream can raise; a bug of ours still shows as the exception's cause.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise AssetError(f"The torch file cannot be read: {type(error).__name__}: {error}") from error


def _load(file: IO[bytes]) -> Any:
    return _StateDictUnpickler(file).load()


def _read_values(file: IO[bytes], dtype: str) -> NDArray[Any]:
    count = int.from_bytes(_read_exactly(file, 8), "little")
    return np.frombuffer(_read_exactly(file, count * np.dtype(dtype).itemsize), dtype)


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} left")
    return data


def _view(values: NDArray[Any], tensor: _Tensor) -> NDArray[Any]:
    """Returns the tensor's view of its storage, after checking that it lies inside."""
    _, offset, shape, strides = tensor
    steps = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    if min([offset, *shape, *strides]) < 0 or offset + sum(steps) >= len(values):
        raise ValueError(f"a tensor of shape {shape} reaches outside its {len(values)} stored values")
    window = np.lib.stride_tricks.as_strided(
        values[offset:], shape, [stride * values.itemsize for stride in strides], writeable=False
    )
    return np.ascontiguousarray(window).reshape(shape)  # ascontiguousarray makes a scalar 1-D

"""Features: the frozen prefix's outputs for each example, kept in memory or on disk for later epochs.

    HOME/features/KEY/features.json   what it is, written last; its time of change is when it was last used
    HOME/features/KEY/0.bin           one file per tensor: the rows, one behind the other

The key holds all that the numbers depend on, so that a later run finds them. Knows no TensorFlow.
"""

import hashlib
import json
import math
import mmap
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy "bfloat16"
import numpy as np
import numpy.typing as npt
import psutil

from kerastune import assets
from kerastune.errors import KerastuneError

Arrays = tuple[npt.NDArray[Any], ...]

_RECORD = "features.json"
_RESERVE = 2**30
"""Bytes of the disk that are left free."""
_DAY = 24 * 3600


@dataclass(frozen=True)
class Spec:
    """One example's part of a tensor: `shape` is without the batch dimension."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Features:
    """`n` rows of each of several tensors. A source is an array, or the descriptor of an open file."""

    n: int
    specs: tuple[Spec, ...]
    sources: tuple[npt.NDArray[Any] | int, ...]

    def rows(self, indices: npt.NDArray[np.int64]) -> Arrays:
        """Returns the rows at `indices`, int64 [b]: one array [b, *shape] per tensor."""
        return tuple(self._all(i)[indices] for i in range(len(self.specs)))

    def _all(self, i: int) -> npt.NDArray[Any]:
        source, spec = self.sources[i], self.specs[i]
        if isinstance(source, np.ndarray):
            return source
        # Mapped again for every batch, because touched pages count as this process's memory until they are unmapped.
        mapped = mmap.mmap(source, 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, spec.dtype).reshape(self.n, *spec.shape)


def compute(
    forward: Callable[[Any], Arrays],
    batches: Iterable[tuple[Any, Any]],
    n: int,
    specs: Sequence[Spec],
    key: str | None = None,
    of: str = "",
    each: Callable[[int], None] = lambda done: None,
    beside: Callable[[Path], None] = lambda folder: None,
) -> Features:
    """Runs `forward` over batches and stores the rows: on disk under `key`, or in memory without one.

    Args:
        batches: of (inputs, which rows they are: int64 [b]), each row once.
        n: how many examples the batches hold together.
        of: what they are features of, for `kerastune cache ls`.
        each: told how many examples are done, after each batch.
        beside: writes what belongs to the features into their folder on disk, after the last batch.

    Raises:
        KerastuneError: there is no room on the disk.
    """
    if key is None:
        arrays = tuple(np.empty((n, *spec.shape), spec.dtype) for spec in specs)

        def fill(indices: npt.NDArray[np.int64], rows: Arrays) -> None:
            for array, found in zip(arrays, rows, strict=True):
                array[indices] = found

        _pass(forward, batches, n, specs, fill, each)
        return Features(n, tuple(specs), arrays)
    needed = n * sum(spec.nbytes for spec in specs)
    _make_room(needed)
    partial = _root() / f".{key[:16]}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir(parents=True)
    try:
        files = [(partial / f"{i}.bin").open("wb") for i in range(len(specs))]
        try:

            def write(indices: npt.NDArray[np.int64], rows: Arrays) -> None:  # not through a map: memory stays flat
                for file, spec, found in zip(files, specs, rows, strict=True):
                    for i, row in zip(indices.tolist(), found, strict=True):
                        os.pwrite(file.fileno(), row.tobytes(), i * spec.nbytes)

            _pass(forward, batches, n, specs, write, each)
        finally:
            for file in files:
                file.close()
        created = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"of": of, "examples": n, "bytes": needed, "created": created, "specs": [asdict(s) for s in specs]}
        beside(partial)
        (partial / _RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        try:
            partial.rename(_root() / key)
        except OSError:  # another process was faster, or there is something damaged
            if stored(key) is None:
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    made = stored(key)
    assert made is not None
    return made


def _pass(
    forward: Callable[[Any], Arrays],
    batches: Iterable[tuple[Any, Any]],
    n: int,
    specs: Sequence[Spec],
    put: Callable[[npt.NDArray[np.int64], Arrays], Any],
    each: Callable[[int], None],
) -> None:
    done = 0
    for batch, indices in batches:
        rows = forward(batch)
        found = tuple(Spec(array.shape[1:], array.dtype.name) for array in rows)
        if found != tuple(specs):
            raise ValueError(f"batch after {done} examples: {found} instead of {tuple(specs)}")
        put(np.asarray(indices), rows)
        done += len(rows[0])
        each(done)
    if done != n:
        raise ValueError(f"{done} examples instead of {n}")


# --- on disk ------------------------------------------------------------------------------------------------

_open: "weakref.WeakValueDictionary[str, Features]" = weakref.WeakValueDictionary()


def key(
    digests: Sequence[str],
    fingerprint: str,
    specs: Sequence[Spec],
    preprocessing: str,
    forward: str,
    batch_size: int,
) -> str:
    """Returns a sha256 of everything that features depend on.

    Args:
        digests: those of the examples, in order.
        fingerprint: that of the cut: its prefix's graph and weights.
        preprocessing: what makes model inputs of examples, the augmented view and its seed included.
        forward: which implementation computes them, in batches of `batch_size`.
    """
    packages = ("kerastune", "keras", "keras-hub", "numpy", "onnxruntime", "tensorflow")
    held = {
        "digests": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        "fingerprint": fingerprint,
        "specs": [asdict(spec) for spec in specs],
        "preprocessing": preprocessing,
        "forward": [forward, batch_size],
        "versions": {name: version(name) for name in packages},
    }
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def stored(key: str) -> Features | None:
    """Returns the features that an earlier run stored under a key, or None. Deletes damaged ones."""
    folder = _root() / key
    try:
        record = json.loads((folder / _RECORD).read_text("utf-8"))
        n, specs = record["examples"], tuple(Spec(tuple(s["shape"]), s["dtype"]) for s in record["specs"])
        # Descriptors and not paths: another process may delete the folder while it is in use.
        files = tuple(os.open(folder / f"{i}.bin", os.O_RDONLY) for i in range(len(specs)))
        found = Features(n, specs, files)
        for file in files:
            weakref.finalize(found, os.close, file)
        if [os.fstat(file).st_size for file in files] != [n * spec.nbytes for spec in specs]:
            raise ValueError("cut off")
        os.utime(folder / _RECORD)
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    _open[key] = found
    return found


def folder(key: str) -> Path:
    """Where the features of a key are kept on disk."""
    return _root() / key


def listing() -> list[dict[str, Any]]:
    """Returns the entries on disk, last used first: key, bytes, examples, created, used, of, path."""
    found = []
    for path in _root().glob(f"*/{_RECORD}"):
        if path.parent.name.startswith("."):
            continue
        try:
            record, changed = json.loads(path.read_text("utf-8")), path.stat().st_mtime
            kept = {name: record[name] for name in ("bytes", "examples", "created", "of")}
        except (OSError, ValueError, KeyError, TypeError):  # deleted meanwhile, or damaged: `stored` sees to that
            continue
        used = datetime.fromtimestamp(changed, UTC).isoformat(timespec="microseconds")
        found.append({"key": path.parent.name, **kept, "used": used, "path": str(path.parent)})
    return sorted(found, key=lambda entry: str(entry["used"]), reverse=True)


def clear(keys: Sequence[str] | None = None) -> int:
    """Deletes all entries on disk, or those with these keys (or key prefixes). Returns the freed bytes.

    Without keys, what killed processes left half written goes too.

    Raises:
        KerastuneError: nothing is kept under one of the keys.
    """
    entries = listing()
    for wanted in keys or ():
        if not any(entry["key"].startswith(wanted) for entry in entries):
            raise KerastuneError(f"No features are kept under the key {wanted!r}.", "kerastune cache ls lists them.")
    chosen = [e for e in entries if keys is None or e["key"].startswith(tuple(keys))]
    freed = sum(_delete(Path(entry["path"])) for entry in chosen)
    if keys is None:
        freed += sum(_delete(path) for path in _partials() if not _is_running(path))
    return freed


def room() -> int:
    """Bytes that one more entry may take, others making way for it."""
    sizes = {entry["key"]: int(entry["bytes"]) for entry in listing()}
    in_use = sum(size for key, size in sizes.items() if key in _open)
    evictable = sum(sizes.values()) - in_use
    return max(0, min(_bound() - in_use, _free() + evictable - _RESERVE))


def _make_room(needed: int) -> None:
    """Deletes the least recently used entries until `needed` bytes fit; never those that this process reads."""
    for path in _partials():
        if time.time() - path.stat().st_mtime > _DAY:
            _delete(path)
    if needed > room():
        raise KerastuneError(
            f"Features of {shown_size(needed)} do not fit on the disk any more: there is room for {shown_size(room())} "
            f"in {_root()}.",
            'Make room, raise KERASTUNE_CACHE_GB, or use train.cache = "off".',
        )
    entries = listing()
    total = sum(entry["bytes"] for entry in entries)
    for entry in reversed(entries):
        if total + needed <= _bound() and needed + _RESERVE <= _free():
            return
        if entry["key"] not in _open:
            total -= entry["bytes"]
            _delete(Path(entry["path"]))


def _root() -> Path:
    return assets.home() / "features"


def _bound() -> int:
    """Bytes that all entries together may take: $KERASTUNE_CACHE_GB, or 20 GB."""
    given = os.environ.get("KERASTUNE_CACHE_GB", "20")
    try:
        return int(max(0.0, float(given)) * 1e9)
    except (ValueError, OverflowError) as error:
        raise KerastuneError(f"KERASTUNE_CACHE_GB = {given!r} is no number of gigabytes.", "Try 20.") from error


def _free() -> int:
    there = next(path for path in (_root(), *_root().parents) if path.exists())
    return shutil.disk_usage(there).free


def _partials() -> list[Path]:
    return list(_root().glob(".*.partial"))


def _is_running(partial: Path) -> bool:
    return psutil.pid_exists(int(partial.name.split("-")[1]))


def _delete(folder: Path) -> int:
    size = sum(path.stat().st_size for path in folder.glob("*.bin"))
    shutil.rmtree(folder, ignore_errors=True)
    return size


def shown_size(count: int) -> str:
    """Bytes for people: "3.2 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

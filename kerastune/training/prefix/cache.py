"""Features: the frozen prefix's outputs for each example, kept in memory or on disk for later epochs.

    HOME/features/KEY/features.json   what it is, written last; its time of change is when it was last used
    HOME/features/KEY/0.bin           one file per tensor: the rows, one behind the other

The key holds all that the numbers depend on, so that a later run finds them. Knows no TensorFlow.
"""

import contextlib
import hashlib
import json
import math
import mmap
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy "bfloat16"
import numpy as np
import numpy.typing as npt

from kerastune import assets, environment, files
from kerastune.errors import KerastuneError

Arrays = tuple[npt.NDArray[Any], ...]
Whole = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

_RECORD = "features.json"
_RESERVE = 2**30
"""Bytes of the disk that are left free."""
_PACKAGES = (
    *("kerastune", "keras", "keras-hub", "numpy", "onnxruntime", "pillow", "sentencepiece", "tensorflow"),
    *("tensorflow-text", "tokenizers"),
)


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
    whole: Whole | None = None,
) -> Features:
    """Runs `forward` over batches and stores the rows: on disk under `key`, or in memory without one.

    Args:
        batches: of (inputs, which rows they are: int64 [b]), each row once.
        n: how many examples the batches hold together.
        of: what they are features of, for `kerastune cache ls`.
        each: told how many examples are done, after each batch.
        beside: writes what belongs to the features into their folder on disk, after the last batch.
        whole: completes an array of which the batches have filled some rows and left the others zero; others compute
            those. Only in memory.

    Raises:
        KerastuneError: there is no room on the disk.
    """
    needed = n * sum(spec.nbytes for spec in specs)
    if key is None:
        return _in_memory(forward, batches, n, specs, each, whole)
    if not files.is_writable(_root()):  # a cache that others share, and this user only reads
        if needed > (free := environment.memory_available()):
            raise KerastuneError(
                f"Features of {shown_size(needed)} cannot be kept: {_root()} cannot be written, and "
                f"{shown_size(free)} of memory are free.",
                'Set KERASTUNE_HOME to a folder of yours, or set train.cache and train.inputs to "off".',
            )
        return _in_memory(forward, batches, n, specs, each)
    _make_room(needed)
    _root().mkdir(parents=True, exist_ok=True)
    with files.beside(_root() / key) as outer:
        partial = outer / key
        partial.mkdir()
        with contextlib.ExitStack() as opened:
            bins = [opened.enter_context((partial / f"{i}.bin").open("wb")) for i in range(len(specs))]

            def write(indices: npt.NDArray[np.int64], rows: Arrays) -> None:  # not through a map: memory stays flat
                for file, spec, found in zip(bins, specs, rows, strict=True):
                    for i, row in zip(indices.tolist(), found, strict=True):
                        os.pwrite(file.fileno(), row.tobytes(), i * spec.nbytes)

            _refuse_others(_pass(forward, batches, specs, write, each), n)
        beside(partial)
        record = {
            "of": of,
            "examples": n,
            "bytes": needed,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "specs": [asdict(s) for s in specs],
            "sha256": {path.name: _sha256(path) for path in sorted(partial.iterdir())},
        }
        files.write_json(partial / _RECORD, record)
        try:
            files.put_in_place(partial, _root() / key, outer, force=False)
        except KerastuneError:  # another process was faster, or there is something damaged
            if stored(key) is None:
                files.put_in_place(partial, _root() / key, outer, force=False)
    made = stored(key)
    assert made is not None
    return made


def _in_memory(
    forward: Callable[[Any], Arrays],
    batches: Iterable[tuple[Any, Any]],
    n: int,
    specs: Sequence[Spec],
    each: Callable[[int], None],
    whole: Whole | None = None,
) -> Features:
    arrays = tuple(np.zeros((n, *spec.shape), spec.dtype) for spec in specs)

    def fill(indices: npt.NDArray[np.int64], rows: Arrays) -> None:
        for array, found in zip(arrays, rows, strict=True):
            array[indices] = found

    done = _pass(forward, batches, specs, fill, each)
    if whole:
        arrays, done = tuple(map(whole, arrays)), n
    _refuse_others(done, n)
    return Features(n, tuple(specs), arrays)


def _pass(
    forward: Callable[[Any], Arrays],
    batches: Iterable[tuple[Any, Any]],
    specs: Sequence[Spec],
    put: Callable[[npt.NDArray[np.int64], Arrays], Any],
    each: Callable[[int], None],
) -> int:
    done = 0
    for batch, indices in batches:
        rows = forward(batch)
        found = tuple(Spec(array.shape[1:], array.dtype.name) for array in rows)
        if found != tuple(specs):
            raise ValueError(f"batch after {done} examples: {found} instead of {tuple(specs)}")
        put(np.asarray(indices), rows)
        done += len(rows[0])
        each(done)
    return done


def _refuse_others(done: int, n: int) -> None:
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
    device: str,
) -> str:
    """Returns a sha256 of everything that features depend on.

    Args:
        digests: those of the examples, in order.
        fingerprint: that of the cut: its prefix's graph and weights.
        preprocessing: what makes model inputs of examples, the augmented view and its seed included.
        forward: which implementation computes them, in batches of `batch_size`.
        device: the processors that compute, which round in ways of their own.
    """
    held = {
        "digests": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        "fingerprint": fingerprint,
        "specs": [asdict(spec) for spec in specs],
        "preprocessing": preprocessing,
        "forward": [forward, batch_size],
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": device,
    }
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def stored(key: str, tell: Callable[[str], None] = lambda line: None) -> Features | None:
    """Returns the features that an earlier run stored under a key, or None. Deletes damaged ones, and tells of it."""
    folder = _root() / key
    if not folder.is_dir():
        return None
    try:
        record = json.loads((folder / _RECORD).read_text("utf-8"))
        n, specs = record["examples"], tuple(Spec(tuple(s["shape"]), s["dtype"]) for s in record["specs"])
        # Descriptors and not paths: another process may delete the folder while it is in use.
        bins = tuple(os.open(folder / f"{i}.bin", os.O_RDONLY) for i in range(len(specs)))
        found = Features(n, specs, bins)
        for file in bins:
            weakref.finalize(found, os.close, file)
        if [os.fstat(file).st_size for file in bins] != [n * spec.nbytes for spec in specs]:
            raise ValueError("cut off")
        _check(folder, bins, record["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        tell(f"What was kept as {folder} is damaged; it is made again")
        with contextlib.suppress(OSError):  # it may be another's, or a shared cache that is only read
            files.discard(folder)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder / _RECORD)
    _open[key] = found
    return found


def folder(key: str) -> Path:
    """Where the features of a key are kept on disk."""
    return _root() / key


_checked: set[tuple[str, int, int]] = set()  # files by path, inode and time of change: each is read once for this


def _check(folder: Path, bins: Sequence[int], expected: Mapping[str, str]) -> None:
    """Raises ValueError if a file is not as it was written."""
    opened: dict[str, int | Path] = {f"{i}.bin": file for i, file in enumerate(bins)}
    for name, sha256 in expected.items():
        file = opened.get(name, folder / name)
        known = (str(folder / name), os.stat(file).st_ino, os.stat(file).st_mtime_ns)
        if known not in _checked and _sha256(file) != sha256:
            raise ValueError("changed")
        _checked.add(known)


def _sha256(file: int | Path) -> str:
    with open(file, "rb", closefd=isinstance(file, Path)) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


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
        dead = {path: _size(path) for path in _root().glob(".*.partial")}
        files.clear(_root())
        freed += sum(size for path, size in dead.items() if not path.exists())
    return freed


def room() -> int:
    """Bytes that one more entry may take, others making way for it; none where nothing can be written."""
    if not files.is_writable(_root()):
        return 0
    sizes = {entry["key"]: int(entry["bytes"]) for entry in listing()}
    in_use = sum(size for key, size in sizes.items() if key in _open)
    evictable = sum(sizes.values()) - in_use
    return max(0, min(_bound() - in_use, _free() + evictable - _RESERVE))


def _make_room(needed: int) -> None:
    """Deletes the least recently used entries until `needed` bytes fit; never those that this process reads."""
    files.clear(_root())
    if needed > room():
        raise KerastuneError(
            f"Features of {shown_size(needed)} do not fit on the disk any more: there is room for {shown_size(room())} "
            f"in {_root()}.",
            'Make room, raise KERASTUNE_CACHE_GB, or set train.cache and train.inputs to "off".',
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


def _delete(folder: Path) -> int:
    size = _size(folder)
    with contextlib.suppress(OSError):  # another process was faster
        files.discard(folder)
    return size


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.bin"))


def shown_size(count: int) -> str:
    """Bytes for people: "3.2 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

"""Writes files and folders completely or not at all.

An incomplete one has a hidden, unique name, NAME → .NAME-1a2b3c4d.partial, and is locked. If its process was killed, it
is not locked, and the next command deletes it (`clear`).
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kerastune import locks
from kerastune.errors import KerastuneError, RecipeError, shortened

_HIDDEN = re.compile(r"\.?(.+)-[0-9a-f]{8}\.partial", re.DOTALL)
_REPLACED = ".replaced"  # the old folder inside the new one's hidden folder, until the new one is in place


def absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def read_bounded(path: str | Path, most: int, what: str) -> bytes:
    """Returns the bytes of a file.

    Args:
        most: maximum size in bytes.
        what: the kind of file in messages: "an image".

    Raises:
        OSError: it is not a regular file (a pipe could block, and a device never ends), or is too large.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no path has a NUL character")
    with open(path, "rb", opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and {what} has {most:,} at most")
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file completely or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write, which appears on disk at `path` if the block succeeds, or not at all."""
    partial, file = _hidden_file(path)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _sync(path.parent)


def _hidden_file(path: Path) -> tuple[Path, IO[bytes]]:
    while True:
        partial = path.with_name(_hidden(path.name))
        file = partial.open("xb")
        is_mine = True
        try:
            locks.take(file.fileno())
        except BlockingIOError:  # another process takes it for a dead one's, and deletes it
            is_mine = False
        except OSError:
            pass  # the file system has no locks
        if is_mine and locks.is_at(partial, file.fileno()):
            return partial, file
        file.close()


def _hidden(name: str) -> str:
    return f".{name}-{uuid.uuid4().hex[:8]}.partial"


def is_hidden(name: str, of: str) -> bool:
    """Returns whether this is the name of an incomplete file or folder `of`."""
    found = _HIDDEN.fullmatch(name)
    return name.startswith(".") and found is not None and found[1] == of


def empty(folder: Path) -> None:
    """Deletes everything in a folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def discard(folder: Path) -> None:
    """Deletes a folder, which is there whole or not at all whenever that is killed."""
    hidden = folder.with_name(_hidden(folder.name))
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def is_writable(folder: Path) -> bool:
    """Whether something can be put into a folder, or into the nearest that is there above it."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return os.access(there, os.W_OK | os.X_OK)


@contextlib.contextmanager
def whole_folder(target: Path, force: bool = False, kind: str = "run") -> Iterator[Path]:
    """Yields a folder to write into, which appears at `target` if the block succeeds, or not at all.

    Raises:
        KerastuneError: as `refuse_existing`.
    """
    refuse_existing(target, force, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    with beside(target) as outer:
        partial = outer / target.name
        partial.mkdir()
        yield partial
        refuse_existing(target, force, kind)
        put_in_place(partial, target, outer, force)


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Makes a hidden folder next to `target` for a block. Deletes those of dead processes."""
    clear(target.parent)
    with _locked_folder(target.parent, f".{target.name}", f"writing {target}") as folder:
        yield folder


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Makes a temporary folder for a block. Deletes those of dead processes."""
    clear_scratch()
    with _locked_folder(Path(tempfile.gettempdir()), "kerastune", "at work") as folder:
        (folder / "work").mkdir()
        yield folder / "work"


@contextlib.contextmanager
def _locked_folder(parent: Path, prefix: str, doing: str) -> Iterator[Path]:
    with contextlib.ExitStack() as held:
        while True:
            folder = parent / f"{prefix}-{uuid.uuid4().hex[:8]}.partial"
            folder.mkdir(mode=0o777 if prefix.startswith(".") else 0o700)
            with contextlib.suppress(FileNotFoundError, locks.HeldError):  # deleted before it was locked
                held.enter_context(locks.hold(folder / locks.NAME, doing))
                break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_scratch() -> None:
    """Deletes the temporary folders of killed processes."""
    clear(Path(tempfile.gettempdir()), "kerastune-")


def refuse_written(folder: Path) -> None:
    """Raises KerastuneError if a process is writing something into a folder right now."""
    for path in folder.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError), locks.hold(path / locks.NAME, f"looking at {path}"):
            pass


def clear(folder: Path, prefix: str = ".") -> None:
    """Deletes what killed processes left unfinished in a folder, and restores what one was about to replace."""
    names = list[str]()
    with contextlib.suppress(OSError):  # it does not exist or is not readable
        names = os.listdir(folder)
    for name in names:
        if name.startswith(prefix) and (found := _HIDDEN.fullmatch(name)):
            with contextlib.suppress(OSError, locks.HeldError):
                _clear_one(folder / name, folder / found[1])


def _clear_one(path: Path, target: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        with path.open("rb+") as file:
            locks.take(file.fileno())
            path.unlink()
        return
    with locks.hold(path / locks.NAME, f"clearing {path}"):
        if (path / _REPLACED).exists() and not os.path.lexists(target):
            (path / _REPLACED).rename(target)
        shutil.rmtree(path, ignore_errors=True)


_LONGEST_NAME = 220  # bytes; file systems take 255, and unfinished files have longer names
_LONGEST_PATH = 3000  # bytes; systems take 4096, and many files lie below it
_MARKS = {"run": {"run.json", "recipe.toml"}, "artifact": {"manifest.json", "golden.npz"}}


def refuse_existing(target: Path, force: bool, kind: str = "run") -> None:
    """Raises KerastuneError if `target` exists; with `force`, only if it is not a folder of that kind, or empty.

    Also raises if it cannot be made.
    """
    clear(target.parent)
    _refuse_unwritable(target)
    if not os.path.lexists(target):
        return
    if not force:
        raise KerastuneError(f"{target} already exists.", "Give another folder with -o, or replace it: --force.")
    held = {path.name for path in target.iterdir()} if target.is_dir() else {target.name}
    if held and not _MARKS[kind] <= held:
        raise KerastuneError(
            f"{target} is something else than a{'n' if kind == 'artifact' else ''} {kind}, so --force keeps it.",
            "Give another folder with -o.",
        )


def _refuse_unwritable(target: Path) -> None:
    """Tries to write, the only common test for permissions, read-only file systems and quotas."""
    parent = next(folder for folder in target.parents if os.path.lexists(folder))
    missing = target.relative_to(parent).parts
    if not parent.is_dir():
        why = f"{parent} is not a folder"
    elif any(len(os.fsencode(part)) > _LONGEST_NAME for part in missing):
        why = f"a name in it has more than {_LONGEST_NAME} bytes"
    elif len(os.fsencode(target)) > _LONGEST_PATH:
        why = f"its path has more than {_LONGEST_PATH} bytes"
    else:
        tried = parent / _hidden(missing[0])
        try:
            tried.mkdir()
            with contextlib.suppress(OSError):  # another process clears it at this moment
                tried.rmdir()
            return
        except OSError as error:
            why = f"nothing can be written into {parent} ({error.strerror})"
    raise KerastuneError(f"{shortened(str(target))} cannot be made: {why}.", "Give another folder with -o.")


def put_in_place(new: Path, target: Path, outer: Path, force: bool) -> None:
    """Renames a folder to `target` once it is on disk. A kill at any moment leaves the old or the new one.

    Args:
        outer: a folder made by `beside`, which holds the replaced folder until then.
        force: whether to replace an existing folder.

    Raises:
        KerastuneError: it exists, and `force` is false.
    """
    sync_all(new)
    replaced = outer / _REPLACED
    if force:
        with contextlib.suppress(FileNotFoundError):
            target.rename(replaced)
    try:
        new.rename(target)
    except OSError as error:
        if os.path.lexists(target):
            raise KerastuneError(
                f"{target} was made by another process in the meantime.", "Give another folder with -o."
            ) from error
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync(target.parent)
    if replaced.exists():
        replaced.rename(outer / "old")  # from here on, `clear` does not restore it


def sync_all(folder: Path) -> None:
    """Syncs a folder's contents to disk, so that a power cut after its renaming leaves it complete."""
    for path in folder.rglob("*"):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_plot(path: Path) -> None:
    """Raises RecipeError for a file that could not be drawn into, before the work and not after it."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise RecipeError(f"{path} is no picture file that can be drawn.", "End its name with .png, .svg or .pdf.")
    if not absolute(path).parent.is_dir():
        raise RecipeError(f"{path} cannot be written: its folder is not there.")

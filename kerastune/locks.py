"""Kernel locks, which end with their process and hold across containers and hosts that share a disk."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from kerastune.errors import KerastuneError, shortened

NAME = ".lock"
"""Name of a folder's lock file."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class HeldError(KerastuneError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: Path, doing: str) -> Iterator[int]:
    """Creates and holds a lock file during a block. Deletes it afterwards, unless the process is killed.

    Yields:
        The open file, for `is_at`, which tells whether the lock still exists.

    Args:
        doing: the work under the lock, for the message of a refused process: "training in runs/first".

    Raises:
        HeldError: another process, or another block of this one, holds it; the message says which, and where.
        FileNotFoundError: its folder does not exist.
        OSError: it cannot be written.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                take(descriptor)
            except OSError as error:
                _refuse_owner(path, error)
            if is_at(path, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has deleted it
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "doing": doing}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield descriptor
    finally:
        if is_at(path, descriptor):  # it may have been renamed or deleted with its folder
            path.unlink(missing_ok=True)
        os.close(descriptor)


def take(descriptor: int) -> None:
    """Locks an open file until it is closed; raises OSError if it is held, or the file system has no locks."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_at(path: Path, descriptor: int) -> bool:
    """Returns whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _refuse_owner(path: Path, error: OSError) -> None:
    """Raises if a lock without kernel support may be held: only this host's processes are known to be dead."""
    if error.errno not in _NO_LOCKS:
        raise _held(path) if isinstance(error, BlockingIOError | PermissionError) else error
    host, pid, _ = _owner(path)
    if host and (host != socket.gethostname() or psutil.pid_exists(pid)):
        raise _held(path, f" Its file system has no locks: if that process has ended, delete {path}.")


def _held(path: Path, more: str = "") -> HeldError:
    host, pid, doing = _owner(path)
    if not host:
        who = "Another process"
    elif host == socket.gethostname():
        who = f"Process {pid}"
    else:
        who = f"Process {pid} on {host}"
    return HeldError(
        f"{who} is {doing or f'at work in {path.parent}'} right now.", f"Wait until it ends, or stop it first.{more}"
    )


def _owner(path: Path) -> tuple[str, int, str]:
    """Returns the host, process and work of a lock's holder; empty if not written yet."""
    try:
        found = json.loads(path.read_bytes()[:10_000])
        return str(found["host"]), int(found["pid"]), shortened(str(found["doing"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0, ""

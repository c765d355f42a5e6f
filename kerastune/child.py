"""Runs Python child processes with limits on time and memory, because converters crash, hang and leak memory."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import IO, Any

import psutil

from kerastune import environment, files
from kerastune.errors import ConverterError
from kerastune.forkserver import ON_CPU, Forked, ForkServer, tied

TIMEOUT = 30 * 60.0
"""Maximum seconds of a child."""

_MEMORY_LEFT = 0.05  # fraction of the memory that must stay free
_SMALL = 1e9  # bytes: a child that holds less, and less than a quarter of all memory, is not to blame
_ELSEWHERE = "Try again when other programs have ended, or where there is more memory."

Child = subprocess.Popen[bytes] | Forked

_server: ContextVar[ForkServer | None] = ContextVar("_server", default=None)


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Forks children within the block from one process that has imported TensorFlow, which saves 7 s for each.

    That process starts with the first child, holds 750 MB, mostly shared with children, and ends with the outermost
    block. Outside Linux, or where forking is not safe, nothing changes.
    """
    if _server.get():
        yield
        return
    with ForkServer() as server:
        token = _server.set(server)
        try:
            yield
        finally:
            _server.reset(token)


def preload() -> None:
    """Imports TensorFlow for the children of `forking` in the background, before the first one starts."""
    if server := _server.get():
        server.begin()


def start(
    command: list[str],
    said: IO[Any],
    *,
    stdin: int = subprocess.DEVNULL,
    folder: str | None = None,
    forks: bool = True,
    temporary: str | None = None,
) -> Child:
    """Starts a Python child on the CPU, which ends with this process, however that ends (on Linux).

    Args:
        command: the interpreter and its arguments.
        said: the file for its output.
        stdin: a file descriptor.
        folder: its working directory.
        forks: whether it needs TensorFlow, and so can fork within `forking`.
        temporary: the folder of its temporary files.
    """
    server, environment = _server.get() if forks else None, {**os.environ, **ON_CPU}
    if temporary:
        environment["TMPDIR"] = temporary
    with open(os.devnull, "rb") as nothing:
        source = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
        forked = server.start(command[1:], said, source, folder or os.getcwd(), environment) if server else None
    return forked or subprocess.Popen(tied(command), stdin=stdin, stdout=said, stderr=said, cwd=folder, env=environment)


def run(what: str, arguments: list[str], timeout: float = TIMEOUT) -> float:
    """Runs a Python child to its end.

    Args:
        what: its name in messages: "The tflite converter".
        arguments: arguments of the Python interpreter.

    Returns:
        Its peak memory in MB, sampled five times a second; for a fork, including shared memory.

    Raises:
        ConverterError: it crashed, failed, took longer than `timeout` seconds, or was about to exhaust the memory; then
            the message names the processes that hold it.
    """
    with files.scratch() as scratch, tempfile.TemporaryFile("w+", errors="replace") as said:
        # -P: a user's module in this folder must not shadow ours
        child = start([sys.executable, "-P", *arguments], said, temporary=str(scratch))
        try:
            stopped, peak = watch(child, timeout)
        finally:
            end(child)
            code = child.wait()
        said.seek(0)
        words = last_lines(said.read())
    if stopped:
        raise ConverterError(f"{what} {stopped}.", _ELSEWHERE if "memory" in stopped else None)
    if code == -signal.SIGKILL:
        raise ConverterError(
            f"{what} was killed, probably by the system for using up the memory: it held {peak / 1e9:.1f} GB of "
            f"{environment.memory_total() / 1e9:.1f} GB. Now {environment.memory_holders()}.",
            _ELSEWHERE,
        )
    if code < 0:
        raise ConverterError(f"{what} crashed ({exit_reason(code)}): {words}")
    if code:
        raise ConverterError(f"{what} failed: {words}")
    return peak / 1e6


def watch(child: Child, timeout: float, alive: Callable[[], object] = lambda: None) -> tuple[str | None, int]:
    """Waits for a child. Returns why it must be ended, or None, and its peak memory in bytes.

    When the memory runs out, a child that holds little is not ended: that would give little back.

    Args:
        timeout: maximum seconds, counted from the last change of the value of `alive`.
    """
    memory, peak = environment.memory_total(), 0
    since, sign = time.monotonic(), alive()
    while True:
        try:
            child.wait(0.2)
            return None, peak
        except subprocess.TimeoutExpired:
            pass
        held = 0
        with contextlib.suppress(psutil.Error):  # it just ended
            held = psutil.Process(child.pid).memory_info().rss
        peak = max(peak, held)
        if (now := alive()) != sign:
            since, sign = time.monotonic(), now
        if time.monotonic() - since > timeout:
            return f"took more than {timeout / 60:g} minutes and was ended", peak
        if held > min(_SMALL, memory / 4) and environment.memory_available() < _MEMORY_LEFT * memory:
            others = environment.memory_holders(but=[child.pid])
            ran_out = f"held {held / 1e9:.1f} GB when the memory ran out ({memory / 1e9:.1f} GB), and was ended"
            return f"{ran_out}; the most after it held {others}", peak


def end(child: Child) -> None:
    """Kills a running child and its descendants."""
    if child.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(child.pid).children(recursive=True):
                one.kill()
        child.kill()


def exit_reason(code: int) -> str:
    """Returns a child's exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def last_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "it said nothing"

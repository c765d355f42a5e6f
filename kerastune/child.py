"""Python child processes with a limit on time and memory: converters crash, hang and do not give memory back."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import psutil

from kerastune.errors import ConverterError

TIMEOUT = 30 * 60.0
"""Seconds a child may take."""

_MEMORY_LEFT = 0.05  # share of the machine's memory that must stay free


def run(what: str, arguments: list[str], timeout: float = TIMEOUT) -> float:
    """Runs a Python child to its end.

    Args:
        what: names it in messages: "The tflite converter".
        arguments: of the Python interpreter.

    Returns:
        The most memory that it held, in MB, looked at five times a second.

    Raises:
        ConverterError: it crashed, failed, took longer than `timeout` seconds, or was about to use up the memory.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        # -P: a module of the user's here must not stand in for ours
        child = subprocess.Popen([sys.executable, "-P", *arguments], stdout=said, stderr=said)
        try:
            stopped, peak = watch(child, timeout)
        finally:
            end(child)
            code = child.wait()
        said.seek(0)
        words = last_lines(said.read())
    if stopped:
        raise ConverterError(f"{what} {stopped}.")
    if code == -signal.SIGKILL:
        raise ConverterError(f"{what} was killed, probably by the system for using up the memory.")
    if code < 0:
        raise ConverterError(f"{what} crashed ({exit_reason(code)}): {words}")
    if code:
        raise ConverterError(f"{what} failed: {words}")
    return peak / 1e6


def watch(
    child: "subprocess.Popen[bytes]", timeout: float, alive: Callable[[], object] = lambda: None
) -> tuple[str | None, int]:
    """Waits; returns why the child must be ended, if it must, and the most bytes that it held.

    Args:
        timeout: seconds that it may take, counted from the last change of what `alive` returns.
    """
    memory, peak = psutil.virtual_memory().total, 0
    since, sign = time.monotonic(), alive()
    while True:
        try:
            child.wait(0.2)
            return None, peak
        except subprocess.TimeoutExpired:
            pass
        held = 0
        with contextlib.suppress(psutil.Error):  # it has just ended
            held = psutil.Process(child.pid).memory_info().rss
        peak = max(peak, held)
        if (now := alive()) != sign:
            since, sign = time.monotonic(), now
        if time.monotonic() - since > timeout:
            return f"took more than {timeout / 60:g} minutes and was ended", peak
        if psutil.virtual_memory().available < _MEMORY_LEFT * memory:
            return f"held {held / 1e9:.1f} GB when the memory ran out ({memory / 1e9:.1f} GB), and was ended", peak


def end(child: "subprocess.Popen[bytes]") -> None:
    """Kills a child that still runs, and what it started."""
    if child.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(child.pid).children(recursive=True):
                one.kill()
        child.kill()


def exit_reason(code: int) -> str:
    """A child's exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def last_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "it said nothing"

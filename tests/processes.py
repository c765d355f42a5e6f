"""Processes of Python that tests start, forked where they may be, and waiting for what they do."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kerastune import child


def python(*arguments: str | Path, folder: Path | None = None) -> tuple[int, str]:
    """Runs Python to its end; its exit code, below 0 for signals, and what it said on both streams."""
    with tempfile.TemporaryFile("w+") as said:
        code = child.start([sys.executable, *map(str, arguments)], said, folder=folder and str(folder)).wait()
        said.seek(0)
        return code, said.read()


def until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until something is so; a test that waits in vain fails."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(0.02)


def read_until(words: str, stream: IO[str]) -> str:
    """What a process says up to a line with these words; a test fails if it ends without them."""
    said = ""
    for line in stream:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without {words!r}: {said}")

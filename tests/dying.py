"""Processes that die at one change to the file system, whichever it is."""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree"}


def die_at(change: int) -> None:
    """Has this process killed at this change to files, counted from 1; at 0, prints their number when it ends."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _CHANGES or writes:
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    if not change:
        atexit.register(lambda: print(f"\n{seen} changes"))


def every_kill(work: Callable[[], Any]) -> Iterator[int]:
    """Does some work again and again in forks, the first killed at its first change to files, the next at its second.

    Yields after each kill; what the work left is then as a killed process leaves it.
    """
    for at in range(1, 1000):
        if not _killed(work, at):
            return
        yield at
    raise AssertionError("the work has no end")


def _killed(work: Callable[[], Any], at: int) -> bool:
    if (child := os.fork()) == 0:
        code = 1
        try:
            die_at(at)
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "the work failed"
    return status != 0

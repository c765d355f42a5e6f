"""Ctrl-C, held back while related changes are under way."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def delayed() -> Iterator[None]:
    """Delays Ctrl-C until the block is done, so that related changes are never half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(signal.SIGINT, None)

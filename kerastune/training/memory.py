"""Keeping freed memory for the next training step, instead of asking the system for the same pages again."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 64 * 2**20, _TOP_PAD: 128 * 2**10, _MMAP_THRESHOLD: 32 * 2**20}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Lets glibc's malloc keep what is freed, and gives it back to the system at the end.

    TensorFlow asks malloc for each tensor. glibc gives large blocks back at once, and gets them again page by page,
    each one zeroed, which can take a third of a step's time on a CPU (bench/README.md). Nothing is done where there
    is no glibc, or where a MALLOC_… variable or GLIBC_TUNABLES says how.
    """
    said = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if said or os.name != "posix" or not hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        yield
        return
    for option, value in _KEEP.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            library.mallopt(option, value)
        library.malloc_trim(0)

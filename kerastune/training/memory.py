"""Memory of a training: keeps what a step frees for the next one, and says who holds it all when it runs out."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import tensorflow as tf

from kerastune import environment
from kerastune.errors import ConverterError, shortened

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 64 * 2**20, _TOP_PAD: 128 * 2**10, _MMAP_THRESHOLD: 32 * 2**20}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Makes glibc's malloc keep freed memory, and returns it to the system at the end.

    TensorFlow allocates each tensor with malloc. glibc returns large blocks to the system at once, and gets them back
    page by page, each one zeroed, which can take a third of a step's time on a CPU (bench/README.md). Does nothing
    without glibc, or if a MALLOC_… variable or GLIBC_TUNABLES is set.
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


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Says in words that the memory, or a GPU's, ran out, and who holds it."""
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        what = str(error).partition("\n")[0] or "no more is given"
        raise ConverterError(
            f"The memory ran out ({shortened(what)}). Of {environment.memory_total() / 1e9:.1f} GB, "
            f"{environment.memory_holders()}.",
            'Lower train.batch_size or the size of inputs, set train.cache = "disk" or "off", or end other programs.',
        ) from error

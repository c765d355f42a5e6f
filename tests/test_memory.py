"""Freed memory is kept while a training runs, and the system's again after it."""

import ctypes
import os
import resource

import pytest

from kerastune import memory

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="there is no glibc"
)
PAGES = 48 * 2**20 // resource.getpagesize()  # more than the 32 MB that glibc keeps by itself


@pytest.fixture(autouse=True)
def said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)


def faults() -> int:
    """Pages that the system hands out while five times PAGES are taken, written and freed, one after the other."""

    def take() -> None:
        bytes(range(256)) * (48 * 2**12)

    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        take()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_the_same_pages_serve_one_step_after_the_other() -> None:
    assert faults() > 4 * PAGES
    with memory.kept():
        assert faults() < PAGES / 10
    assert faults() > 4 * PAGES


def test_what_the_user_said_of_malloc_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with memory.kept():
        assert faults() > 4 * PAGES

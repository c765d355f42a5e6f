"""Freed memory is kept while a training runs, and the system's again after it."""

import ctypes
import json
import os
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="there is no glibc"
)
PAGES = 48 * 2**20 // resource.getpagesize()  # more than the 32 MB that glibc keeps by itself

SCRIPT = f"""
import json, resource
from kerastune.training import memory

def faults():
    bytes(range(256)) * {48 * 2**12}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytes(range(256)) * {48 * 2**12}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
with memory.kept():
    within = faults()
print(json.dumps([first, within, faults()]))
"""


def faults(**said: str) -> list[int]:
    """Pages that a new process is handed while five times PAGES are taken, written and freed: before, within, after."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=ours | said, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout)
    return found


def test_the_same_pages_serve_one_step_after_the_other() -> None:
    before, within, after = faults()
    assert before > 4 * PAGES and within < PAGES / 10 and after > 4 * PAGES


def test_what_the_user_said_of_malloc_stays() -> None:
    assert min(faults(MALLOC_TRIM_THRESHOLD_="131072")) > 4 * PAGES

"""Interface for the progress of long work. The library prints nothing; the command line subclasses this."""

import contextlib
from collections.abc import Iterator

from kerastune.records import Audit


class Progress:
    """Receives progress and ignores it. Subclass it to show progress."""

    def say(self, line: str) -> None:
        """Reports a finished step in one sentence."""

    def phase(self, title: str, audit: Audit) -> None:
        """Reports the start of a phase; `audit` lists what trains in it, as in run.json."""

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Shows that a stage goes on, for as long as the block runs; nobody knows how far it is."""
        yield

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Reports that `done` of `total` units of a stage are finished (0: total unknown). Called often.

        `detail` holds the figures so far.
        """

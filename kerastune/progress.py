"""Interface for the progress of long work. The library prints nothing; the command line subclasses this."""

from kerastune.records import Audit


class Progress:
    """Receives progress and ignores it. Subclass it to show progress."""

    def say(self, line: str) -> None:
        """Reports a finished step in one sentence."""

    def phase(self, title: str, audit: Audit) -> None:
        """Reports the start of a phase; `audit` lists what trains in it, as in run.json."""

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Reports that `done` of `total` units of a stage are finished (0: total unknown). Called often.

        `detail` holds the figures so far.
        """

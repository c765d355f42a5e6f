"""The interface through which long work reports. The library is silent; the command line subclasses this."""

from kerastune.records import Audit


class Progress:
    """Told what happens; prints nothing. Subclass it to show progress your own way."""

    def say(self, line: str) -> None:
        """One finished step, in a sentence."""

    def phase(self, title: str, audit: Audit) -> None:
        """A phase begins; `audit` says what trains in it, as in run.json."""

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of a stage are finished (0: not known how many); called often.

        `detail`: figures so far.
        """

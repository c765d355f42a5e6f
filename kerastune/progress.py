"""How long work tells what it does. The library is silent by default; the command line subclasses this."""


class Progress:
    """Told what happens; prints nothing. Subclass it to show progress your own way."""

    def say(self, line: str) -> None:
        """One finished step, in a sentence."""

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of a stage are finished; called often. `detail`: figures so far."""

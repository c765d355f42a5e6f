"""How long work is shown: a bar on a terminal, lines in a log."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from kerastune.cli import show
from kerastune.cli.terminal import aligned, say
from kerastune.errors import printable
from kerastune.progress import Progress


class Terminal(Progress):
    """A bar on a terminal; elsewhere a line for each finished step. On stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.console = Console(file=sys.stderr)
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.stage = ""

    def say(self, line: str) -> None:
        if self.console.is_terminal:
            self.bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)

    def phase(self, title: str, audit: dict[str, Any]) -> None:
        heading, header, rows = show.phase(audit, title)
        for line in [heading, *("  " + line for line in aligned(header, rows))]:
            self.say(line)

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if not self.console.is_terminal:
            return  # a log is for what is done
        if stage != self.stage:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.stage, self.task = stage, self.bar.add_task(printable(stage), total=total, detail="")
        self.bar.update(self.task, completed=done, total=total, detail=printable(detail))


@contextlib.contextmanager
def progress() -> Iterator[Terminal]:
    """Shows progress while the block runs."""
    terminal = Terminal()
    with terminal.bar if terminal.console.is_terminal else contextlib.nullcontext():
        yield terminal

"""Shows the progress of long work: a bar on a terminal, lines in a log."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kerastune.cli import show
from kerastune.cli.terminal import aligned, say
from kerastune.errors import printable
from kerastune.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import TaskID

    from kerastune.records import Audit


class Terminal(Progress):
    """Writes to stderr: a bar on a terminal, otherwise one line per finished step."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            SpinnerColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar
        from rich.table import Column
        from rich.text import Text

        def text(shown: str, share: int) -> TextColumn:  # cut on narrow terminals; figures never are
            return TextColumn(shown, markup=False, table_column=Column(ratio=share, no_wrap=True, overflow="ellipsis"))

        class Either(ProgressColumn):
            """One column where the end is known, and another where it is not."""

            def __init__(self, known: ProgressColumn, unknown: ProgressColumn | None) -> None:
                super().__init__(Column(no_wrap=True))
                self.known, self.unknown = known, unknown

            def render(self, task: Task) -> "RenderableType":
                column = self.unknown if task.total is None else self.known
                return column(task) if column else Text("")

        self.console = console or Console(file=sys.stderr)
        self.bar = Bar(
            text("{task.description}", 3),
            Either(BarColumn(10), SpinnerColumn()),
            Either(MofNCompleteColumn(), None),
            Either(TimeRemainingColumn(compact=True), TimeElapsedColumn()),
            text("{task.fields[detail]}", 4),
            console=self.console,
            transient=True,
            expand=True,
        )
        self.task: TaskID | None = None
        self.stage = ""

    def say(self, line: str) -> None:
        if self.console.is_terminal:
            self.bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)

    def phase(self, title: str, audit: "Audit") -> None:
        heading, header, rows = show.phase(audit, title)
        for line in [heading, *("  " + line for line in aligned(header, rows))]:
            self.say(line)

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        self._end()
        spinner = self.bar.add_task(printable(stage), total=None, detail="")
        try:
            yield
        finally:
            self.bar.remove_task(spinner)

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if not self.console.is_terminal:
            return  # a log shows finished steps only
        if stage != self.stage or self.task is None:
            self._end()
            self.stage, self.task = stage, self.bar.add_task(printable(stage), total=total or None, detail="")
        self.bar.update(self.task, completed=done, total=total or None, detail=printable(detail))
        if done >= total > 0:  # the next step may show nothing for minutes
            self._end()

    def _end(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None


@contextlib.contextmanager
def progress() -> Iterator[Terminal]:
    """Shows progress while the block runs."""
    terminal = Terminal()
    with terminal.bar if terminal.console.is_terminal else contextlib.nullcontext():
        yield terminal

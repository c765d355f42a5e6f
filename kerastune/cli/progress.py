"""Shows the progress of long work: a bar on a terminal, lines in a log, one changing line in a notebook."""

import contextlib
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kerastune.cli import show
from kerastune.cli.terminal import fitted, put, say, wrapped
from kerastune.errors import printable
from kerastune.progress import Progress, is_notebook

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import TaskID

    from kerastune.records import Audit


class Terminal(Progress):
    """Writes to stderr: a bar on a terminal, otherwise one line per finished step."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.constrain import Constrain
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

        def text(shown: str, ratio: int | None) -> TextColumn:
            return TextColumn(shown, markup=False, table_column=Column(ratio=ratio, no_wrap=True, overflow="ellipsis"))

        class Either(ProgressColumn):
            """One column where the end is known, and another where it is not."""

            def __init__(self, known: ProgressColumn, unknown: ProgressColumn | None) -> None:
                super().__init__(Column(no_wrap=True))
                self.known, self.unknown = known, unknown

            def render(self, task: Task) -> "RenderableType":
                column = self.unknown if task.total is None else self.known
                return column(task) if column else Text("")

        self.console = screen = console or Console(file=sys.stderr)

        class Narrow(Bar):
            """Ends before the last columns: the ^C that a terminal echoes would break a full line in two."""

            def get_renderable(self) -> "RenderableType":
                return Constrain(super().get_renderable(), max(screen.width - 3, 10))

        self.bar = Narrow(
            text("{task.description}", None),
            Either(BarColumn(10 if self.console.width >= 100 else 5), SpinnerColumn()),
            Either(MofNCompleteColumn(), None),
            Either(TimeRemainingColumn(compact=True), TimeElapsedColumn()),
            text("{task.fields[detail]}", 1),  # gets what the others leave
            console=self.console,
            transient=True,
            expand=True,
        )
        self.task: TaskID | None = None
        self.stage = ""

    def say(self, line: str) -> None:
        if self.console.is_terminal:
            for part in wrapped(printable(line), self.console.width):
                self.bar.console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)

    def phase(self, title: str, audit: "Audit") -> None:
        for line in _phase(title, audit, self.console.width - 2 if self.console.is_terminal else None):
            self.say(line)

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        self._end()
        spinner = self.bar.add_task(self._fit(stage), total=None, detail="")
        try:
            yield
        finally:
            self.bar.remove_task(spinner)

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if not self.console.is_terminal:
            return  # a log shows finished steps only
        if stage != self.stage or self.task is None:
            self._end()
            self.stage, self.task = stage, self.bar.add_task(self._fit(stage), total=total or None, detail="")
        self.bar.update(self.task, completed=done, total=total or None, detail=printable(detail))
        if done >= total > 0:  # the next step may show nothing for minutes
            self._end()

    def _fit(self, stage: str) -> str:
        """Returns a stage's name, cut where it would leave no room for a bar, figures and a time."""
        room = max(self.console.width - 41, 10)
        return shown if len(shown := printable(stage)) <= room else f"{shown[: room - 1]}…"

    def _end(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Shows that libraries load while the block imports them, which takes seconds."""
    with progress() as told, told.working("loading TensorFlow"):
        yield


def _phase(title: str, audit: "Audit", width: int | None) -> list[str]:
    heading, header, rows = show.phase(audit, title)
    return [heading, *("  " + line for line in fitted(header, rows, width))]


class Notebook(Progress):
    """Prints lines into a notebook's cell; the first shows the stage that goes on."""

    def __init__(self) -> None:
        self.line: Any = None  # a handle of IPython's display
        self.shown = 0.0

    def say(self, line: str) -> None:
        put(line)

    def phase(self, title: str, audit: "Audit") -> None:
        for line in _phase(title, audit, None):
            self.say(line)

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        self._show(f"{stage} …")
        try:
            yield
        finally:
            self._show("")

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        is_last = done >= total > 0
        if is_last or time.monotonic() - self.shown > 0.5:
            self._show("" if is_last else f"{stage}: {done}{f'/{total}' if total else ''}  {detail}")

    def _show(self, text: str) -> None:
        self.shown, content = time.monotonic(), {"text/plain": printable(text)}
        if self.line is None:
            self.line = import_module("IPython.display").display(content, raw=True, display_id=True)
        else:
            self.line.update(content, raw=True)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Shows progress while the block runs."""
    if is_notebook():
        yield Notebook()
        return
    terminal = Terminal()
    with terminal.bar if terminal.console.is_terminal else contextlib.nullcontext():
        yield terminal

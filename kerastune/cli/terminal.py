"""What people see: text on stdout, progress on stderr, and nothing of other people's that a terminal would obey."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from kerastune.errors import printable
from kerastune.progress import Progress


def put(text: str = "") -> None:
    click.echo(_lines(text))


def say(text: str) -> None:
    click.echo(_lines(text), err=True)


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def emit(as_json: bool, document: Any, text: Callable[[], None]) -> None:
    """One JSON document, or text for people, on stdout."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        text()


def table(header: list[str], rows: list[list[str]]) -> None:
    """Columns of text; figures to the right."""
    put("\n".join(_aligned(header, rows)))


def _aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    rows_ = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows_) for i in range(len(header))]
    figures = [all(_is_figure(row[i]) for row in rows_[1:]) for i in range(len(header))]
    aligned = []
    for row in rows_:
        cells = [c.rjust(w) if f else c.ljust(w) for c, w, f in zip(row, widths, figures, strict=True)]
        aligned.append("  ".join(cells).rstrip())
    return aligned


def _is_figure(cell: str) -> bool:
    return re.fullmatch(r"–|[-+]?[\d,.]+(e[-+]?\d+)?", cell) is not None


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

    def table(self, title: str, header: list[str], rows: list[list[str]]) -> None:
        for line in [title, *("  " + line for line in _aligned(header, rows))]:
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
    terminal = Terminal()
    with terminal.bar if terminal.console.is_terminal else contextlib.nullcontext():
        yield terminal


def shown(path: Path) -> str:
    """A path as the user would type it."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)

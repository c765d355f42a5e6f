"""Prints results to stdout and progress to stderr, with control characters escaped."""

import contextlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kerastune.errors import printable

INTERRUPTED = 130  # what shells use for Ctrl-C


def put(text: str = "") -> None:
    """Prints part of the result."""
    click.echo(_lines(text))


def say(text: str) -> None:
    """Prints anything but the result: progress, errors, the next step."""
    click.echo(_lines(text), err=True)


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def emit(as_json: bool, document: Any, text: Callable[[], None]) -> None:
    """Prints the result: one JSON document, or text for people."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        text()


def table(header: list[str], rows: list[list[str]]) -> None:
    """Prints columns of text, figures right-aligned. On a narrow terminal, cells wrap over several lines."""
    lines = aligned(header, rows)
    if sys.stdout.isatty() and max(map(len, lines)) > (width := shutil.get_terminal_size().columns):
        lines = folded(header, rows, width)
    put("\n".join(lines))


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Returns the lines of a table."""
    rows_ = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows_) for i in range(len(header))]
    figures = [all(_is_figure(row[i]) for row in rows_[1:]) for i in range(len(header))]
    aligned = []
    for row in rows_:
        cells = [c.rjust(w) if f else c.ljust(w) for c, w, f in zip(row, widths, figures, strict=True)]
        aligned.append("  ".join(cells).rstrip())
    return aligned


def folded(header: list[str], rows: list[list[str]], width: int) -> list[str]:
    """Returns the lines of a table that is at most `width` characters wide; cells break between words."""
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, cells in zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True):
        made.add_column(
            Text(printable(name)), justify="right" if all(map(_is_figure, cells)) else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(made)
    return [line.rstrip() for line in captured.get().splitlines()]


def _is_figure(cell: str) -> bool:
    return re.fullmatch(r"–|[-+]?[\d,.]+(e[-+]?\d+)?", cell) is not None


def shown(path: Path) -> str:
    """Returns a path as the user would type it."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


def typed(*words: str | Path) -> str:
    """Returns a command as the user would type it, quoted for a shell."""
    return shlex.join(shown(word) if isinstance(word, Path) else word for word in words)

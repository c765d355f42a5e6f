"""The terminal: results on stdout, progress on stderr, and no foreign characters that a terminal would obey."""

import contextlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kerastune.errors import printable

INTERRUPTED = 130  # what shells use for Ctrl-C


def put(text: str = "") -> None:
    """Prints a part of the result."""
    click.echo(_lines(text))


def say(text: str) -> None:
    """Prints what is not the result: progress, errors, the next step."""
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
    """Prints columns of text; figures to the right."""
    put("\n".join(aligned(header, rows)))


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table."""
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


def shown(path: Path) -> str:
    """A path as the user would type it."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


def typed(*words: str | Path) -> str:
    """A command as the user would type it, with quotes where a shell needs them."""
    return shlex.join(shown(word) if isinstance(word, Path) else word for word in words)

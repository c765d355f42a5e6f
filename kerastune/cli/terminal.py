"""Prints results to stdout and progress to stderr, with control characters escaped.

On a terminal, long lines break between words. Commands stay whole, so that they can be copied.
"""

import contextlib
import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

from kerastune.errors import printable


def put(text: str = "", as_is: bool = False) -> None:
    """Prints part of the result; `as_is`, a document whose lines are kept."""
    click.echo(_lines(text, None if as_is else _width(sys.stdout)))


def say(text: str) -> None:
    """Prints anything but the result: progress, errors, the next step."""
    click.echo(_lines(text, _width(sys.stderr)), err=True)


def say_next(*steps: str | tuple[str, str]) -> None:
    """Says what to do next. Each step has a line of its own, so that its command can be pasted.

    Args:
        steps: alternatives: a command, or what for ("to draw it") and the command.
    """
    say("")
    for number, step in enumerate(steps):
        purpose, command = step if isinstance(step, tuple) else ("", step)
        say(f"{'  or' if number else 'Next'}{purpose and f', {purpose}'}: {command}")


def _width(stream: IO[str]) -> int | None:
    """Returns the columns of a terminal; None if nobody looks at the stream."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _lines(text: str, width: int | None) -> str:
    lines = [printable(line) for line in text.split("\n")]
    return "\n".join(lines if width is None else [part for line in lines for part in wrapped(line, width)])


_ARGUMENT = r"""'[^']*'|"[^"]*"|--?[a-z-]+(?: [\w.]+(?=[\s,;)]|$))?|[A-Z]+\b|[^\s'"]*[-/=.\[][^\s]*"""
_COMMAND = re.compile(
    rf"\b(?:kerastune(?: [a-z-]+(?=[\s,;:)]|\.\s|\.?$)){{1,2}}|pip install|bash)(?: (?:{_ARGUMENT}))*"
    r"|\b(?:echo|curl) .*"
)
_UNBROKEN = "\0"  # stands for a space in a command


def wrapped(line: str, width: int) -> list[str]:
    """Breaks a line between words, so that no part is wider than `width`. Keeps commands and long words whole."""
    if len(line) <= width:
        return [line]
    hanging = re.match(r"\s*\S+\s{2,}|\s*", line)  # "  name   what it is"
    indent = " " * len(hanging[0]) if hanging and len(hanging[0]) < width / 2 else ""
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _UNBROKEN), line)
    parts = textwrap.wrap(whole, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [part.replace(_UNBROKEN, " ") for part in parts]


def emit(as_json: bool, document: Any, text: Callable[[], None]) -> None:
    """Prints the result: one JSON document, or text for people."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        text()


def table(header: list[str], rows: list[list[str]]) -> None:
    """Prints columns of text, figures right-aligned. On a narrow terminal, cells wrap over several lines."""
    put("\n".join(fitted(header, rows, _width(sys.stdout))), as_is=True)


def fitted(header: list[str], rows: list[list[str]], width: int | None) -> list[str]:
    """Returns the lines of a table, folded if they are wider than a terminal."""
    lines = aligned(header, rows)
    return folded(header, rows, width) if width and max(map(len, lines)) > width else lines


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
    """Returns the lines of a table that is at most `width` characters wide.

    Cells break between words, and within words only where the longest words of all columns do not fit.
    """
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = [[printable(row[i]) for row in [header, *rows]] for i in range(len(header))]
    for (name, *cells), wide in zip(columns, _widths(columns, width), strict=True):
        is_figures = bool(cells) and all(map(_is_figure, cells))
        made.add_column(Text(name), justify="right" if is_figures else "left", overflow="fold", width=wide)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(made)
    return [line.rstrip() for line in captured.get().splitlines()]


def _widths(columns: list[list[str]], width: int) -> list[int]:
    """Returns the widths of columns with two spaces between them: at least their longest words, where they fit."""
    natural = [max(map(len, cells)) for cells in columns]
    widths = [max((len(word) for cell in cells for word in cell.split()), default=1) for cells in columns]
    room = max(width - 2 * (len(columns) - 1), len(columns))
    while sum(widths) > room:
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < room and (short := [i for i in range(len(widths)) if widths[i] < natural[i]]):
        widths[max(short, key=lambda i: natural[i] / widths[i])] += 1
    return widths


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

"""Interface for the progress of long work. The library prints nothing itself; the command line subclasses this."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import ParamSpec, TypeVar

from kerastune.records import Audit

P = ParamSpec("P")
R = TypeVar("R")


class Progress:
    """Receives progress and ignores it. Subclass it to show progress."""

    def say(self, line: str) -> None:
        """Reports a finished step in one sentence."""

    def phase(self, title: str, audit: Audit) -> None:
        """Reports the start of a phase; `audit` lists what trains in it, as in run.json."""

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Shows that a stage goes on, for as long as the block runs; nobody knows how far it is."""
        yield

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Reports that `done` of `total` units of a stage are finished (0: total unknown). Called often.

        `detail` holds the figures so far.
        """


def shown_by_default(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function with a `progress` argument: without one, a terminal or a notebook shows its progress.

    Nothing is shown where nobody looks, as in tests and scripts without a terminal.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R:
        call = signature.bind(*args, **kwargs)
        if call.arguments.get("progress") is not None or not is_looked_at():
            return function(*args, **kwargs)
        # What shows belongs to the command line, above every other room, so it is imported by name and only here.
        with import_module("kerastune.cli.progress").progress() as told:
            call.arguments["progress"] = told
            return function(*call.args, **call.kwargs)

    return shown


def is_looked_at() -> bool:
    """Returns whether a person sees what is printed now."""
    return is_notebook() or bool(sys.stderr and sys.stderr.isatty())


def is_notebook() -> bool:
    """Returns whether a Jupyter kernel runs this process."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")

"""A library call shows its progress where a person looks, and nowhere else."""

import io
import subprocess
import sys
import types
from typing import Any

import pytest

import kerastune
from kerastune.cli.progress import Notebook
from kerastune.progress import Progress, shown_by_default


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


@shown_by_default
def work(steps: int, progress: Progress | None = None) -> int:
    progress = progress or Progress()
    for step in range(steps):
        progress.advance("counting", step + 1, steps)
    progress.say("Counted")
    return steps


def test_a_terminal_shows_the_progress_of_a_call_that_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    assert work(3) == 3
    assert "Counted" in sys.stderr.getvalue()


def test_nothing_is_shown_where_nobody_looks_or_another_progress_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work(3)
    monkeypatch.setattr(sys, "stderr", Screen())
    work(3, Progress())
    assert capsys.readouterr() == ("", "") and sys.stderr.getvalue() == ""


def test_a_notebook_gets_lines_and_one_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Any:
        shown.append(content["text/plain"])
        return types.SimpleNamespace(update=lambda content, raw: shown.append(content["text/plain"]))

    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    assert work(3) == 3
    assert capsys.readouterr().out == "Counted\n"
    assert shown[-1] == ""
    told = Notebook()
    with told.working("loading"):
        assert shown[-1] == "loading …"
    told.shown = -1
    told.advance("reading", 5, 9, "loss 0.5")
    assert shown[-1] == "reading: 5/9  loss 0.5"


def test_the_public_functions_are_listed_and_there() -> None:
    assert {"fine_tune", "export", "verify", "read_recipe", "Export", "Progress"} <= set(dir(kerastune))
    assert all(getattr(kerastune, name) for name in kerastune.__all__)


def test_tensorflow_does_not_greet_a_program_that_uses_kerastune() -> None:
    code = "from kerastune import fine_tune; import tensorflow as tf; tf.constant(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

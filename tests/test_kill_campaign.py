"""Whole commands, killed at random moments: what was finished stays whole, nothing is left behind, `resume` goes on.

The moments are drawn with a fixed seed. KERASTUNE_KILLS is how many kills each command gets in the slow tests.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from test_resume import assert_same_bits

from kerastune import files, run
from kerastune.verifying import artifact

KILLS = int(os.environ.get("KERASTUNE_KILLS", "5"))
COMMANDS = {
    "evaluate": "evaluate run",
    "report": "report run",
    "export": "export run --format onnx --force",
    "verify": "verify run/exports/onnx",
    "run": "run my.toml -o again",
}
QUICK = ["evaluate", "export", "run"]  # one kill each in the usual tests


def trials() -> Iterator[Any]:
    random = np.random.default_rng(0)
    for name in COMMANDS:
        for number in range(KILLS):
            marks = [] if number == 0 and name in QUICK else [pytest.mark.slow]
            yield pytest.param(name, round(random.uniform(0.0, 1.0), 3), marks=marks)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's commands put their temporary files, and keep features."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path / "home"))
    return folder


def start(command: str, folder: Path) -> "subprocess.Popen[bytes]":
    code = "from kerastune.cli import main; main()"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", code, *command.split()], cwd=folder, **quiet)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Callable[..., Any]) -> tuple[Path, dict[str, float]]:
    """A folder with a recipe and the finished run of it, and the seconds that each command takes there."""
    folder = tmp_path_factory.mktemp("whole")
    wanted = recipe(
        "resnet",
        phases=[{"unfreeze": "head", "epochs": 3, "learning_rate": 3e-2}, {"unfreeze": "top:1", "epochs": 3}],
        train={"batch_size": 8, "checkpoint_every": "3 steps", "xla": False},
        exports=[{"format": "onnx"}],
    )
    (folder / "my.toml").write_text(wanted.to_toml())
    seconds = {}
    for name in ("run", *(name for name in COMMANDS if name != "run")):
        started = time.monotonic()
        command = COMMANDS[name].replace("again", "run")
        assert start(command, folder).wait() == 0, command
        seconds[name] = time.monotonic() - started
    return folder, seconds


@pytest.mark.parametrize(("name", "share"), [*trials()])
def test_a_command_that_is_killed_harms_nothing_and_leaves_nothing(
    whole: tuple[Path, dict[str, float]], tmp_path: Path, temporary: Path, name: str, share: float
) -> None:
    reference, seconds = whole
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    started = start(COMMANDS[name], tmp_path)
    try:
        started.wait(share * seconds[name])
    except subprocess.TimeoutExpired:
        children = psutil.Process(started.pid).children(recursive=True)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        assert not psutil.wait_procs(children, 10)[1], "a child lives on"
    if name == "run":
        is_begun = run.is_run(tmp_path / "again") or any((tmp_path / "again.partial").glob("checkpoints/[0-9]*"))
        left = is_begun and not (tmp_path / "again" / "report.html").is_file()
        if left or not is_begun:
            assert start("resume again" if left else COMMANDS["run"], tmp_path).wait() == 0
        check(tmp_path / "again", reference / "run")
    check(tmp_path / "run", reference / "run")
    found = {path.name for path in tmp_path.iterdir()}
    assert found - {"again", "home"} == {"my.toml", "run", "temporary"}
    files.clear_scratch()
    assert list(temporary.iterdir()) == []


def check(folder: Path, reference: Path) -> None:
    """The run and its artifact are whole, and nothing else is there."""
    of = run.load(folder)
    assert of.record.status == "complete" and of.report.is_file()
    assert_same_bits(folder, reference)
    made = artifact.load(of.exports / "onnx")
    made.check_files()
    assert made.report is not None and made.report.passed
    assert {path.name for path in of.exports.iterdir()} == {"onnx"}
    assert {path.name for path in folder.iterdir()} == {path.name for path in reference.iterdir()}

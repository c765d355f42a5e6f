"""Folders where whole commands run and are killed, and what must be so afterwards.

Commands run in forks of a process that has imported KerasHub, two at a time.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from bits import assert_same_bits
from processes import until

from attack.campaign import Trial
from kerastune import files, forkserver, run
from kerastune.verifying import artifact

AT_ONCE = 2
STEPS = {"batch_size": 8, "checkpoint_every": "3 steps", "xla": False}
CODE = """
import sys
sys.path.insert(0, {tests!r})
import dying
from attack.place import add_asset
from kerastune import cli
add_asset()
if {change} is not None:
    dying.die_at({change})
cli.main()
"""


@cache
def _server() -> forkserver.ForkServer:
    return forkserver.ForkServer("keras_hub")


def add_asset() -> None:
    """Adds a data set that is fetched without a network, as the real ones are: through a temporary folder."""
    from kerastune import assets
    from kerastune.assets.asset import Asset

    def build(folder: Path, told: Any) -> None:
        with files.scratch() as scratch:
            for number in range(20):
                (scratch / f"{number}.txt").write_text("x" * number)
            shutil.copytree(scratch, folder / "data")

    assets.ASSETS["little"] = Asset("little", "dataset", "little", "CC0", "here", 0, {}, build)


@dataclass
class Place:
    """A folder of runs, with a home of kerastune and a folder for temporary files beside it."""

    folder: Path

    def __post_init__(self) -> None:
        for path in (self.work, self.temporary):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    def start(self, line: str, said: Any, change: int | None = None) -> Any:
        environment = {
            **os.environ,
            "KERASTUNE_HOME": str(self.folder / "home"),
            "TMPDIR": str(self.temporary),
        }
        arguments = ["-c", CODE.format(change=change, tests=str(Path(__file__).parents[1])), *line.split()]
        with open(os.devnull, "rb") as nothing:
            forked = _server().start(arguments, said, nothing.fileno(), str(self.work), environment)
        command = [sys.executable, *arguments]
        return forked or subprocess.Popen(command, stdout=said, stderr=said, cwd=self.work, env=environment)

    def run(self, line: str, change: int | None = None) -> str:
        """Runs a command to its end; what it said."""
        with tempfile.TemporaryFile("w+") as said:
            code = self.start(line, said, change).wait()
            said.seek(0)
            words = said.read()
        assert code == 0, f"{line}: exit code {code}: {words[-1000:]}"
        return words

    def killed(self, line: str, seconds: float | None, change: int | None, first: Callable[[], object]) -> bool:
        """Runs a command that is killed some seconds after something is so, or at a change to files."""
        with tempfile.TemporaryFile("w+") as said:
            started = self.start(line, said, change)
            with contextlib.suppress(subprocess.TimeoutExpired):
                until(lambda: first() or started.poll() is not None, 120)
                started.wait(seconds)
            children = list[psutil.Process]()
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(started.pid).children(recursive=True)
            started.kill()
            code = started.wait()
            said.seek(0)
            assert code in (0, -signal.SIGKILL), f"{line}: exit code {code}: {said.read()[-1000:]}"
        assert not psutil.wait_procs(children, 20)[1], "a child lives on"
        return code != 0

    def check_clean(self, *there: str) -> None:
        """Nothing is here but these, once the next command has cleared what was killed."""
        files.clear(self.work)
        files.clear(self.temporary, "kerastune-")
        found = {path.name for path in self.work.iterdir()}
        assert found == set(there), f"{sorted(found)} instead of {sorted(there)}"
        assert not list(self.temporary.iterdir()), list(self.temporary.iterdir())


def check_run(folder: Path, reference: Path) -> None:
    """A run and its artifacts are whole, of the same bits as the reference, and nothing else is there."""
    of = run.load(folder)
    assert of.record.status == "complete"
    assert_same_bits(folder, reference)
    found, expected = ({path.name for path in one.iterdir()} for one in (folder, reference))
    assert found == expected, f"{sorted(found)} instead of {sorted(expected)}"
    for made in artifact.inside(of.exports):
        made.check_files()
        assert made.report is not None and made.report.passed
    assert {path.name for path in of.exports.glob("*")} == {path.name for path in (reference / "exports").glob("*")}


def at_once(tries: Iterator[tuple[str, Callable[[], None]]]) -> Iterator[Trial]:
    """Begins the next trials while one is looked at."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = list[tuple[str, Future[None]]]()
        try:
            while True:
                while len(waiting) < AT_ONCE:
                    what, work = next(tries)
                    waiting.append((what, pool.submit(work)))
                what, begun = waiting.pop(0)
                yield Trial(what, begun.result, "work")
        finally:
            for _, begun in waiting:
                begun.cancel()

"""Kills of whole commands at random moments: what was finished stays whole, nothing is left, and work goes on."""

import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from processes import until

from attack import little
from attack.campaign import Campaign, Trial
from attack.place import STEPS, Place, at_once, check_run
from kerastune import files, run

HEAD = {"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}
TOP = {"unfreeze": "top:1", "epochs": 2, "learning_rate": 1e-3}


# --- what commands start from ------------------------------------------------------------------------------


class Made:
    """What kills start from, each made when it is first needed: folders by name, and what a command takes."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.home = folder / "home"
        recipe = little.images(folder / "little", family="resnet", phases=[HEAD, TOP], train={**STEPS, "cache": "off"})
        exported = recipe.model_copy(update={"exports": _exports()})
        stored = recipe.model_copy(update={"train": recipe.train.model_copy(update={"cache": "disk"})})
        for name, one in {"little": recipe, "exported": exported, "stored": stored}.items():
            (folder / f"{name}.toml").write_text(one.to_toml())
        self._making = threading.RLock()
        self._measured: dict[str, tuple[float, int]] = {}

    def there(self, name: str) -> Path:
        path = self.place.work / name
        with self._making:
            if not path.exists():
                _MAKES[name](self)
        return path

    def placed(self, folder: Path, needed: tuple[str, ...]) -> Place:
        """A copy of what a command needs."""
        place = Place(folder)
        for name in needed:
            source = self.there(name)
            shutil.copytree(source, place.work / name.removeprefix("exported-"), symlinks=True)
        for recipe in self.place.folder.glob("*.toml"):
            shutil.copy(recipe, place.folder)
        return place

    def measured(self, command: "Command", folder: Path) -> tuple[float, int]:
        """How long an undisturbed command takes, and how often it changes files."""
        if command.line not in self._measured:
            place = self.placed(folder, command.needs)
            started = time.monotonic()
            said = place.run(command.line, change=0)
            self._measured[command.line] = time.monotonic() - started, int(re.findall(r"(\d+) changes", said)[-1])
            shutil.rmtree(folder)
        return self._measured[command.line]


def _exports() -> tuple[Any, ...]:
    from kerastune.recipe import Export

    return (Export(format="onnx"),)


def _stopped(made: Made, name: str, signal_: signal.Signals) -> None:
    """A training that a signal ends after its second checkpoint."""
    with tempfile.TemporaryFile("w+") as said:
        started = made.place.start(f"train ../little.toml -o {name}", said)
        checkpoint = made.place.work / f"{name}.partial" / "checkpoints" / "000002.npz"
        until(lambda: checkpoint.exists() or started.poll() is not None, 120)
        os.kill(started.pid, signal_)
        started.wait()


_MAKES: dict[str, Callable[[Made], object]] = {
    "run": lambda made: made.place.run("train ../little.toml -o run"),
    "exported-run": lambda made: made.place.run("run ../exported.toml -o exported-run"),
    "killed.partial": lambda made: _stopped(made, "killed", signal.SIGKILL),
    "stopped": lambda made: _stopped(made, "stopped", signal.SIGINT),
}


# --- what is killed ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command, the folders that it needs, and what must be so after a kill, once work has gone on."""

    line: str
    needs: tuple[str, ...]
    check: Callable[[Place, Made], None]


def _same(name: str = "run", reference: str = "run") -> Callable[[Place, Made], None]:
    """The run is whole; the command changed nothing that it must not."""

    def check(place: Place, made: Made) -> None:
        run.clear(place.work / name)
        check_run(place.work / name, made.there(reference))
        place.check_clean(name)

    return check


def _gone_on(command: str, name: str, reference: str = "run") -> Callable[[Place, Made], None]:
    """The training is resumed, or begun again where there was nothing to resume, to the same bits."""

    def check(place: Place, made: Made) -> None:
        folder, work = place.work / name, place.work / f"{name}.partial"
        has_checkpoint = any(work.glob("checkpoints/[0-9]*.npz")) or run.is_run(work)
        lacks_report = run.is_run(folder) and not (folder / "report.html").is_file()
        if has_checkpoint or lacks_report:
            place.run(f"resume {name}")
        elif work.exists() or not run.is_run(folder):
            place.run(command)
        check_run(folder, made.there(reference))
        place.check_clean(name)

    return check


def _fetched(place: Place, made: Made) -> None:
    said = place.run("assets fetch little")
    store = place.folder / "home" / "assets"
    assert {path.name for path in store.iterdir()} == {"little"}, said
    assert len(list((store / "little" / "data").iterdir())) == 20
    place.check_clean()


def _removed(name: str) -> Callable[[Place, Made], None]:
    """The run is there, whole, or is not."""

    def check(place: Place, made: Made) -> None:
        files.clear(place.work)
        if (place.work / name).exists():
            place.run(f"runs remove {name} --yes")
        place.check_clean()

    return check


def _resumed(name: str) -> Callable[[Place, Made], None]:
    def check(place: Place, made: Made) -> None:
        folder = place.work / name
        is_left = run.has_work(folder) or run.load(folder).record.status == "interrupted"
        if is_left or not (folder / "report.html").is_file():
            place.run(f"resume {name}")
        check_run(folder, made.there("run"))
        place.check_clean(name)

    return check


TRAIN, RUN, STORED = (
    f"{line} -o made" for line in ("train ../little.toml", "run ../exported.toml", "train ../stored.toml")
)
COMMANDS = [
    Command("evaluate run", ("run",), _same()),
    Command(TRAIN, (), _gone_on(TRAIN, "made")),
    Command("report run", ("run",), _same()),
    Command("resume killed", ("killed.partial",), _resumed("killed")),
    Command("assets fetch little", (), _fetched),
    Command(STORED, (), _gone_on(STORED, "made")),
    Command("runs remove run --yes", ("run",), _removed("run")),
    Command("resume stopped", ("stopped",), _resumed("stopped")),
    Command("train ../little.toml -o run --force", ("run",), _gone_on("train ../little.toml -o run --force", "run")),
    Command("evaluate run", ("run",), _same()),
    Command("runs remove killed --yes", ("killed.partial",), _removed("killed.partial")),
    Command("report run", ("run",), _same()),
    Command(RUN, (), _gone_on(RUN, "made", "exported-run")),
    Command("export run --format onnx --force", ("exported-run",), _same("run", "exported-run")),
    Command("verify run/exports/onnx", ("exported-run",), _same("run", "exported-run")),
    Command("evaluate run", ("exported-run",), _same("run", "exported-run")),
]


def _try(command: Command, made: Made, moment: float, at_change: bool, folder: Path) -> None:
    seconds, changes = made.measured(command, folder)
    place = made.placed(folder, command.needs)
    change = 1 + int(moment * changes) if at_change else None
    place.killed(command.line, None if change else moment * 1.2 * seconds, change, first=lambda: True)
    command.check(place, made)
    shutil.rmtree(folder)


def kills(random: np.random.Generator, folder: Path) -> Iterator[Trial]:
    made = Made(folder / "made")

    def tries() -> Iterator[tuple[str, Callable[[], None]]]:
        number = 0
        while True:
            for command in COMMANDS:
                made.measured(command, folder / "measured")
                moment, at_change = float(random.random()), bool(random.random() < 0.5)
                number += 1
                where = f"{'change' if at_change else 'moment'} {moment:.3f}"
                yield f"{command.line}, {where}", partial(_try, command, made, moment, at_change, folder / f"{number}")

    yield from at_once(tries())


CAMPAIGN = Campaign(
    name="kills",
    about="kills of run, train, resume, evaluate, export, verify, report, assets fetch and runs remove at any moment",
    count=200,
    trials=kills,
)

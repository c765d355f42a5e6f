"""The run folder: the only code that knows its file names.

RUN/config.json, task.json, *.weights.h5, …   the tuned model, as a KerasHub preset
RUN/recipe.toml                               the recipe as resolved
RUN/run.json                                  what happened: labels, metrics, phases, decisions, machine
RUN/history.csv                               one row an epoch
RUN/predictions.npz                           the model's predictions on validation and test, by name
RUN/exports/NAME/                             the artifacts
RUN/report.html
RUN.partial/                                  a training that has not ended: its recipe, history and checkpoints
"""

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from kerastune import data
from kerastune.data import Splits, ragged
from kerastune.errors import DataError, KerastuneError
from kerastune.files import absolute, put_in_place, refuse_existing, write_json
from kerastune.progress import Progress
from kerastune.recipe import Recipe, read
from kerastune.records import RunRecord, read_run, to_json

RECORD = "run.json"
RECIPE = "recipe.toml"
CHECKPOINTS = "checkpoints"
PARTIAL = ".partial"
_OWNER = "owner.json"


@dataclass(frozen=True)
class Run:
    """A finished training: the folder, and what its files say."""

    folder: Path
    _splits: list[Splits] = field(default_factory=list, repr=False, compare=False)  # at most one: read once

    @cached_property
    def record(self) -> RunRecord:
        return read_run(self.folder / RECORD)

    @cached_property
    def recipe(self) -> Recipe:
        return recipe_of(self.folder)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.record.labels

    @property
    def metric(self) -> str:
        """The name of the figure that chose the best epoch: "accuracy", "r2", …"""
        return self.record.metric

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch: phase, epoch (both from 1), loss, the run's `metric`, both on validation data (val_…), …"""
        with (self.folder / "history.csv").open(encoding="utf-8", newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    @property
    def exports(self) -> Path:
        return self.folder / "exports"

    def failure(self, name: str) -> Path:
        """Where it stands why an export was refused."""
        return self.exports / f"{name}.failed.json"

    @property
    def failures(self) -> list[dict[str, str]]:
        """The exports that were refused: name, format, quantize, error."""
        return [json.loads(path.read_text("utf-8")) for path in sorted(self.exports.glob("*.failed.json"))]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def splits(self, progress: Progress) -> Splits:
        """The data that the run was made with, read and checked once.

        Raises:
            DataError: they cannot be read, or have changed since.
        """
        if not self._splits:
            splits = data.load(self.recipe.data, progress.advance)
            if splits.fingerprint != self.record.data.fingerprint:
                raise DataError(
                    f"The data have changed since {self.folder} was trained (fingerprint {splits.fingerprint[:12]}, "
                    f"then {self.record.data.fingerprint[:12]}).",
                    "Put the data back as they were, or train again: kerastune run RECIPE.",
                )
            self._splits.append(splits)
        return self._splits[0]

    def predictions(self, split: str) -> tuple[list[str], npt.NDArray[Any], dict[str, ragged.Array]]:
        """Ids, truth and the Keras model's predictions on "validation" or "test"."""
        with self._stored() as stored:
            found = ragged.unpacked(stored, f"{split}/predictions/")
            return [str(i) for i in stored[f"{split}/ids"]], stored[f"{split}/truth"], found

    def predicted(self, split: str, digests: Sequence[str]) -> dict[str, ragged.Array]:
        """The Keras model's predictions on these examples, found by their content: files may have changed names."""
        with self._stored() as stored:
            place = {str(digest): i for i, digest in enumerate(stored[f"{split}/digests"])}
            found = ragged.unpacked(stored, f"{split}/predictions/")
        return ragged.take(found, [place[digest] for digest in digests])

    def _stored(self) -> Any:
        path = self.folder / "predictions.npz"
        if not path.is_file():
            raise KerastuneError(
                f"{self.folder} was interrupted, so there are no scores of its model yet.",
                f"kerastune evaluate {self.folder} makes them.",
            )
        return np.load(path, allow_pickle=False)


def recipe_of(folder: Path) -> Recipe:
    """The resolved recipe of a run, or of a training that has not ended."""
    return read(str(folder / RECIPE))


def is_unfinished(folder: Path) -> bool:
    """Whether a training of that folder was killed, or is still running."""
    return not is_run(folder) and _work(folder).is_dir()


def is_run(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def load(folder: str | Path) -> Run:
    """Opens a run folder.

    Raises:
        KerastuneError: the folder is not there, or is no run.
    """
    path = absolute(folder)
    if not is_run(path):
        if is_unfinished(path):
            raise KerastuneError(f"The training of {path} has not ended.", f"kerastune resume {path} goes on with it.")
        what = "has no run.json, so it is no run" if path.is_dir() else "is not a folder"
        raise KerastuneError(f"{path} {what}.", "kerastune run RECIPE makes one (in runs/).")
    return Run(path)


def write(
    folder: Path,
    recipe: Recipe,
    record: RunRecord,
    history: Sequence[dict[str, float]],
    predictions: dict[str, npt.NDArray[Any]],
) -> None:
    """Writes everything but the model into a folder that already holds it."""
    (folder / RECIPE).write_text(recipe.to_toml(), "utf-8")
    write_history(folder, history)
    if predictions:
        np.savez_compressed(folder / "predictions.npz", allow_pickle=False, **predictions)
    write_json(folder / RECORD, to_json(record))


def write_history(folder: Path, history: Sequence[dict[str, float]]) -> None:
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, fieldnames=list(history[0]) if history else ["phase", "epoch"])
        rows.writeheader()
        rows.writerows(history)


def write_failure(of: Run, name: str, format: str, quantize: str, error: str) -> None:
    """Records an export that was refused, for the report."""
    of.exports.mkdir(exist_ok=True)
    write_json(of.failure(name), {"name": name, "format": format, "quantize": quantize, "error": error})


# --- a training that has not ended ---------------------------------------------------------------------------


def refuse_unfinished(folder: Path, force: bool) -> None:
    """Raises KerastuneError if there is an unfinished training for that folder; with `force`, only if it runs."""
    work = _work(folder)
    if not work.exists():
        return
    _refuse_running(work)
    if _has_checkpoint(work) and not force:
        raise KerastuneError(
            f"{work} holds a training of {folder.name} that has not ended.",
            f"kerastune resume {folder} goes on with it; --force discards it and starts anew.",
        )
    if not (work / RECIPE).is_file():
        raise KerastuneError(f"{work} is in the way, and is no unfinished training.", "Give another folder with -o.")
    shutil.rmtree(work)


@contextlib.contextmanager
def work_folder(folder: Path, recipe: Recipe) -> Iterator[Path]:
    """A new work folder beside the run folder that it will become; kept, with its checkpoints, if the block fails."""
    work = _work(folder)
    work.mkdir(parents=True)
    (work / RECIPE).write_text(recipe.to_toml(), "utf-8")
    with _owned(work):
        try:
            yield work
        except BaseException:
            if not _has_checkpoint(work):
                shutil.rmtree(work, ignore_errors=True)  # nothing to go on from
            raise


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """The work folder of a training that was killed, or interrupted by Ctrl-C.

    Raises:
        KerastuneError: there is none, or a process is still at it.
    """
    refuse_existing(folder, force=True)  # the training will end there
    work = _work(folder)
    if work.is_dir():
        _refuse_running(work)
    elif _has_checkpoint(folder) and load(folder).record.status == "interrupted":
        work.mkdir()
        shutil.copy2(folder / RECIPE, work)
        (folder / CHECKPOINTS).rename(work / CHECKPOINTS)
    else:
        what = "is complete" if is_run(folder) else "is not there"
        raise KerastuneError(
            f"There is nothing to resume: {folder} {what}, and there is no {work.name} beside it.",
            "kerastune run RECIPE -o DIR starts a training.",
        )
    with _owned(work):
        yield work


def finish(work: Path, folder: Path, force: bool, keep_checkpoints: bool) -> None:
    """Turns a work folder, in which everything is written, into the run folder.

    Raises:
        KerastuneError: as `refuse_existing`.
    """
    refuse_existing(folder, force)
    (work / _OWNER).unlink(missing_ok=True)
    put_in_place(work, folder)
    if not keep_checkpoints:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _work(folder: Path) -> Path:
    return folder.with_name(folder.name + PARTIAL)


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("[0-9]*.npz"))


@contextlib.contextmanager
def _owned(work: Path) -> Iterator[None]:
    """Marks the folder as this process's, so that no other trains in it."""
    me = psutil.Process()
    write_json(work / _OWNER, {"pid": me.pid, "started": me.create_time()})
    try:
        yield
    finally:
        (work / _OWNER).unlink(missing_ok=True)


def _refuse_running(work: Path) -> None:
    try:
        owner = json.loads((work / _OWNER).read_text("utf-8"))
        alive = psutil.Process(owner["pid"]).create_time() == owner["started"]
    except (OSError, ValueError, KeyError, psutil.Error):
        return
    if alive:
        raise KerastuneError(
            f"Process {owner['pid']} is training in {work} right now.", "Wait until it ends, or stop it first."
        )

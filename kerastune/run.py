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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import assets, data, files, locks
from kerastune.data import Splits, ragged
from kerastune.errors import DataError, KerastuneError, command, shortened
from kerastune.files import absolute, write_json
from kerastune.progress import Progress
from kerastune.recipe import Recipe, read
from kerastune.records import RunRecord, read_run, to_json

RECORD = "run.json"
RECIPE = "recipe.toml"
CHECKPOINTS = "checkpoints"
PARTIAL = ".partial"

_PREDICTIONS = "predictions.npz"
_SCORED = ".scored"  # the predictions and the record that replace the run's

_LARGEST_FAILURE = 2**24  # bytes


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, read file by file."""

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
    def colors(self) -> tuple[str, ...]:
        """The colours of the labels, where the data have some."""
        return tuple(self.record.model.get("colors", ()))

    @property
    def metric(self) -> str:
        """The name of the figure that chose the best epoch: "accuracy", "r2", …"""
        return self.record.metric

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch: phase, epoch (both from 1), loss, the run's `metric`, both on validation data (val_…), …"""
        path, needed = self.folder / "history.csv", {"phase", "epoch", "loss", "val_loss", f"val_{self.metric}"}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
            if missing := needed - set(rows[0] if rows else needed):
                raise ValueError(f"it has no column {min(missing)}")
        except (OSError, TypeError, ValueError, csv.Error) as error:  # TypeError: a row of another length
            raise _damaged(path, error) from error
        return rows

    @property
    def exports(self) -> Path:
        return self.folder / "exports"

    def failure(self, name: str) -> Path:
        """The file with the reason why an export was refused."""
        return self.exports / f"{name}.failed.json"

    @property
    def failures(self) -> list[dict[str, str]]:
        """The exports that were refused: name, format, quantize, error."""
        return [_failure(path) for path in sorted(self.exports.glob("*.failed.json"))]

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

    @property
    def example_file(self) -> Path | None:
        """A file of the test split, or None: texts have none, and files can be gone."""
        if not hasattr(self.recipe.data, "path") or not (self.folder / _PREDICTIONS).is_file():
            return None
        path = Path(self.recipe.data.path)
        if path.parts[0] in assets.ASSETS and assets.is_fetched(path.parts[0]):
            path = assets.path(path.parts[0]).joinpath(*path.parts[1:])
        with self._stored("test") as stored:
            found = [(path if path.is_dir() else path.parent) / str(name) for name in stored["ids"][:1]]
        return next((one for one in found if one.is_file()), None)

    def predictions(self, split: str) -> tuple[list[str], Any, dict[str, ragged.Array]]:
        """Ids, truth and the Keras model's predictions on "validation" or "test"."""
        with self._stored(split) as stored:
            return [str(i) for i in stored["ids"]], _truth(stored), ragged.unpacked(stored, "predictions/")

    def predicted(self, split: str, digests: Sequence[str]) -> dict[str, ragged.Array]:
        """The Keras model's predictions on these examples, found by their content: files may have changed names."""
        with self._stored(split) as stored:
            place = {str(digest): i for i, digest in enumerate(stored["digests"])}
            found = ragged.unpacked(stored, "predictions/")
            return ragged.take(found, [place[digest] for digest in digests])

    def digests(self, split: str) -> list[str]:
        """The sha256 of each example, in the order of `predictions`."""
        with self._stored(split) as stored:
            return [str(digest) for digest in stored["digests"]]

    @contextlib.contextmanager
    def _stored(self, split: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yields the arrays of a split; raises KerastuneError if there are none, or not those that the block needs."""
        path = self.folder / _PREDICTIONS
        if not path.is_file():
            raise KerastuneError(
                f"{self.folder} was interrupted, so there are no scores of its model yet.",
                f"{command('kerastune', 'evaluate', self.folder)} makes them.",
            )
        try:
            stored = ragged.read(path, f"{split}/")
            rows = {len(stored[f"{split}/ids"]), len(_truth(stored, f"{split}/"))}
            if len(rows) > 1 or any(not array.ndim for array in stored.values()):
                raise ValueError(f"the arrays of {split} do not have one row for each example")
            for name, array in stored.items():
                if name.startswith(f"{split}/predictions/") and array.dtype.kind not in "biuf":
                    raise ValueError(f"{name} is {array.dtype}")
            yield {name.removeprefix(f"{split}/"): array for name, array in stored.items()}
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error


def _truth(stored: dict[str, npt.NDArray[Any]], prefix: str = "") -> Any:
    """Returns the truth of a split: one row, or one list of rows, for each example."""
    named = {name: array for name, array in stored.items() if name.startswith(f"{prefix}truth")}
    return ragged.unpacked(named, prefix)["truth"]


def _damaged(path: Path, error: Exception) -> KerastuneError:
    said = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return KerastuneError(f"{path} is damaged: {shortened(said)}.", "Train again: kerastune run RECIPE.")


def _failure(path: Path) -> dict[str, str]:
    """Reads why an export was refused."""
    try:
        found = json.loads(files.read_bounded(path, _LARGEST_FAILURE, "such a file"))
        return {key: str(found[key]) for key in ("name", "format", "quantize", "error")}
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise KerastuneError(f"{path} is damaged: {shortened(str(error))}.", "Delete it, and export again.") from error


def recipe_of(folder: Path) -> Recipe:
    """The resolved recipe of a run, or of a training that has not ended."""
    return read(str(folder / RECIPE))


def work_of(folder: Path) -> Path:
    """Returns where a training that will end in a folder keeps what is done."""
    return folder.with_name(folder.name + PARTIAL)


def is_unfinished(folder: Path) -> bool:
    """Whether a training of that folder was killed, or is still running."""
    return not is_run(folder) and has_work(folder)


def has_work(folder: Path) -> bool:
    """Whether an unfinished training lies beside a run, finished or not."""
    return work_of(folder).is_dir()


def is_run(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def default_folder(recipe: Recipe) -> Path:
    """Returns the folder of a run that was given none."""
    return absolute(Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}")


def load(folder: str | Path) -> Run:
    """Opens a run folder.

    Raises:
        KerastuneError: the folder is not there, or is no run.
    """
    path = absolute(folder)
    if path.name.endswith(PARTIAL) and not is_run(path):
        path = path.with_name(path.name.removesuffix(PARTIAL))
    clear(path)
    if not is_run(path):
        if is_unfinished(path):
            goes_on = f"{command('kerastune', 'resume', path)} goes on with it."
            raise KerastuneError(
                f"The training of {path} has not ended: what is done is in {work_of(path)}.",
                "A process is training there now: wait until it ends." if is_training(path) else goes_on,
            )
        what = "has no run.json, so it is no run" if path.is_dir() else "is not a folder"
        raise KerastuneError(f"{path} {what}.", "kerastune runs lists those in runs/; kerastune run RECIPE makes one.")
    return Run(path)


def clear(folder: Path) -> None:
    """Deletes leftovers of killed processes in and beside a run, and restores a folder that one was replacing."""
    for each in (folder.parent, folder, folder / "exports"):
        files.clear(each)
    files.clear_scratch()
    if (folder / locks.NAME).exists() or (folder / _SCORED).exists():
        with contextlib.suppress(OSError, locks.HeldError), locks.hold(folder / locks.NAME, f"clearing {folder}"):
            _put_scores(folder)  # and the end of the block deletes a dead process's lock


def write(
    folder: Path,
    recipe: Recipe,
    record: RunRecord,
    history: Sequence[dict[str, float]],
    predictions: dict[str, npt.NDArray[Any]],
) -> None:
    """Writes everything but the model, which the folder already holds."""
    (folder / RECIPE).write_text(recipe.to_toml(), "utf-8")
    write_history(folder, history)
    files.sync_all(folder)  # the record says that the rest is there
    _write_scores(folder, record, predictions)


def _write_scores(folder: Path, record: RunRecord, predictions: dict[str, npt.NDArray[Any]]) -> None:
    """Writes the predictions, if any, then run.json with their metrics; each file atomically."""
    if predictions:
        with files.whole_file(folder / _PREDICTIONS) as file:
            np.savez_compressed(file, allow_pickle=False, **predictions)
    write_json(folder / RECORD, to_json(record))


def replace_scores(folder: Path, record: RunRecord, predictions: dict[str, npt.NDArray[Any]]) -> None:
    """Replaces a run's predictions and its record with their metrics; the caller is `changing` it.

    After a kill, the next command finds both old or both new.
    """
    with files.whole_folder(folder / _SCORED) as both:
        _write_scores(both, record, predictions)
    _put_scores(folder)


def _put_scores(folder: Path) -> None:
    """Moves new scores that are complete to their place in the run."""
    for name in (_PREDICTIONS, RECORD):
        with contextlib.suppress(FileNotFoundError):
            (folder / _SCORED / name).replace(folder / name)
    with contextlib.suppress(FileNotFoundError):
        (folder / _SCORED).rmdir()


@contextlib.contextmanager
def changing(folder: Path, doing: str) -> Iterator[None]:
    """Keeps other processes from changing a finished run while a block lasts.

    Raises:
        KerastuneError: another one is at it, or nothing can be written there.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locks.hold(folder / locks.NAME, f"{doing} {folder}"))
            _put_scores(folder)
        except OSError as error:
            raise KerastuneError(f"Nothing can be written into {folder}: {error.strerror}.") from error
        yield


def write_history(folder: Path, history: Sequence[dict[str, float]]) -> None:
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, fieldnames=list(history[0]) if history else ["phase", "epoch"])
        rows.writeheader()
        rows.writerows(history)


def write_failure(of: Run, name: str, format: str, quantize: str, error: str) -> None:
    """Records an export that was refused, for the report."""
    of.exports.mkdir(exist_ok=True)
    write_json(of.failure(name), {"name": name, "format": format, "quantize": quantize, "error": error})


# --- several runs --------------------------------------------------------------------------------------------


def inside(folder: Path) -> list[Path]:
    """Paths of the runs in a folder, finished or not, the newest first."""
    there = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    finished = {path for path in there if is_run(path) and not path.name.endswith(PARTIAL)}
    begun = {path.with_name(path.name.removesuffix(PARTIAL)) for path in there if path.name.endswith(PARTIAL)}
    found = finished | {path for path in begun if is_unfinished(path)}
    return sorted(found, key=lambda path: (path if is_run(path) else work_of(path)).stat().st_mtime, reverse=True)


def unfinished_recipe(folder: Path) -> Recipe:
    """The recipe of a training that has not ended."""
    return recipe_of(work_of(folder))


def is_training(folder: Path) -> bool:
    """Whether a process trains there right now."""
    lock = work_of(folder) / locks.NAME
    try:
        with locks.hold(lock, f"looking at {folder}"):
            return False
    except (locks.HeldError, FileNotFoundError) as error:
        return isinstance(error, locks.HeldError)


def size(folder: Path) -> int:
    """Bytes of a run, finished or not."""
    paths = (path for part in (folder, work_of(folder)) for path in part.rglob("*"))
    return sum(path.lstat().st_size for path in paths if not path.is_dir())


def removable(folder: str | Path) -> Path:
    """The path of a run that may be deleted.

    Raises:
        KerastuneError: it is no run, or a process is at it.
    """
    path = absolute(str(folder).removesuffix(PARTIAL))
    if not is_unfinished(path):
        load(path)
    elif is_training(path):
        raise KerastuneError(f"A process is training in {path} right now.", "Stop it first, or wait until it ends.")
    return path


def remove(folder: Path) -> None:
    """Deletes a run, finished or not. After a kill it is whole or hidden."""
    for part in (folder, work_of(folder)):
        if part.is_dir():
            with changing(part, "removing"), files.beside(part) as outer:
                part.rename(outer / part.name)

"""A training that has not ended: its work folder RUN.partial, from its claim to the rename that makes it the run."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kerastune import files, locks, run
from kerastune.errors import KerastuneError, command
from kerastune.files import refuse_existing
from kerastune.recipe import Recipe


def refuse_out(folder: Path, force: bool) -> None:
    """Refuses a folder before any work is done for it.

    Raises:
        KerastuneError: as `refuse_existing`; or a training of that folder has not ended, and without `force` or
            while it runs that is kept.
    """
    refuse_existing(folder, force)
    if os.path.lexists(run.work_of(folder)):
        with _claimed(folder) as work:
            _refuse_unfinished(work, folder, force)


def _refuse_unfinished(work: Path, folder: Path, force: bool) -> None:
    if (_has_checkpoint(work) or run.is_run(work)) and not force:
        raise KerastuneError(
            f"{work} holds a training of {folder.name} that has not ended.",
            f"{command('kerastune', 'resume', folder)} goes on with it; --force discards it and starts again.",
        )


@contextlib.contextmanager
def work_folder(folder: Path, force: bool) -> Iterator[Path]:
    """Claims the work folder beside the future run folder for this process.

    An unfinished training in it stays until `begin`. If the block fails, what can be gone on with is kept.

    Raises:
        KerastuneError: as `refuse_out`.
    """
    refuse_existing(folder, force)
    with _claimed(folder) as work:
        _refuse_unfinished(work, folder, force)
        yield work


def begin(work: Path, recipe: Recipe) -> None:
    """Empties a work folder and writes the recipe into it."""
    (work / run.RECORD).unlink(missing_ok=True)  # first: with it, the folder is a run
    for path in work.iterdir():
        if path.name not in (locks.NAME, run.RECIPE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with files.whole_file(work / run.RECIPE) as file:
        file.write(recipe.to_toml().encode())


def concluded(folder: Path) -> run.Run | None:
    """Completes a training that was killed just before its last rename; returns the run, or None."""
    if not run.is_run(run.work_of(folder)):
        return None
    with _claimed(folder) as work:
        finish(work, folder, force=True)
    return None if _is_interrupted(folder) else run.Run(folder)


@contextlib.contextmanager
def resumed(folder: Path) -> Iterator[Path]:
    """The work folder of a training that was killed, or interrupted by Ctrl-C.

    Raises:
        KerastuneError: there is none, or a process is still at it.
    """
    refuse_existing(folder, force=True)  # the training will end there
    work = run.work_of(folder)
    if not work.is_dir() and not _is_interrupted(folder):
        what = "is complete" if run.is_run(folder) else "is not there"
        raise KerastuneError(
            f"There is nothing to resume: {folder} {what}, and there is no {work.name} beside it.",
            "kerastune run run.RECIPE -o DIR starts a training.",
        )
    with _claimed(folder) as work:
        if not _has_checkpoint(work) and _is_interrupted(folder):
            _take_up(folder, work)
        yield work


def _is_interrupted(folder: Path) -> bool:
    """Whether Ctrl-C ended this run and its checkpoints are there."""
    return _has_checkpoint(folder) and run.is_run(folder) and run.Run(folder).record.status == "interrupted"


def _take_up(folder: Path, work: Path) -> None:
    """Makes an interrupted run an unfinished training again; the run stays unchanged until that ends."""
    begin(work, run.recipe_of(folder))
    (work / run.CHECKPOINTS).mkdir()
    numbered = _checkpoints(folder)
    others = {path.name for path in (folder / run.CHECKPOINTS).iterdir()} - numbered
    for name in (*sorted(others), *sorted(numbered, reverse=True)):  # a kill leaves nothing, or the newest
        of, to = folder / run.CHECKPOINTS / name, work / run.CHECKPOINTS / name
        try:
            os.link(of, to)
        except OSError:  # a file system without links
            with files.whole_file(to) as file, of.open("rb") as source:
                shutil.copyfileobj(source, file)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """Creates and locks the work folder; removes it after a failure that leaves nothing to resume."""
    work = run.work_of(folder)
    with contextlib.ExitStack() as held:
        try:
            while True:
                work.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another process has just ended, and taken it away
                    lock = held.enter_context(locks.hold(work / locks.NAME, f"training in {work}"))
                    break
        except FileExistsError as error:
            raise KerastuneError(f"{work} is in the way, and is no folder.", "Give another folder with -o.") from error
        except OSError as error:
            raise KerastuneError(f"Nothing can be written into {work}: {error.strerror}.") from error
        files.clear(work)
        files.clear(work / run.CHECKPOINTS)
        names = {path.name for path in work.iterdir()} - {locks.NAME}
        if names and run.RECIPE not in names:
            raise KerastuneError(
                f"{work} is in the way, and is no unfinished training.", "Give another folder with -o."
            )
        try:
            yield work
        finally:
            is_mine = locks.is_at(work / locks.NAME, lock)  # and not renamed, and another's now
            if is_mine and _checkpoints(work) <= _checkpoints(folder) and not run.is_run(work):
                shutil.rmtree(work, ignore_errors=True)  # nothing to go on with


def finish(work: Path, folder: Path, force: bool) -> None:
    """Turns a complete work folder into the run folder.

    Raises:
        KerastuneError: as `refuse_existing`.
    """
    refuse_existing(folder, force)
    with contextlib.ExitStack() as held:
        outer = held.enter_context(files.beside(folder))
        if run.is_run(folder):  # and another process may be evaluating or exporting it
            held.enter_context(run.changing(folder, "replacing"))
            files.refuse_written(folder / "exports")
        if not _is_interrupted(work):
            shutil.rmtree(work / run.CHECKPOINTS, ignore_errors=True)
        files.put_in_place(work, folder, outer, force)
        (folder / locks.NAME).unlink(missing_ok=True)


def _has_checkpoint(folder: Path) -> bool:
    return bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> set[str]:
    """Returns the names of a folder's checkpoints."""
    return {path.name for path in (folder / run.CHECKPOINTS).glob("[0-9]*.npz")}

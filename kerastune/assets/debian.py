"""Packages from Debian's registry, or a mirror of it, with apt-get and dpkg-deb: without root or an earlier update."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kerastune import files
from kerastune.assets.asset import Progress, run_tool
from kerastune.errors import AssetError


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


@contextlib.contextmanager
def unpacked(name: str, packages: Sequence[str], download_mb: int, progress: Progress) -> Iterator[Path]:
    """Downloads the packages of the asset of a name, and yields the folder of their content.

    Raises:
        AssetError: this machine has no apt-get, or its registry cannot be reached.
    """
    if not is_here():
        raise AssetError(
            f"The {name} come from Debian packages ({', '.join(packages)}), and this machine has no apt-get.",
            f"Fetch them on Debian or Ubuntu, and copy the folder assets/{name} of that KERASTUNE_HOME over.",
        )
    with files.scratch() as scratch:
        progress(f"downloading Debian's {', '.join(packages)} with apt-get ({download_mb} MB)")
        for deb in download(packages, scratch / "apt"):
            unpack(deb, scratch / "unpacked")
        yield scratch / "unpacked"


def check_used(name: str, packages: Sequence[str], folder: Path, used: Iterable[Path], sha256: str) -> None:
    """Raises AssetError if the stamps and photos that an asset uses, by name and content, have another hash."""
    found, paths = hashlib.sha256(), sorted(used)
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    if found.hexdigest() != sha256:
        raise AssetError(
            f"The {len(paths)} stamps and photos in {', '.join(packages)} are not those that kerastune was tested "
            f"with: sha256 {found.hexdigest()}, expected {sha256}.",
            f"Fetch them on Debian 12 (bookworm), and copy the folder assets/{name} of that KERASTUNE_HOME over.",
        )

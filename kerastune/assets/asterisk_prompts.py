"""Prompts of the telephone system Asterisk in five languages, with what is said: real speech of one speaker each.

The recordings are in Debian packages as G.722, which PyAV decodes to 16,000 samples per second; their transcripts are
in others. LANGUAGE.jsonl has a row for each recording that has a transcript: "audio", "text", "seconds", and
"group": recordings with the same words have the same, and stay in one split.
"""

import gzip
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastune import environment
from kerastune.assets import debian
from kerastune.assets.asset import Asset, Progress, write_rows
from kerastune.errors import AssetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANGUAGES = ("en", "es", "fr", "it", "ru")
PACKAGES = tuple(f"asterisk-core-sounds-{code}{kind}" for code in LANGUAGES for kind in ("-g722", ""))

_SOUNDS = "usr/share/asterisk/sounds"
_TEXTS = "usr/share/doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt.gz"
# Of all recordings and transcripts in order, each with its path.
_SHA256 = "47748de9641666dcc9cb5a6f5bf11c717f29fb50a2646e51bbcf0b940ac62432"
_RATE = 16_000
_REMARK = re.compile(r"\[.*?\]|\(.*?\)|<.*?>")  # on how it is said, or what is no speech


def build(folder: Path, progress: Progress) -> None:
    """Downloads the packages and writes LANGUAGE/…/NAME.flac and LANGUAGE.jsonl.

    Raises:
        AssetError: this machine has no apt-get or no PyAV, its registry has other files, or it cannot be reached.
    """
    if importlib.util.find_spec("av") is None or importlib.util.find_spec("soundfile") is None:
        raise AssetError(
            "The prompts are in G.722, which needs PyAV to decode, and soundfile to write.",
            environment.install("av soundfile"),
        )
    with debian.unpacked(ASSET.name, PACKAGES, ASSET.download_mb, progress) as content:
        progress("decoding G.722")
        build_from_packages(content, folder)


def build_from_packages(content: Path, folder: Path) -> None:
    """Writes the recordings and tables from the unpacked packages, which are checked against their pin."""
    import soundfile

    check(content)
    for code in LANGUAGES:
        rows, (root,) = [], sorted((content / _SOUNDS).glob(f"{code}_*"))
        for name, text in transcripts((content / _TEXTS.format(code)).read_bytes()):
            source, place = root / f"{name}.g722", folder / code / f"{name}.flac"
            if not source.is_file():
                continue
            sound = decoded(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, sound, _RATE, subtype="PCM_16")
            seconds = round(len(sound) / _RATE, 3)
            group = " ".join(re.findall(r"\w+", text.lower()))
            rows.append({"audio": f"{code}/{name}.flac", "text": text, "group": group, "seconds": seconds})
        write_rows(folder / f"{code}.jsonl", rows)


def check(content: Path) -> None:
    """Raises AssetError if the packages hold other recordings or transcripts than the pinned ones."""
    found = hashlib.sha256()
    texts = [content / _TEXTS.format(code) for code in LANGUAGES]
    for path in [*sorted((content / _SOUNDS).rglob("*.g722")), *texts]:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(content).as_posix()} {digest}\n".encode())
    if found.hexdigest() != _SHA256:
        raise AssetError(
            "The prompts in the Debian packages asterisk-core-sounds-* are not those that kerastune was tested with: "
            f"sha256 {found.hexdigest()}, expected {_SHA256}.",
            f"Fetch them on Debian 12 (bookworm), and copy the folder assets/{ASSET.name} of that KERASTUNE_HOME over.",
        )


def transcripts(data: bytes) -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each recording in a list of Asterisk, "name: text"; those without words not."""
    for line in gzip.decompress(data).decode("utf-8-sig").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            said = " ".join(_REMARK.sub(" ", text).split())
            if any(letter.isalpha() for letter in said):
                yield name.strip(), said


def decoded(path: Path) -> "NDArray[Any]":
    """Returns the samples of a G.722 file, int16 [n]."""
    import av
    import numpy as np

    with av.open(str(path), format="g722") as file:
        parts = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    return np.concatenate(parts)


ASSET = Asset(
    name="asterisk-prompts",
    kind="dataset",
    summary="telephone prompts in English, Spanish, French, Italian and Russian with transcripts; 2 h",
    licence="CC-BY-SA-3.0; Russian: CC-BY-3.0 (/usr/share/doc/asterisk-core-sounds-*/copyright)",
    source="Debian asterisk-core-sounds-{en,es,fr,it,ru}",
    download_mb=52,
    sha256={"asterisk-core-sounds": _SHA256},
    build=build,
)

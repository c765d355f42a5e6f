"""Decodes encoded sounds to 16,000 samples per second of one channel, and explains why a file cannot be read.

Files are opened by content, never by extension. The decoder is `kerastune.targets.audio`, which ships with every
artifact.
"""

import base64
import importlib.util
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from kerastune import environment
from kerastune.modalities import microphone
from kerastune.modalities.asked import Kind
from kerastune.modalities.contract import Asked, Example, Modality, Report, Stored
from kerastune.targets import audio as reader
from kerastune.targets import containers

RATE: int = reader.RATE
"""Samples per second of a decoded sound."""
EXTENSIONS: tuple[str, ...] = ("wav", "flac", "ogg", "opus", "mp3", "aif", "aiff", "aifc")
CONTAINERS = ("m4a", "aac", "wma", "mp4", "webm", "mkv", "mov", "avi", "amr", "g722", "gsm")
"""Extensions of files that are read where PyAV is installed."""
FOREIGN_EXTENSIONS: tuple[str, ...] = ("ape", "caf", "au")
LARGEST = 2**29  # bytes of a file: 50 minutes of 44.1 kHz stereo in 16 bits fit

_CLIPPED = 1e-3  # share of samples at full scale, above which a sound is called clipped
_SILENT = 10 ** (-80 / 20)  # the largest value of a silent sound: below the noise of 14 bits
_SEEKABLE = ("wav", "aiff", "flac")  # formats in which a place is found exactly
_FOREIGN = {  # to name the file's format in messages
    "an MP4 file": rb"(?s)....ftyp",
    "a Matroska or WebM file": rb"\x1aE\xdf\xa3",
    "a Windows Media file": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "a CAF file": rb"caff",
    "an AU file": rb"\.snd",
    "an AMR file": rb"#!AMR",
    "a 64-bit WAV file": rb"RF64|riff",
    "a MIDI file, which holds notes and no sound": rb"MThd",
    "an AAC stream": rb"\xff[\xf0\xf1\xf8\xf9]",
    "a G.722 file": containers.G722,
    "a GSM file": containers.GSM,
}


class UnreadableSound(ValueError):
    """The bytes cannot be read correctly as a sound. The message says why, and follows a file's name."""


def decode(data: bytes) -> Example:
    """Decodes a sound to float32 [n]: 16,000 samples per second, the mean of all channels.

    Raises:
        UnreadableSound: the bytes are empty, truncated, damaged, too long or not in a format that is read here.
    """
    return beginning(data, None)


def beginning(data: bytes, most: int | None) -> Example:
    """Decodes the first `most` samples of a sound, as `decode` does; None: all."""
    try:
        found: Example = reader.decode(data, most)[0]
    except ValueError as error:
        raise UnreadableSound(_why(data, error)) from error
    return found


def longer(data: bytes, seconds: float) -> bool:
    """Returns whether a readable sound lasts longer than this, to a sample."""
    most = round(seconds * RATE)
    return len(beginning(data, most + 1)) > most


def check(data: bytes, name: str) -> Report:
    """Reads a whole sound without keeping it, and reports on it; only the extension of `name` is used."""
    try:
        file, remarks = reader.opened(data)
        heard = _Heard()
        for block in reader.blocks(file):
            heard.add(block)
    except ValueError as error:
        return Report(problem=_why(data, error))
    remarks += heard.remarks()
    kind = {"opus": "ogg", "aif": "aiff", "aifc": "aiff"}
    extension = os.path.splitext(name)[1].lower().lstrip(".")
    if extension in EXTENSIONS and kind.get(extension, extension) != reader.format_of(data):
        remarks.append("extension and content differ, read by content")
    return Report(remarks=tuple(remarks))


@dataclass
class _Heard:
    """What a sound's values show, block by block."""

    values: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    full: int = 0  # values at full scale or beyond

    def add(self, block: npt.NDArray[np.float32]) -> None:
        self.values += block.size
        self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        self.full += int((np.abs(block) >= 0.9999).sum())  # the largest value of 16 bits is 0.99997

    def remarks(self) -> list[str]:
        if max(abs(self.low), abs(self.high)) <= _SILENT:
            return ["silent"]
        if self.high - self.low <= _SILENT:
            return ["the same value throughout: no sound, only an offset"]
        return ["clipped: many samples are at full scale"] if self.full > self.values * _CLIPPED else []


def _why(data: bytes, error: ValueError) -> str:
    if not isinstance(error, reader.UnknownFormat):
        return str(error)
    for what, magic in _FOREIGN.items():
        if re.match(magic, data[:128]):
            more = "" if containers.is_here() else ", or install PyAV, which reads most (pip install av)"
            return f"is {what}, which is not supported; convert it to wav or flac{more}"
    return f"is not a sound (starts with {data[:12]!r})"


def cut(data: bytes, start: float, end: float | None) -> bytes:
    """Returns a part of an encoded sound as a WAV file, with the values and channels that it has.

    Args:
        start, end: seconds; None: to its end.

    Raises:
        UnreadableSound: as `decode`; or the part is empty, or reaches beyond the end of the sound.
    """
    import soundfile

    try:
        file, _ = reader.opened(data)
        rate, parts, at = file.samplerate, [], 0
        first, last = round(start * rate), None if end is None else round(end * rate)
        if reader.format_of(data) in _SEEKABLE and first <= file.frames:
            at = file.seek(first)
        for block in reader.blocks(file):
            parts.append(block[max(first - at, 0) : None if last is None else max(last - at, 0)])
            at += len(block)
            if last is not None and at >= last:
                break
    except ValueError as error:
        raise UnreadableSound(_why(data, error)) from error
    found = np.concatenate(parts)
    if last is not None and at < last - rate // 100:  # tables round to hundredths of a second
        raise UnreadableSound(f"ends at {at / rate:.2f} s, before the end of the part, {end:g} s")
    if not len(found):
        raise UnreadableSound(f"has no samples from {start:g} s" + (f" to {end:g} s" if end is not None else ""))
    soundfile.write(buffer := io.BytesIO(), found, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def missing() -> str | None:
    """Returns why this installation cannot read sounds, or None."""
    if all(importlib.util.find_spec(name) for name in ("soundfile", "soxr")):
        return None
    return f"reading sounds needs soundfile and soxr: {environment.install('soundfile')}"


# --- shown ---------------------------------------------------------------------------------------------------

_PLAYED = 10  # seconds of a sound that a report plays and draws
_ROWS, _COLUMNS = 64, 200  # of a spectrogram in pixels


def preview(sound: Example, alternative: str) -> Markup:
    """Returns the first seconds of a sound: its spectrogram as an <img> and a player, both with inline data."""
    import soundfile

    sound = sound[: _PLAYED * RATE]
    loudest = float(np.abs(sound).max(initial=0))
    heard = np.clip(sound / max(loudest, 1), -1, 1)
    soundfile.write(played := io.BytesIO(), heard, RATE, format="MP3", subtype="MPEG_LAYER_III")
    Image.fromarray(spectrogram(sound)).save(drawn := io.BytesIO(), "PNG", optimize=True)
    return Markup(
        '<img src="data:image/png;base64,{}" alt="{}"><audio controls src="data:audio/mpeg;base64,{}"></audio>'
    ).format(_base64(drawn), alternative, _base64(played))


def spectrogram(sound: Example) -> npt.NDArray[np.uint8]:
    """Returns a picture of the sound, uint8 [64, w, 3]: time to the right, frequency up, on a mel scale."""
    from matplotlib import colormaps

    size, step = 512, max(len(sound) // _COLUMNS, 160)
    padded = np.pad(sound, (size // 2, size))
    starts = np.arange(0, max(len(sound), 1), step)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)) ** 2  # [w, 257]
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), _ROWS + 1) / 2595) - 1)
    first = np.minimum((edges[:-1] / RATE * size).astype(int), size // 2)
    level = 10 * np.log10(np.add.reduceat(power, first, axis=1) + 1e-8)  # [w, 64] dB
    shade = np.clip((level - level.max()) / 80 + 1, 0, 1)  # 80 dB below the loudest place is black
    return np.asarray(colormaps["magma"](shade.T[::-1])[..., :3] * 255).astype(np.uint8)


def _base64(file: io.BytesIO) -> str:
    return base64.b64encode(file.getvalue()).decode()


# --- asked ---------------------------------------------------------------------------------------------------


def ask(paths: Sequence[str | Path], sides: int) -> Asked:
    """Checks sound files; decodes each one on demand.

    Raises:
        DataError: some files cannot be read; names them all. Or soundfile or soxr is not installed.
    """
    AUDIO.require()
    return Kind("a sound", _STORED, check, decode).ask(paths)


def hear(seconds: float) -> Asked:
    """Returns what a microphone hears for some seconds; raises DataError as `ask` and `microphone.heard` do."""
    AUDIO.require()
    return microphone.heard(seconds)


def parts(asked: Asked, samples: int) -> Asked:
    """Returns the parts of longer sounds, one after the other, named by the second where each starts."""
    names, examples = list[str](), list[Example]()
    for name, sound in zip(asked.names, asked.examples, strict=True):
        if len(sound) <= samples:
            names.append(name)
            examples.append(sound)
            continue
        for start, part in reader.parted(sound, samples):
            names.append(f"{name} from {start / RATE:.1f} s")
            examples.append(part)
    return Asked(names, examples)


def is_one(array: npt.NDArray[Any]) -> bool:
    """Returns whether it is a decoded sound."""
    return array.dtype == np.float32 and array.ndim == 1 and array.size > 0


def _stored() -> Stored:
    read, foreign = EXTENSIONS, FOREIGN_EXTENSIONS
    if containers.is_here():
        read = (*read, *CONTAINERS)
    else:
        foreign = (*CONTAINERS, *foreign)
    return Stored(read, foreign, "wav or flac", LARGEST, cut, longer, reader.marked)


_STORED = _stored()
AUDIO = Modality(
    name="sound",
    plural="sounds",
    one="a sound",
    check=check,
    decode=decode,
    is_one=is_one,
    preview=preview,
    ask=ask,
    asked_as="clip.wav",
    is_picture=True,
    readers=("audio.py", "containers.py"),
    packages=("soundfile", "soxr"),
    stored=_STORED,
    parts=parts,
    missing=missing,
    hear=hear,
)

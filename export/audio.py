"""Reads sounds and prepares them for an exported model, without kerastune: numpy, soundfile and soxr; PyAV for video.

Training reads sounds with this module as well. manifest.json has the model's settings under "reading":

    sample_rate  samples per second of the model's input, one channel
    samples      length of its window; shorter sounds are padded with silence at their end, longer ones cut
"""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

RATE = 16_000
"""Samples per second of a decoded sound."""

LONGEST = 3600
"""Seconds of the longest sound that is read, 230 MB when decoded."""

_HEADERS = rb"RIFF|fLaC|OggS|FORM|ID3"  # of other files; two bytes, as of an MP3 frame, may be G.722 as well
_RATES = (1_000, 768_000)  # samples per second of files; of a lower rate, a small file would become gigabytes
_VALUES = 2**20  # values that are read from a file at a time, of all channels
_TAG = 2**18  # bytes in which an MP3 file's own header is looked for, after a picture of its cover
_UNKNOWN = 0xFFFFF000  # a program that writes into a pipe declares this many bytes, or more, or none

MADE = ({"name": "segments", "shape": [None, None, 2]},)
"""Outputs that `predicting` makes: the times of a transcript's segments, if they are asked for."""

# Files are opened by content, never by extension, and only in these formats.
_FORMATS = {
    "wav": (rb"(?s)RIFF....WAVE", ("WAV", "WAVEX")),
    "flac": (rb"fLaC", ("FLAC",)),
    "ogg": (rb"OggS", ("OGG",)),
    "aiff": (rb"(?s)FORM....AIF[FC]", ("AIFF",)),
    "mp3": (rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", ("MP3",)),
}


def asked(arguments, settings):
    """Yields a name and samples, float32 [n], for each file, and for each part of a longer one."""
    for path in arguments:
        try:
            if path.endswith(".npy"):
                sound = np.load(path, allow_pickle=False)
            else:
                sound, _ = decode(marked(Path(path).read_bytes(), path))
        except (OSError, ValueError) as error:
            sys.exit(f"{path} cannot be read as a sound: it {error}")
        size = settings["samples"]
        if len(sound) <= size or "prompt" in settings:
            yield path, sound
            continue
        for start, part in parted(sound, size):
            yield f"{path} from {start / settings['sample_rate']:.1f} s", part


def parted(sound, samples):
    """Yields the start of each part of a sound, and the part: windows one after the other."""
    yield from zip(range(0, len(sound), samples), windows([sound], samples, samples), strict=True)


def taking(predict, folder, settings):
    """Returns a function from a sound, float32 [n], or a batch of sounds of one length to inputs: a window of each, or
    the whole of each where it is written down."""

    def take(example):
        sounds = np.atleast_2d(example)
        is_whole = "prompt" in settings
        return {"sounds": sounds if is_whole else np.stack([fit(one, settings["samples"]) for one in sounds])}

    return take


def predicting(run, folder, manifest, options):
    """Returns `run`, or what writes speech down with it, window by window; raises Refused if it cannot."""
    if "prompt" not in manifest["reading"]:
        return run
    asked = {**manifest["reading"], "timestamps": options.timestamps}
    asked |= {"beams": options.beams} if options.beams is not None else {}
    if why := speech().refusal(asked, speech().chooses(manifest)):
        raise Refused(why)
    return speech().predicting(run, folder, manifest, asked, options.stream)


class Refused(ValueError):
    """The model cannot write as asked."""


def speech():
    """Returns the module next to this one that writes speech down."""
    return import_module(f"{__package__}.speech" if __package__ else "speech")


def containers():
    """Returns the module next to this one that reads other files."""
    return import_module(f"{__package__}.containers" if __package__ else "containers")


def fit(sound, samples):
    """Returns the sound cut or padded with silence to a number of samples, float32 [samples]."""
    cut = np.asarray(sound[:samples], np.float32)
    return np.pad(cut, (0, samples - len(cut)))


# --- files -------------------------------------------------------------------------------------------------


def decode(data: bytes, most: int | None = None):
    """Decodes a file to 16,000 samples per second of one channel, the mean of all, and returns remarks.

    Args:
        most: stop after this many samples.

    Returns:
        float32 [n], usually from -1 to 1; and a list of texts on what was corrected.

    Raises:
        ValueError: it is not in a supported format, damaged, cut off, empty, too long, or holds a value that is not a
            number. The message follows the file's name.
    """
    file, remarks = opened(data)
    resampler, parts, length = Resampler(file.samplerate), [], 0
    for block in blocks(file):
        parts.append(resampler.resampled(mono(block)))
        length += len(parts[-1])
        if most is not None and length >= most:
            break
    else:
        parts.append(resampler.rest())
    return np.concatenate(parts)[:most], remarks


class UnknownFormat(ValueError):
    """The file is in no format that is read here."""


def opened(data: bytes):
    """Opens an encoded sound without decoding it, and returns it with remarks; raises ValueError as `decode`."""
    import soundfile

    if not data:
        raise ValueError("is empty (0 bytes)")
    kind, remarks = format_of(data), []
    if kind is None and (file := containers().opened(data)):
        return _plausible(file), remarks
    if kind is None:
        raise UnknownFormat(f"is not a {', '.join(_FORMATS)} file")
    if (missing := _missing(data, kind)) is None:
        remarks.append("no length in its header, read to its end")
    elif missing > 0:
        raise ValueError(f"is truncated: it ends {missing:,} {'byte' if missing == 1 else 'bytes'} early")
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise ValueError(f"is damaged: {kind} that cannot be opened ({_words(error)})") from error
    if file.format not in _FORMATS[kind][1]:
        raise ValueError(f"is {file.format} inside, not {kind}")
    return _plausible(file), remarks


def _plausible(file):
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise ValueError(
            f"has {file.samplerate:,} samples per second, not {_RATES[0]:,} to {_RATES[1]:,}; its header may be damaged"
        )
    return file


def blocks(file) -> Iterator:
    """Yields the values of an open file, float32 [n, channels] each; raises ValueError as `decode`.

    What the header says is never allocated: reading ends where the file does, and has to end within `LONGEST`.
    """
    import soundfile

    at_once, read, left = max(_VALUES // file.channels, 1), 0, file.frames - file.tell()
    while True:
        try:
            block = file.read(at_once, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            seconds = read / file.samplerate
            raise ValueError(f"is damaged or cut off after {seconds:.2f} s ({_words(error)})") from error
        if not len(block):
            break
        if not np.isfinite(block).all():
            at = read + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(f"holds a value that is not a finite number, at {at / file.samplerate:.3f} s")
        read += len(block)
        if read > LONGEST * file.samplerate:
            raise ValueError(f"is longer than {LONGEST:,} s; cut it into parts")
        yield block
    if not read:
        raise ValueError("is empty: it holds no samples")
    if format_of_file(file) in ("flac", None) and 0 < read < left < 2**62:
        raise ValueError(f"is cut off: it ends {left - read:,} samples early")


def format_of(data: bytes) -> str | None:
    """Returns "wav", "flac", "ogg", "aiff" or "mp3", from a file's first bytes; None for anything else."""
    return next((kind for kind, (magic, _) in _FORMATS.items() if re.match(magic, data[:16])), None)


def format_of_file(file) -> str | None:
    """Returns the format of an open file, as `format_of` names it; None for containers."""
    return next((kind for kind, (_, names) in _FORMATS.items() if file.format in names), None)


def marked(data: bytes, name: str) -> bytes:
    """Returns a file's bytes so that they tell its format: of G.722, which has no header, the name alone does."""
    is_bare = name.lower().endswith(".g722") and data and not re.match(_HEADERS, data)
    return containers().G722 + data if is_bare else data


def mono(block):
    """Returns the mean of all channels: float32 [n, channels] -> [n]."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _missing(data: bytes, kind: str) -> int | None:
    """Returns how many bytes a header declares beyond the end of a file; None if it declares no length.

    At least 1 for an Ogg stream without its end.
    """
    if kind == "ogg":
        last = data.rfind(b"OggS")
        table = data[last + 27 : last + 27 + data[last + 26]] if last + 26 < len(data) else b""
        is_end = bool(table) and bool(data[last + 5] & 4)
        return 1 if not is_end else max(last + 27 + len(table) + sum(table) - len(data), 0)
    if kind == "mp3":
        found = re.search(rb"(?s)(Xing|Info)\0\0\0[\x02\x03\x06\x07\x0a\x0b\x0e\x0f]", data[:_TAG])
        if not found:
            return 0
        at = found.end() + 4 * (data[found.end() - 1] & 1)  # after the number of frames, if it is there
        first = data.rfind(b"\xff", 0, found.start())
        return max(first + int.from_bytes(data[at : at + 4], "big") - len(data), 0)
    if kind == "flac":
        return 0
    order, wanted, at = ("little", b"data", 12) if kind == "wav" else ("big", b"SSND", 12)
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], order)
        if name == wanted:
            is_open = kind == "wav" and (size >= _UNKNOWN or (size == 0 and at + 8 < len(data)))
            return None if is_open else max(at + 8 + size - len(data), 0)
        at += 8 + size + size % 2
    return 0  # soundfile says what is wrong with it


def _words(error) -> str:
    return " ".join(str(error).rpartition(">: ")[2].removeprefix("Error : ").split()).rstrip(".")[:80]


# --- streams -----------------------------------------------------------------------------------------------


class Resampler:
    """Converts one channel to 16,000 samples per second, block by block: the bits do not depend on the blocks."""

    def __init__(self, rate: float):
        self._stream = None
        if rate != RATE:
            import soxr

            self._stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32")

    def resampled(self, block):
        """Returns the samples that can be told so far: float32 [n] -> [m]."""
        block = np.ascontiguousarray(block, np.float32)
        return block if self._stream is None else self._stream.resample_chunk(block)

    def rest(self):
        """Returns the last samples, after the last block."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else self._stream.resample_chunk(empty, last=True)


def windows(sounds: Iterable, samples: int, step: int) -> Iterator:
    """Yields windows of a stream, float32 [samples], one each `step` samples; the last is padded with silence.

    Args:
        sounds: parts of it, of any lengths, as a microphone or `Resampler` gives them: float32 [n] at `RATE`.

    The windows of a stream are those of a file, bit for bit: a model then gives the same scores.
    """
    held, skip, is_new = np.zeros(0, np.float32), 0, False
    for part in sounds:
        part = np.asarray(part, np.float32)
        dropped = min(skip, len(part))
        skip -= dropped
        held, is_new = np.concatenate([held, part[dropped:]]), is_new or len(part) > dropped
        while len(held) >= samples:
            yield held[:samples]
            skip = max(step - len(held), 0)
            held = held[step:]
            is_new = len(held) > max(samples - step, 0)
    if is_new and len(held):
        yield fit(held, samples)

"""Reads m4a, G.722, GSM and other files, the sound of video among them, by PyAV if it is there: pip install av."""

import importlib.util
import io
import re

import numpy as np

G722 = b"#!G722\n"
"""What marks G.722, which has no header, as AMR's header marks AMR."""
GSM = rb"(?s)([\xd0-\xdf].{32}){3}[\xd0-\xdf]"
"""How frames of GSM 06.10 begin, which have no header."""
_FORMATS = {  # first bytes -> the only format of ffmpeg that they are opened as; none of these refers to other files
    "mp4": rb"(?s)....ftyp",
    "matroska": rb"\x1aE\xdf\xa3",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "avi": rb"(?s)RIFF....AVI ",
    "amr": rb"#!AMR",
    "aac": rb"\xff[\xf0\xf1\xf8\xf9]",
    "g722": G722,
    "gsm": GSM,
}
_FRAME = 33  # bytes of GSM
_SLACK = 0.5  # seconds by which a container's length may be off: codecs add silence at the ends


def is_here():
    """Returns whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def opened(data):
    """Returns the first sound in an encoded file, with what is used of a soundfile.SoundFile; None for other files.

    Raises:
        ValueError: it is damaged or holds no sound. The message follows the file's name.
    """
    kind = next((kind for kind, magic in _FORMATS.items() if re.match(magic, data[:128])), None)
    return Sound(data, kind) if kind and is_here() else None


class Sound:
    """The sound of a container, decoded frame by frame.

    Attributes:
        samplerate, channels: as of the file.
        frames: samples that the file declares, less some that may be missing; 0 if it declares none.
        format: as ffmpeg names it.
    """

    def __init__(self, data, kind):
        import av

        try:
            self._file = av.open(io.BytesIO(data.removeprefix(G722)), format=kind)
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(f"is damaged: {kind} that cannot be opened ({_words(error)})") from error
        streams = self._file.streams.audio
        if not streams or not streams[0].rate or not streams[0].channels:
            raise ValueError("holds no sound")
        self.samplerate, self.channels, self.format = streams[0].rate, streams[0].channels, kind.upper()
        seconds = (self._file.duration or 0) / av.time_base
        is_known = kind not in ("aac", "amr", "g722", "gsm")  # ffmpeg guesses their length from their size
        self.frames = max(round((seconds - _SLACK) * self.samplerate), 0) if is_known else 0
        if kind == "avi" and (missing := int.from_bytes(data[4:8], "little") + 8 - len(data)) > 0:
            raise ValueError(f"is truncated: it ends {missing:,} bytes early")  # ffmpeg takes its length from its size
        if kind == "gsm" and (over := len(data) % _FRAME):
            raise ValueError(f"is truncated: its last frame of {_FRAME} bytes has {over}")
        self._blocks, self._held = self._decoded(av, streams[0]), np.zeros((0, self.channels), np.float32)

    def tell(self):
        return 0

    def read(self, frames, dtype, always_2d):
        """Returns the next samples, float32 [n, channels], with n <= frames; none at the end."""
        while len(self._held) < frames and (block := next(self._blocks, None)) is not None:
            self._held = np.concatenate([self._held, block])
        found, self._held = self._held[:frames], self._held[frames:]
        return found

    def _decoded(self, av, stream):
        resampler = av.AudioResampler(format="flt", layout=stream.layout.name, rate=self.samplerate)
        try:
            for frame in self._file.decode(stream):
                yield from map(self._values, resampler.resample(frame))
            yield from map(self._values, resampler.resample(None))
        except (av.FFmpegError, ValueError) as error:
            raise RuntimeError(_words(error)) from error

    def _values(self, frame):
        return frame.to_ndarray().reshape(-1, self.channels).astype(np.float32)


def _words(error):
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:80]

"""Makes sounds and sound files."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000
Sound = npt.NDArray[np.float32]


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE, level: float = 0.5) -> Sound:
    """A sine."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds: float = 0.5, rate: int = RATE, seed: int = 0, level: float = 0.1) -> Sound:
    return (level * np.random.default_rng(seed).normal(size=round(seconds * rate))).astype(np.float32)


def encoded(sound: Any, rate: int = RATE, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    soundfile.write(file := io.BytesIO(), sound, rate, format=format, subtype=subtype)
    return file.getvalue()


def write(path: Path, sound: Any, rate: int = RATE, **more: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(sound, rate, **more))
    return path


class Broken(Exception):
    pass


def library(path: Path | None, rate: int = 16_000, overflows: bool = False) -> Any:
    """sounddevice, whose only microphone hears a file; None: there is no microphone."""

    class InputStream:
        def __init__(self, samplerate: int, channels: int, dtype: str) -> None:
            assert (samplerate, channels, dtype) == (rate, 1, "float32")
            self.file = soundfile.SoundFile(path)

        def __enter__(self) -> "InputStream":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read(self, frames: int) -> tuple[Any, bool]:
            return self.file.read(frames, dtype="float32", always_2d=True), overflows

    def query_devices(kind: str) -> dict[str, float]:
        if path is None:
            raise Broken("Error querying device -1")
        return {"default_samplerate": float(rate)}

    return SimpleNamespace(InputStream=InputStream, query_devices=query_devices, PortAudioError=Broken)

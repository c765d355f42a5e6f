"""Makes sounds and sound files."""

import io
from pathlib import Path
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

"""What tasks on sounds have in common on a device, without TensorFlow: windows of samples, and a spectrum inside."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerastune.data import Split
from kerastune.modalities import Example
from kerastune.modalities.audio import RATE, beginning
from kerastune.recipe import Recipe
from kerastune.targets.audio import fit
from kerastune.tasks.contract import Questions, Record, Wanted

SPECTRUM = "log-mel spectrum, as in training, in float32"
_STEP = 320  # samples: two strides of the front end, of which the encoder makes one frame


def whole_frames(seconds: float) -> int:
    """Returns the length of a window in samples, a whole number of the encoder's frames of 20 ms."""
    return round(seconds * RATE / _STEP) * _STEP


def refusal(wanted: Wanted, integers: Sequence[str], of: str) -> str | None:
    """Returns why models `of` something cannot be had in integers, or None for another quantisation."""
    if wanted.quantize not in integers:
        return None
    return (
        f"models of {of} cannot be exported with quantize = {wanted.quantize!r}: in integers a spectrum holds only "
        "its loudest tones; dynamic has int8 weights, and leaves the spectrum in float"
    )


def candidates(wanted: Wanted) -> tuple[str, ...]:
    """Returns quantisations of weights: the spectrum needs floating point."""
    return ("dynamic", "float16", "none")


def calibration(samples: Callable[[Any], int]) -> Callable[[Any, Split, int], Example]:
    """Returns the contract's function to the window that the model hears, float32 [samples].

    Args:
        samples: recipe -> the length of its window.
    """

    def window(recipe: Recipe, split: Split, i: int) -> Example:
        size = samples(recipe)
        heard: Example = fit(beginning(split.read(i), size), size)
        return heard

    return window


def questions(samples: Callable[[Any], int]) -> Callable[[Any, Split, Sequence[int]], Questions]:
    """Returns the contract's function to one question for each sound: its beginning. Arguments as of `calibration`."""

    def asked(recipe: Recipe, split: Split, chosen: Sequence[int]) -> Questions:
        return Questions((beginning(split.read(i), samples(recipe)) for i in chosen), np.arange(len(chosen)))

    return asked


def sounds(settings: Record, batch: int | None) -> Record:
    """Describes the input, for the manifest."""
    size, rate = settings["samples"], settings["sample_rate"]
    meaning = f"{size / rate:g} s of sound: {rate:,} samples per second of one channel"
    return {"name": "sounds", "shape": [batch, size], "dtype": "float32", "range": [-1, 1], "meaning": meaning}


def outside(settings: Record, cut: str = "cut to") -> list[str]:
    """Returns what is done with a file before the model hears it; `cut` says how it is cut to the window's length."""
    return [
        "decode the file",
        "average its channels",
        f"resample to {settings['sample_rate']:,} samples per second",
        f"{cut} {settings['samples']:,} samples, or pad with zeros at the end",
    ]

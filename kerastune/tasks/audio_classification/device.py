"""Sounds in, labels out, without TensorFlow."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerastune.data import Split, Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.audio import AUDIO, beginning
from kerastune.targets.audio import RATE, fit
from kerastune.tasks.audio_classification.settings import AudioClassification
from kerastune.tasks.contract import Device, Form, Questions, Record, Wanted
from kerastune.tasks.heads import activation, scores_of
from kerastune.tasks.learnt import LEARNT, Learnt

GOLDEN = 16
SERVING = ("serving_default",)
_STEP = 320  # samples: two strides of the front end, of which the encoder makes one frame

# A spectrum's quietest places, eight decades below its loudest, are little more than rounding: 1.2e-4 of a score was
# measured on words with silence around them.
_ROUNDING = 5e-4


def samples(recipe: AudioClassification) -> int:
    """Returns the length of the window in samples, a whole number of the encoder's frames of 20 ms."""
    return int(round(recipe.data.window * RATE / _STEP) * _STEP)


def learnt(recipe: AudioClassification) -> Learnt:
    """Returns the row for the recipe's data: one label, or several."""
    return LEARNT[recipe.data.target]


def form(recipe: AudioClassification, wanted: Wanted) -> Form:
    """Returns a form for windows of float32 samples, one at a time or in batches."""
    if wanted.style == "serving":
        return Form("serving")
    return Form("single" if wanted.style == "single" else "serving_default")


def refusal(recipe: AudioClassification, wanted: Wanted) -> str | None:
    """Returns why sounds cannot be heard in integers, or None."""
    if wanted.quantize not in ("int8", "int16x8"):
        return None
    return (
        f"models of sounds cannot be exported with quantize = {wanted.quantize!r}: in integers a spectrum holds only "
        "its loudest tones; dynamic has int8 weights, and leaves the spectrum in float"
    )


def candidates(wanted: Wanted) -> tuple[str, ...]:
    """Returns quantisations of weights: the spectrum needs floating point."""
    return ("dynamic", "float16", "none")


def golden(recipe: AudioClassification, splits: Splits) -> list[Example]:
    """Returns the beginnings of validation sounds, spread over the labels."""
    return [_beginning(recipe, splits.validation, i) for i in spread(splits.validation, GOLDEN)]


def _beginning(recipe: AudioClassification, split: Split, i: int) -> Example:
    return beginning(split.read(i), samples(recipe))


def calibration(recipe: AudioClassification, split: Split, i: int) -> Example:
    """Returns the window that the model hears, float32 [samples]."""
    window: Example = fit(_beginning(recipe, split, i), samples(recipe))
    return window


def manifest(recipe: AudioClassification, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes samples in and scores out."""
    settings = json.loads((work / "sound.json").read_text("utf-8"))
    batch = None if form.signature in ("serving", "serving_default") else 1
    size, rate, seconds = settings["samples"], settings["sample_rate"], settings["samples"] / settings["sample_rate"]
    return {
        "signatures": list(SERVING) if form.signature == "serving" else [form.signature],
        "reading": settings,
        "inputs": [
            {
                "name": "sounds",
                "shape": [batch, size],
                "dtype": "float32",
                "range": [-1, 1],
                "meaning": f"{seconds:g} s of sound: {rate:,} samples per second of one channel",
            }
        ],
        "outputs": [scores_of(recipe.data.target, batch, work)],
        "preprocessing": {
            "inside": [
                *(["scale to the same largest value"] if recipe.level == "peak" else []),
                "log-mel spectrum, as in training, in float32",
                *activation(recipe.data.target),
            ],
            "outside": [
                "decode the file",
                "average its channels",
                f"resample to {rate:,} samples per second",
                f"cut to {size:,} samples, or pad with zeros at the end",
            ],
        },
    }


def questions(recipe: AudioClassification, split: Split, chosen: Sequence[int]) -> Questions:
    """Returns one question for each sound."""
    return Questions((_beginning(recipe, split, i) for i in chosen), np.arange(len(chosen)))


DEVICE: Device[AudioClassification] = Device(
    modality=AUDIO,
    learnt=learnt,
    form=form,
    refusal=refusal,
    candidates=candidates,
    golden=golden,
    calibration=calibration,
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=questions,
    sides=lambda recipe: 1,
    serving=SERVING,
    pipeline_tag="audio-classification",
    unit="a sound",
    rounding=_ROUNDING,
    window=samples,
    mediapipe=lambda recipe: {"scores": "sound_labels"},
)

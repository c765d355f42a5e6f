"""Sounds in, labels out, without TensorFlow."""

import json
from pathlib import Path

from kerastune.data import Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.audio import AUDIO, beginning
from kerastune.tasks import sound_device
from kerastune.tasks.audio_classification.settings import AudioClassification
from kerastune.tasks.contract import Device, Form, Record, Wanted
from kerastune.tasks.heads import activation, scores_of
from kerastune.tasks.learnt import LEARNT, Learnt

GOLDEN = 16
SERVING = ("serving_default",)

# A spectrum's quietest places, eight decades below its loudest, are little more than rounding: 1.2e-4 of a score was
# measured on words with silence around them.
_ROUNDING = 5e-4


def samples(recipe: AudioClassification) -> int:
    """Returns the length of the window in samples."""
    return sound_device.whole_frames(recipe.data.window)


def learnt(recipe: AudioClassification) -> Learnt:
    """Returns the row for the recipe's data: one label, or several."""
    return LEARNT[recipe.data.target]


def form(recipe: AudioClassification, wanted: Wanted) -> Form:
    """Returns a form for windows of float32 samples, one at a time or in batches."""
    if wanted.style == "serving":
        return Form("serving")
    return Form("single" if wanted.style == "single" else "serving_default")


def refusal(recipe: AudioClassification, wanted: Wanted) -> str | None:
    """Returns why sounds cannot be heard in integers or by transformers, or None."""
    if wanted.style == "folder":
        return "audio_classification has a head that transformers lacks: use onnxruntime or linux"
    return sound_device.refusal(wanted, ("int8", "int16x8"), "sounds")


def golden(recipe: AudioClassification, splits: Splits) -> list[Example]:
    """Returns the beginnings of validation sounds, spread over the labels."""
    size = samples(recipe)
    return [beginning(splits.validation.read(i), size) for i in spread(splits.validation, GOLDEN)]


def manifest(recipe: AudioClassification, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes samples in and scores out."""
    settings = json.loads((work / "sound.json").read_text("utf-8"))
    batch = None if form.signature in ("serving", "serving_default") else 1
    return {
        "signatures": list(SERVING) if form.signature == "serving" else [form.signature],
        "reading": settings,
        "inputs": [sound_device.sounds(settings, batch)],
        "outputs": [scores_of(recipe.data.target, batch, work)],
        "preprocessing": {
            "inside": [
                *(["scale to the same largest value"] if recipe.level == "peak" else []),
                sound_device.SPECTRUM,
                *activation(recipe.data.target),
            ],
            "outside": sound_device.outside(settings),
        },
    }


DEVICE: Device[AudioClassification] = Device(
    modality=AUDIO,
    learnt=learnt,
    form=form,
    refusal=refusal,
    candidates=sound_device.candidates,
    golden=golden,
    calibration=sound_device.calibration(samples),
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=sound_device.questions(samples),
    sides=lambda recipe: 1,
    serving=SERVING,
    pipeline_tag="audio-classification",
    unit="a sound",
    rounding=_ROUNDING,
    window=samples,
    mediapipe=lambda recipe: {"scores": "sound_labels"},
)

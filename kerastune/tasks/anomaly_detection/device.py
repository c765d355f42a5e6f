"""Pictures in; a score, a decision and a heat map out. Without TensorFlow."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kerastune.data import Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.image import IMAGE
from kerastune.tasks.anomaly_detection.settings import AnomalyDetection
from kerastune.tasks.contract import Device, Form, Record, Wanted
from kerastune.tasks.image_classification import device as images
from kerastune.tasks.learnt import LEARNT

GOLDEN, _LEAST = 12, 4
_GOLDEN_PIXELS = 2**24  # of all golden pictures, which every artifact holds

_STEPS = {
    "patches": "distances of deep features from the good ones, place by place",
    "residuals": "fine detail at full resolution",
    "image": "statistics of the picture's features",
}


def form(recipe: AnomalyDetection, wanted: Wanted) -> Form:
    """Returns the form of an image model whose outputs stay in floating point."""
    found = images.form(recipe, wanted)
    return replace(found, int8_io="float32") if wanted.io != "int8" else found


def refusal(recipe: AnomalyDetection, wanted: Wanted) -> str | None:
    """Returns why a target without floating point is out of the question; None for the others."""
    if wanted.io == "int8":
        return (
            "anomaly_detection cannot be exported in integers alone: distances divide by small deviations, which "
            "multiplies errors of rounding, and decisions change"
        )
    return None


def golden(recipe: AnomalyDetection, splits: Splits) -> list[Example]:
    """Returns validation pictures, good and defective, at their own size: defects vanish from smaller ones."""
    height, width, _ = splits.validation.example(0).shape
    count = max(min(GOLDEN, _GOLDEN_PIXELS // (height * width)), _LEAST)
    return [splits.validation.example(i) for i in spread(splits.validation, count)]


def manifest(recipe: AnomalyDetection, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes pixels in, and a score, a decision and a heat map out."""
    batch = images.batch_of(form)
    with np.load(work / "golden_expected.npz", allow_pickle=False) as stored:
        rows, columns = stored["heat_map"].shape[1:]
    outputs = (
        ("score", [batch, 1], "the largest of parts; above 1 is defective"),
        ("defective", [batch, 1], "1 if the score is above 1, else 0"),
        ("heat_map", [batch, rows, columns], "cells of the picture, row by row; above 1 is defective"),
        ("parts", [batch, 3], "scores of patches, residuals and the whole image; 0 if not used"),
    )
    inside = [*(_STEPS[name] for name in recipe.detector.scores), "scale by held-out good pictures, and threshold"]
    described = [
        {"name": name, "shape": shape, "dtype": "float32", "range": None, "meaning": meaning}
        for name, shape, meaning in outputs
    ]
    found = images.described(form, work, inside, described)
    return {**found, "reading": {**found["reading"], "own_size": recipe.data.image_size is None}}


DEVICE: Device[AnomalyDetection] = Device(
    modality=IMAGE,
    learnt=lambda recipe: LEARNT["defects"],
    form=form,
    refusal=refusal,
    candidates=lambda wanted: ("float16", "none"),
    golden=golden,
    calibration=lambda recipe, split, i: split.example(i),
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=images.questions,
    sides=lambda recipe: 1,
    serving=images.SERVING,
    pipeline_tag="image-classification",
    unit="an image",
)

"""Images in, labels or numbers out, without TensorFlow."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerastune.data import Split, Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.image import IMAGE, shrunk, tinted
from kerastune.recipe import Recipe
from kerastune.tasks.contract import Device, Form, Questions, Record, Wanted
from kerastune.tasks.heads import activation, scores_of
from kerastune.tasks.image_classification.settings import ImageClassification
from kerastune.tasks.learnt import LEARNT, Learnt

GOLDEN, TINTED = 16, 8
SERVING = ("serving_default", "serve_bytes")
LARGEST_SIDE = 320
"""Largest side in pixels of golden and calibration images; every model shrinks images further."""


def learnt(recipe: ImageClassification) -> Learnt:
    """Returns the row for the recipe's data: one label, several, or a number."""
    return LEARNT[recipe.data.target]


def form(recipe: Recipe, wanted: Wanted) -> Form:
    """Returns a form for images of any size, resized in the graph, or of one size, if the target resizes them."""
    if wanted.style == "serving":
        return Form("serving", "uint8")
    if wanted.images == "any":
        return Form("any_size" if wanted.style == "single" else "serving_default", "uint8")
    # The converter itself makes the integer inputs of an int8 model; elsewhere a cast does.
    is_cast = wanted.quantize not in ("auto", "int8", "int16x8") and wanted.io != "float32"
    signature = "fixed_uint8" if is_cast else "fixed_float32"
    # Pixels that a device has resized are whole numbers; in training they were not.
    return Form(signature, wanted.io, wanted.io, "calibration_fixed", "golden_fixed", exact=False)


def refusal(recipe: Recipe, wanted: Wanted) -> str | None:
    """Returns None: only the backbone decides what works."""
    return None


def candidates(wanted: Wanted) -> tuple[str, ...]:
    """Returns int8 first; a target without floating point takes nothing else."""
    return ("int8",) if wanted.io == "int8" else ("int8", "float16", "dynamic", "none")


def golden(recipe: Recipe, splits: Splits) -> list[Example]:
    """Returns validation images, spread over the labels, some of them also tinted red and blue."""
    images = [calibration(recipe, splits.validation, i) for i in spread(splits.validation, GOLDEN)]
    return [*images, *(tint for image in images[:TINTED] for tint in tinted(image))]


def calibration(recipe: Recipe, split: Split, i: int) -> Example:
    """Returns the image, no larger than `LARGEST_SIDE`."""
    return shrunk(split.example(i), LARGEST_SIDE)


def manifest(recipe: ImageClassification, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes pixels in and scores out."""
    dtype = form.int8_io if wanted.quantize == "int8" else "float32"
    output = scores_of(recipe.data.target, batch_of(form), work, dtype)
    return described(form, work, activation(recipe.data.target), [output])


def batch_of(form: Form) -> int | None:
    """Returns the batch axis of inputs and outputs: any number of images, or one."""
    return None if form.signature in ("serving", "serving_default") else 1


def described(form: Form, work: Path, inside: list[str], outputs: list[Record]) -> Record:
    """Returns the manifest's entries for an image model; `inside` is its last steps in words."""
    settings = json.loads((work / "image.json").read_text("utf-8"))
    batch, height, width = batch_of(form), settings["height"], settings["width"]
    resizing = f"resize to {height}x{width}, {settings['interpolation']}, as in training"
    outside = ["decode the file to RGB", "apply its EXIF orientation", "put transparency on white"]
    is_fixed, is_int8 = not form.exact, form.io == "int8"
    return {
        "signatures": list(SERVING) if form.signature == "serving" else [form.signature],
        "reading": {**settings, "resize": "outside" if is_fixed else "inside"},
        "inputs": [
            {
                "name": "images",
                "shape": [batch, height, width, 3] if is_fixed else [batch, None, None, 3],
                "dtype": form.io,
                "range": [-128, 127] if is_int8 else [0, 255],
                "meaning": "RGB pixels of an upright image"
                + (", minus 128" if is_int8 else "")
                + ("" if is_fixed else ", of any height and width"),
            }
        ],
        "outputs": outputs,
        "preprocessing": {
            "inside": [*([] if is_fixed else [resizing]), "scale and offset", *inside],
            "outside": [*outside, *([resizing] if is_fixed else [])],
        },
    }


def questions(recipe: Recipe, split: Split, chosen: Sequence[int]) -> Questions:
    """Returns one question for each image, at its own size."""
    return Questions((split.example(i) for i in chosen), np.arange(len(chosen)))


DEVICE: Device[ImageClassification] = Device(
    modality=IMAGE,
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
    pipeline_tag="image-classification",
    unit="an image",
    mediapipe=lambda recipe: {"scores": "labels"} if recipe.data.target != "number" else {},
)

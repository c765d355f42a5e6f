"""Pictures in, the class of each pixel out. Without TensorFlow."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kerastune.data import Split, Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.image import IMAGE, shrunk, tinted
from kerastune.tasks.contract import Device, Form, Record, Wanted
from kerastune.tasks.image_classification import device as images
from kerastune.tasks.image_segmentation.settings import MOST, ImageSegmentation
from kerastune.tasks.learnt import LEARNT

GOLDEN, TINTED = 8, 3
LEAST = 2  # pictures that prove probabilities, however many a picture has


def form(recipe: ImageSegmentation, wanted: Wanted) -> Form:
    """Returns the form of an image model whose logits stay in floating point at its ends; for a device with a camera,
    that of MediaPipe's ImageSegmenter."""
    found = images.form(recipe, wanted)
    if wanted.io == "int8":
        return found
    is_camera = not found.exact and wanted.io == "uint8"
    return replace(found, int8_io="float32", signature=found.signature + "_mediapipe" * is_camera)


def refusal(recipe: ImageSegmentation, wanted: Wanted) -> str | None:
    """Returns why a target without floating point is out of the question; None for the others."""
    if wanted.io == "int8":
        return (
            "image_segmentation cannot be exported for devices without floating point: a map of a class for each pixel "
            "and what it is made of do not fit their memory"
        )
    return None


def golden(recipe: ImageSegmentation, splits: Splits) -> list[Example]:
    """Returns validation pictures, spread over the classes, some of them also tinted red and blue; fewer where the
    proof holds many probabilities of each."""
    count, also = GOLDEN, TINTED
    if recipe.segmenter.probabilities:
        each = max(recipe.data.image_size, images.LARGEST_SIDE) ** 2 * len(recipe.data.classes)
        count = min(count, max(MOST // each, LEAST))
        also = min(also, count // 2)
    pictures = [calibration(recipe, splits.validation, i) for i in spread(splits.validation, count)]
    return [*pictures, *(tint for picture in pictures[:also] for tint in tinted(picture))]


def calibration(recipe: ImageSegmentation, split: Split, i: int) -> Example:
    """Returns the picture, no larger than other models' golden ones."""
    return shrunk(split.example(i), images.LARGEST_SIDE)


def manifest(recipe: ImageSegmentation, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes pixels in, and a class map, logits and, if asked for, probabilities out."""
    batch, classes = images.batch_of(form), len(recipe.data.classes)
    with np.load(work / "golden_expected.npz", allow_pickle=False) as stored:
        rows, columns = stored["logits"].shape[1:3]
    size = [None, None] if form.exact else [recipe.data.image_size, recipe.data.image_size]
    where = "of the picture" if form.exact else "of the resized picture: enlarge it to the picture's size, nearest"
    asked = recipe.segmenter.probabilities
    outputs: list[Record] = [
        {
            "name": "class_map",
            "shape": [batch, *size],
            "dtype": "uint8",
            "range": [0, classes - 1],
            "meaning": f"the class of each pixel {where}; numbers are places in `labels`",
            "role": "map",
        },
        {
            "name": "logits",
            "shape": [batch, rows, columns, classes],
            "dtype": "float32",
            "range": None,
            "meaning": "softmax: probabilities of the classes, in cells; the map is their largest after enlarging",
            "role": "detail",
        },
    ]
    if form.signature.endswith("_mediapipe"):
        (logits,) = outputs[1:]
        meaning = "softmax: probabilities of the classes, in cells; enlarged (bilinear), the largest is a pixel's class"
        found = images.described(form, work, [], [{**logits, "meaning": meaning, "role": "cells"}])
        return {**found, "reading": found["reading"] | ({"probabilities": True} if asked else {})}
    inside = ["enlarge the logits to the picture's size, bilinear", "the largest logit of each pixel"]
    if asked:
        inside.append("softmax of each pixel's logits")
        outputs.append(
            {
                "name": "probabilities",
                "shape": [batch, *size, classes],
                "dtype": "float32",
                "range": [0, 1],
                "meaning": f"the probability of each class at each pixel {where}",
                "role": "probabilities",
            }
        )
    return images.described(form, work, inside, outputs)


DEVICE: Device[ImageSegmentation] = Device(
    modality=IMAGE,
    learnt=lambda recipe: LEARNT["mask"],
    form=form,
    refusal=refusal,
    candidates=lambda wanted: ("int8", "float16", "dynamic", "none"),
    golden=golden,
    calibration=calibration,
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=images.questions,
    sides=lambda recipe: 1,
    serving=images.SERVING,
    pipeline_tag="image-segmentation",
    unit="an image",
    mediapipe=lambda recipe: {"logits": "masks"},
)

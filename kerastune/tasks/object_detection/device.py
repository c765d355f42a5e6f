"""Pictures in, boxes out. Without TensorFlow."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kerastune.data import Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.image import IMAGE
from kerastune.tasks.contract import Device, Form, Record, Wanted
from kerastune.tasks.image_classification import device as images
from kerastune.tasks.learnt import LEARNT
from kerastune.tasks.object_detection.settings import ObjectDetection

GOLDEN = 8


def form(recipe: ObjectDetection, wanted: Wanted) -> Form:
    """Returns the form of an image model whose outputs stay in floating point; for a device with a camera, that of
    MediaPipe's ObjectDetector."""
    found = replace(images.form(recipe, wanted), int8_io="float32")
    if found.exact or found.io != "uint8":
        return found
    return replace(found, signature="fixed_mediapipe", proved=("detections",))


def refusal(recipe: ObjectDetection, wanted: Wanted) -> str | None:
    """Returns why integers are out of the question; None for everything else."""
    if wanted.io == "int8" or wanted.quantize in ("int8", "int16x8"):
        return (
            "object_detection computes boxes and suppresses repeated ones inside the file, and corners in steps of a "
            'quarter of a percent of the picture would lose small objects: use quantize = "dynamic" or "float16"'
        )
    return None


def golden(recipe: ObjectDetection, splits: Splits) -> list[Example]:
    """Returns validation pictures at their own size: small objects vanish from smaller ones."""
    return [splits.validation.example(i) for i in spread(splits.validation, GOLDEN)]


def manifest(recipe: ObjectDetection, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes pixels in, and detections out, with what they are made of."""
    batch = images.batch_of(form)
    with np.load(work / "golden_expected.npz", allow_pickle=False) as stored:
        count, classes = stored["class_logits"].shape[1:]
        most = stored["detections"].shape[1]
    where = "the picture" if form.exact else "the resized picture"
    located = (
        ("boxes", [1, most, 4], "left, top, right and bottom edge in shares of the picture, the most confident first"),
        ("box_scores", [1, most], "score of each box, 0 after the last one"),
        ("classes", [1, most], "number of the label of each box, in the order of `labels`"),
        ("count", [1], "number of boxes"),
    )
    outputs = (
        (
            "detections",
            [batch, most, 6],
            f"x1, y1, x2, y2 in pixels of {where}, score and class (in the order of `labels`) of each, the most "
            "confident first; rows of zeros follow the last one",
            "boxes",
        ),
        ("class_logits", [batch, count, classes], "sigmoid: the probability of each class at each anchor", "detail"),
        ("box_deltas", [batch, count, 4], "shift of each anchor in shares of its sides, and log growth", "detail"),
    )
    return images.described(
        form,
        work,
        ["boxes from anchors", "suppression of repeated ones, class by class", f"the best {most}"],
        [
            {"name": name, "shape": shape, "dtype": "float32", "range": None, "meaning": meaning, "role": role}
            for name, shape, meaning, role in (((*one, None) for one in located) if form.proved else outputs)
        ],
    )


DEVICE: Device[ObjectDetection] = Device(
    modality=IMAGE,
    learnt=lambda recipe: LEARNT["boxes"],
    form=form,
    refusal=refusal,
    candidates=lambda wanted: ("dynamic", "float16", "none"),
    golden=golden,
    calibration=lambda recipe, split, i: split.example(i),
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=images.questions,
    sides=lambda recipe: 1,
    serving=images.SERVING,
    pipeline_tag="object-detection",
    unit="an image",
    mediapipe=lambda recipe: {name: name for name in ("boxes", "box_scores", "classes", "count")},
)

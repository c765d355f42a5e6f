"""Images in, vectors out, without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerastune.data import Split
from kerastune.modalities.image import IMAGE
from kerastune.tasks.contract import Device, Form, Questions, Record, Wanted
from kerastune.tasks.image_classification import device as images
from kerastune.tasks.image_embedding.settings import ImageEmbedding
from kerastune.tasks.learnt import LEARNT, Learnt


def learnt(recipe: ImageEmbedding) -> Learnt:
    """Returns the row for images that belong together."""
    return LEARNT[recipe.data.target]


def manifest(recipe: ImageEmbedding, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes pixels in and a vector out."""
    with np.load(work / "golden_expected.npz", allow_pickle=False) as stored:
        width = stored["embeddings"].shape[-1]
    cut = "".join(f"; its first {size} numbers work alone" for size in recipe.dimensions[1:])
    output = {
        "name": "embeddings",
        "shape": [images.batch_of(form), width],
        "dtype": form.int8_io if wanted.quantize == "int8" else "float32",
        "range": None,
        "meaning": f"the image's vector; compare vectors by cosine{cut}",
    }
    return images.described(form, work, ["projection"], [output])


def questions(recipe: ImageEmbedding, split: Split, chosen: Sequence[int]) -> Questions:
    """Returns one question for each image, the only side of its example."""
    found = images.questions(recipe, split, chosen)
    return Questions(found.examples, found.place[:, None])


DEVICE: Device[ImageEmbedding] = Device(
    modality=IMAGE,
    learnt=learnt,
    form=images.form,
    refusal=images.refusal,
    candidates=images.candidates,
    golden=images.golden,
    calibration=images.calibration,
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=questions,
    sides=lambda recipe: 1,
    serving=images.SERVING,
    pipeline_tag="image-feature-extraction",
    unit="an image",
    mediapipe=lambda recipe: {"embeddings": "vector"},
)

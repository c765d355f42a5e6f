"""Texts in, vectors out, one text at a time whatever the training data. Without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerastune.data import Split, Splits
from kerastune.modalities import Example
from kerastune.modalities.text import TEXT
from kerastune.tasks import text_device
from kerastune.tasks.contract import Device, Form, Questions, Record, Wanted
from kerastune.tasks.learnt import LEARNT, Learnt
from kerastune.tasks.text_embedding.settings import TextEmbedding


def learnt(recipe: TextEmbedding) -> Learnt:
    """Returns the row for the named columns: pairs, groups or scores."""
    return LEARNT[recipe.data.target]


def golden(recipe: TextEmbedding, splits: Splits) -> list[Example]:
    """Returns the first text of validation examples."""
    return [texts[:1] for texts in text_device.golden(recipe, splits)]


def calibration(recipe: TextEmbedding, split: Split, i: int) -> Example:
    """Returns the first text of an example."""
    return split.example(i)[:1]


def audited(recipe: TextEmbedding, splits: Splits) -> list[list[str]]:
    """Returns all texts, one by one."""
    return [[text] for texts in text_device.audited(recipe, splits) for text in texts]


def manifest(recipe: TextEmbedding, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes tokens in and a vector out."""
    with np.load(work / "golden_expected.npz", allow_pickle=False) as stored:
        width = stored["embeddings"].shape[-1]
    output = {
        "name": "embeddings",
        "shape": [text_device.batch_of(form), width],
        "dtype": "float32",
        "range": None,
        "meaning": "the text's vector, pooled and scaled by the preset; compare vectors by cosine",
    }
    return text_device.manifest(wanted, form, work, ["pooling"], output)


def questions(recipe: TextEmbedding, split: Split, chosen: Sequence[int]) -> Questions:
    """Returns one question for each distinct text; every side of an example refers to one."""
    number: dict[str, int] = {}
    place = np.array([[number.setdefault(str(text), len(number)) for text in split.example(i)] for i in chosen])
    return Questions([np.array([text]) for text in number], place)


DEVICE: Device[TextEmbedding] = Device(
    modality=TEXT,
    learnt=learnt,
    form=text_device.form,
    refusal=text_device.refusal,
    candidates=text_device.candidates,
    golden=golden,
    calibration=calibration,
    audited=audited,
    manifest=manifest,
    questions=questions,
    sides=lambda recipe: 1,
    serving=text_device.SERVING,
    pipeline_tag="sentence-similarity",
    unit="a text",
)

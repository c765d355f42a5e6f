"""Texts in, labels or numbers out, without TensorFlow."""

from pathlib import Path

from kerastune.modalities.text import TEXT
from kerastune.tasks import text_device
from kerastune.tasks.contract import Device, Form, Record, Wanted
from kerastune.tasks.heads import activation, scores_of
from kerastune.tasks.learnt import LEARNT, Learnt
from kerastune.tasks.text_classification.settings import TextClassification


def learnt(recipe: TextClassification) -> Learnt:
    """Returns the row for the recipe's data: one label, several, or a number."""
    return LEARNT[recipe.data.target]


def manifest(recipe: TextClassification, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes tokens in and scores out."""
    output = scores_of(recipe.data.target, text_device.batch_of(form), work)
    return text_device.manifest(wanted, form, work, activation(recipe.data.target), output)


def sides(recipe: TextClassification) -> int:
    """Returns 2 for a model of pairs, else 1."""
    return 2 if recipe.data.paired else 1


DEVICE: Device[TextClassification] = Device(
    modality=TEXT,
    learnt=learnt,
    form=text_device.form,
    refusal=text_device.refusal,
    candidates=text_device.candidates,
    golden=text_device.golden,
    calibration=text_device.calibration,
    audited=text_device.audited,
    manifest=manifest,
    questions=text_device.questions,
    sides=sides,
    serving=text_device.SERVING,
    pipeline_tag="text-classification",
    unit="a text",
)

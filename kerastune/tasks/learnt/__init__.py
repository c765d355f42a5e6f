"""Kinds of learnt output: one module for each kind of output, one row in `LEARNT` for each kind of truth.

A row serves every modality, so images, texts and sounds with labels share metrics, proof and report section. Nothing
here imports TensorFlow; losses are in `kerastune.tasks.losses`. SciPy and scikit-learn take two seconds to import,
so the functions that compute with them do it.
"""

from kerastune.tasks.learnt.answers import ANSWERS
from kerastune.tasks.learnt.boxes import BOXES
from kerastune.tasks.learnt.classes import LABEL, LABELS
from kerastune.tasks.learnt.contract import Learnt, Metric, Predictions
from kerastune.tasks.learnt.defects import DEFECTS
from kerastune.tasks.learnt.masks import MASK
from kerastune.tasks.learnt.numbers import NUMBER
from kerastune.tasks.learnt.transcripts import TRANSCRIPT
from kerastune.tasks.learnt.vectors import GROUPS, PAIRS, SCORES

__all__ = ["LEARNT", "Learnt", "Metric", "Predictions"]

LEARNT: dict[str, Learnt] = {
    one.name: one for one in (LABEL, LABELS, NUMBER, PAIRS, GROUPS, SCORES, ANSWERS, DEFECTS, BOXES, MASK, TRANSCRIPT)
}

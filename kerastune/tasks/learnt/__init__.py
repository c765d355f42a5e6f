"""What is learnt about an example: one module a kind of output, one row a kind of truth in `LEARNT`.

The same row serves every modality, so images, texts and sounds with labels share their metrics, their proof and their
part of the report. Nothing here imports TensorFlow; losses are in `kerastune.tasks.losses`.
"""

from kerastune.tasks.learnt.answers import ANSWERS
from kerastune.tasks.learnt.classes import LABEL, LABELS
from kerastune.tasks.learnt.contract import Learnt, Metric, Predictions
from kerastune.tasks.learnt.numbers import NUMBER
from kerastune.tasks.learnt.vectors import GROUPS, PAIRS, SCORES

__all__ = ["LEARNT", "Learnt", "Metric", "Predictions"]

LEARNT: dict[str, Learnt] = {one.name: one for one in (LABEL, LABELS, NUMBER, PAIRS, GROUPS, SCORES, ANSWERS)}

"""Kinds of example: how to check and decode the bytes, show an example in a report, and ask about one.

Each modality is one module and one row in `MODALITIES`. Nothing here imports TensorFlow.
"""

from kerastune.modalities.audio import AUDIO
from kerastune.modalities.contract import Example, Modality, Report
from kerastune.modalities.conversation import CONVERSATION
from kerastune.modalities.image import IMAGE
from kerastune.modalities.text import TEXT

__all__ = ["MODALITIES", "Example", "Modality", "Report"]

MODALITIES: dict[str, Modality] = {one.name: one for one in (IMAGE, TEXT, CONVERSATION, AUDIO)}

"""What an example is: how its bytes are checked and decoded, how a report shows it, how people ask about it.

One module a modality, one row in `MODALITIES`. Nothing here imports TensorFlow.
"""

from kerastune.modalities.contract import Example, Modality, Report
from kerastune.modalities.conversation import CONVERSATION
from kerastune.modalities.image import IMAGE
from kerastune.modalities.text import TEXT

__all__ = ["MODALITIES", "Example", "Modality", "Report"]

MODALITIES: dict[str, Modality] = {one.name: one for one in (IMAGE, TEXT, CONVERSATION)}

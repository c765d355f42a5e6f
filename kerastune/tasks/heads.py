"""Describes the outputs of label and number heads in a manifest, without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

Output = dict[str, Any]

_MEANINGS: dict[str, Output] = {
    "label": {
        "range": [0, 1],
        "meaning": "probability of each label, in the order of `labels`; they sum to 1. In an integer dtype: scale and "
        "zero point are in the file",
    },
    "labels": {"range": [0, 1], "meaning": "probability of each label for itself, in the order of `labels`"},
    "number": {"range": None, "meaning": "the number itself"},
}
_ACTIVATIONS = {"label": ["softmax"], "labels": ["sigmoid"], "number": list[str]()}


def scores_of(target: str, batch: int | None, work: Path, dtype: str = "float32") -> Output:
    """Returns the output "scores" of a model that `trace` has described in the work folder."""
    with np.load(work / "golden_expected.npz", allow_pickle=False) as stored:
        width = stored["scores"].shape[-1]
    return {"name": "scores", "shape": [batch, width], "dtype": dtype, **_MEANINGS[target]}


def activation(target: str) -> list[str]:
    """Returns the last step inside the graph, in words; none for numbers."""
    return _ACTIVATIONS[target]

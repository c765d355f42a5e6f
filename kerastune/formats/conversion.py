"""What a converter is asked for; it travels to the converter's process as JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Conversion:
    """How one signature of a traced model becomes a file.

    Attributes:
        signature: the signature it is made from; a SavedModel is made from "serving".
        quantize: one of `kerastune.recipe.QUANTIZATIONS` of the format.
        io: dtype of the inputs and outputs of an "int8" TFLite file.
        calibration: WORK/<calibration>.npz holds the inputs that int8 ranges are measured on.
        keep_float: names of the layers (`tflite.layer_errors`) that "int8" leaves in float32.
    """

    signature: str
    quantize: str = "none"
    io: str = "float32"
    calibration: str = "calibration"
    keep_float: tuple[str, ...] = ()


def calibration(work: Path, conversion: Conversion) -> Iterator[dict[str, Any]]:
    """The inputs that ranges are measured on, one after the other, as the signature takes them: by name, [1, …]."""
    ((name, dtype),) = json.loads((work / f"{conversion.signature}.dtypes.json").read_text("utf-8")).items()
    with np.load(work / f"{conversion.calibration}.npz", allow_pickle=False) as stored:
        for key in stored.files:
            yield {name: stored[key][None].astype(dtype)}

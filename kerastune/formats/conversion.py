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
        signature: the signature it is made from; a SavedModel is made from "serving", a TFLite file with two signatures
            from "ONE+OTHER".
        quantize: one of `Format.quantizations`.
        io: dtype of the inputs and outputs of an "int8" TFLite file.
        calibration: WORK/<calibration>.npz holds the inputs that int8 ranges are measured on: "000/token_ids" is
            what the first example has for the input `token_ids`, without the batch.
        keep_float: names of the layers (`Converter.layer_errors`) that "int8" leaves in float32.
    """

    signature: str
    quantize: str = "none"
    io: str = "float32"
    calibration: str = "calibration"
    keep_float: tuple[str, ...] = ()


def calibration(work: Path, conversion: Conversion) -> Iterator[dict[str, Any]]:
    """The examples that ranges are measured on, one after the other, as the signature takes them: by name, [1, …]."""
    dtypes = json.loads((work / f"{conversion.signature}.dtypes.json").read_text("utf-8"))
    with np.load(work / f"{conversion.calibration}.npz", allow_pickle=False) as stored:
        for example in sorted({key.partition("/")[0] for key in stored.files}):
            yield {name: stored[f"{example}/{name}"][None].astype(dtype) for name, dtype in dtypes.items()}

"""Conversion settings, passed to the converter's process as JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Conversion:
    """Settings for converting one signature of a traced model into a file.

    Attributes:
        signature: the signature to convert; "serving" for a SavedModel, "ONE+OTHER" for a TFLite file with two.
        quantize: one of `Format.quantizations`.
        io: dtype of the inputs and outputs of an "int8" TFLite file.
        calibration: WORK/<calibration>.npz holds the inputs that int8 ranges are measured on: "000/token_ids" is the
            first example's input `token_ids`, without the batch axis.
        keep_float: names of the layers (`Converter.layer_errors`) that "int8" leaves in float32.
    """

    signature: str
    quantize: str = "none"
    io: str = "float32"
    calibration: str = "calibration"
    keep_float: tuple[str, ...] = ()


def calibration(work: Path, conversion: Conversion) -> Iterator[dict[str, Any]]:
    """Yields the calibration examples one by one, as the signature takes them: arrays [1, …] by name."""
    dtypes = json.loads((work / f"{conversion.signature}.dtypes.json").read_text("utf-8"))
    with np.load(work / f"{conversion.calibration}.npz", allow_pickle=False) as stored:
        for example in sorted({key.partition("/")[0] for key in stored.files}):
            yield {name: stored[f"{example}/{name}"][None].astype(dtype) for name, dtype in dtypes.items()}

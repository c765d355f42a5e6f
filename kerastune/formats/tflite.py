"""TFLite / LiteRT with builtin operators only: float32, dynamic-range int8 weights, or full int8."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def write(work: Path, path: Path, signature: str, quantize: str) -> None:
    """Converts one signature. "int8" calibrates on `work/calibration.npz`."""
    import tensorflow as tf

    # Only from_saved_model: from_concrete_functions leaves Keras 3's weights out and reports success.
    converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "saved_model"), signature_keys=[signature])
    # SELECT_TF_OPS stays off: with it, operators that no device runtime has become part of the file.
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "int8":
        converter.representative_dataset = lambda: _calibration(work / "calibration.npz")
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    model = converter.convert()
    if flex := sorted(set(re.findall(rb"Flex[A-Z]\w+", model))):
        raise RuntimeError(f"the converted model needs TensorFlow operators: {b', '.join(flex).decode()}")
    path.write_bytes(model)


def _calibration(path: Path) -> Iterator[dict[str, Any]]:
    with np.load(path, allow_pickle=False) as stored:
        for name in stored.files:
            yield {"images": stored[name][None]}  # -> uint8 [1, H, W, 3]

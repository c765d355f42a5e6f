"""One module a format: write it, quantisation included.

Converters segfault and do not give memory back, so each runs in a child process: `python -m kerastune.formats`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kerastune.formats import onnx, saved_model, tflite, transformers
from kerastune.formats.conversion import Conversion
from kerastune.formats.metadata import About

__all__ = ["FORMATS", "About", "Conversion", "Format"]


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`.

    Attributes:
        model: the model's path in an artifact folder.
        target: the target whose settings hold where the user named a format only.
        write: `write(work, path, conversion)` makes the model at `path` from a traced `work` folder.
        inspect: what in a model file no device's runtime has, and the names of its inputs.
        style: what a file holds: "serving" (several signatures, batches), "graph" (one signature, batches), "single"
            (one example at a time) or "folder" (what the task itself writes).
    """

    model: str
    target: str
    write: Callable[[Path, Path, Conversion], None]
    inspect: Callable[[Path], tuple[list[str], list[str]]]
    style: Literal["serving", "graph", "single", "folder"]


FORMATS = {
    # TF Serving wants a numbered version folder.
    "saved_model": Format("model/1", "tf-serving", saved_model.write, saved_model.inspect, "serving"),
    "tflite": Format("model.tflite", "linux", tflite.write, tflite.inspect, "single"),
    "onnx": Format("model.onnx", "onnxruntime", onnx.write, onnx.inspect, "graph"),
    # The artifact's folder itself is what transformers loads.
    "transformers": Format("model.safetensors", "transformers", transformers.write, transformers.inspect, "folder"),
}

"""One module a format: write it, quantisation included.

Converters segfault and do not give memory back, so each runs in a child process: `python -m kerastune.formats`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kerastune.formats import onnx, saved_model, tflite

Write = Callable[[Path, Path, str, str], None]


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`.

    Attributes:
        model: the model's path in an artifact folder.
        target: the target whose reader runs it where the user named a format only.
        write: `write(work, path, signature, quantize)` makes the model at `path` from a traced `work` folder.
    """

    model: str
    target: str
    write: Write


FORMATS = {
    # TF Serving wants a numbered version folder.
    "saved_model": Format("model/1", "tf-serving", saved_model.write),
    "tflite": Format("model.tflite", "linux", tflite.write),
    "onnx": Format("model.onnx", "onnxruntime", onnx.write),
}

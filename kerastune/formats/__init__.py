"""The file formats of exported models: one module and one row each. Importing this package loads no converter."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kerastune.formats.contract import Converter

__all__ = ["FORMATS", "QUANTIZATIONS", "Format"]


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`.

    Attributes:
        name: the row's key, and the name of its module here, which holds a `CONVERTER`.
        model: the model's path in an artifact folder.
        target: the target whose settings apply when the user names only a format.
        style: the content of a file: "serving" (several signatures, batches), "graph" (one signature, batches),
            "single" (one example at a time) or "folder" (written by the task itself).
        quantizations: the values that `quantize` may have.
        families: the backbones that it can hold; empty for all.
        readers: files of export/ that ship with an artifact, as those of its modality do.
    """

    name: str
    model: str
    target: str
    style: Literal["serving", "graph", "single", "folder"]
    quantizations: tuple[str, ...] = ("none",)
    families: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()

    @property
    def converter(self) -> "Converter":
        """The module's functions. Loads the module."""
        found: Converter = import_module(f"kerastune.formats.{self.name}").CONVERTER
        return found


_ROWS: Sequence[Format] = (
    # TF Serving wants a numbered version folder.
    Format("saved_model", "model/1", "tf-serving", "serving", readers=("operators.py",)),
    Format(
        "tflite",
        "model.tflite",
        "linux",
        "single",
        ("none", "float16", "dynamic", "int8", "int16x8", "int4", "auto"),
    ),
    Format("onnx", "model.onnx", "onnxruntime", "graph", ("none", "dynamic", "int8", "auto")),
    # transformers loads the artifact's folder. KerasHub writes these families, and kerastune Speech, a Whisper;
    # transformers was seen to agree.
    Format(
        "transformers",
        "model.safetensors",
        "transformers",
        "folder",
        families=("Gemma", "GPT2", "Llama3", "Mistral", "Qwen", "Speech"),
    ),
)
FORMATS = {row.name: row for row in _ROWS}

QUANTIZATIONS = tuple(dict.fromkeys(one for row in _ROWS for one in row.quantizations))
"""The quantisations of all formats."""

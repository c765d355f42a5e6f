"""The formats that models leave in: one module and one row each. Importing this loads no converter."""

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
        name: of the row, and of its module here, which holds a `CONVERTER`.
        model: the model's path in an artifact folder.
        target: the target whose settings hold where the user named a format only.
        style: what a file holds: "serving" (several signatures, batches), "graph" (one signature, batches), "single"
            (one example at a time) or "folder" (what the task itself writes).
        quantizations: what `quantize` may be.
        families: the backbones that it can hold; all, if there are none.
    """

    name: str
    model: str
    target: str
    style: Literal["serving", "graph", "single", "folder"]
    quantizations: tuple[str, ...] = ("none",)
    families: tuple[str, ...] = ()

    @property
    def converter(self) -> "Converter":
        """What makes and inspects its files."""
        found: Converter = import_module(f"kerastune.formats.{self.name}").CONVERTER
        return found


_ROWS: Sequence[Format] = (
    Format("saved_model", "model/1", "tf-serving", "serving"),  # TF Serving wants a numbered version folder
    Format(
        "tflite",
        "model.tflite",
        "linux",
        "single",
        ("none", "float16", "dynamic", "int8", "int16x8", "int4", "auto"),
    ),
    Format("onnx", "model.onnx", "onnxruntime", "graph", ("none", "dynamic", "int8", "auto")),
    # The artifact's folder itself is what transformers loads. KerasHub writes these families, and transformers agreed.
    Format(
        "transformers",
        "model.safetensors",
        "transformers",
        "folder",
        families=("Gemma", "GPT2", "Llama3", "Mistral", "Qwen"),
    ),
)
FORMATS = {row.name: row for row in _ROWS}

QUANTIZATIONS = tuple(dict.fromkeys(one for row in _ROWS for one in row.quantizations))
"""Those of any format."""

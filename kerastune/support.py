"""What is known not to work, before an hour of training: docs/export-matrix.md, which `make matrix` measures."""

from collections.abc import Callable
from typing import Any

INACCURATE = 0.1
"""What is refused although it runs is off by at least this there, of the largest output."""

_FOURIER = "it computes with complex numbers (FFT), which LiteRT and ONNX lack"
_CALIBRATION = "the converter crashes while it measures the ranges of activations"
_LANGUAGE = "language models lose their accuracy in full int8 (errors above 10 % were measured); dynamic keeps it"
_NORM = "LiteRT has no int16 kernel for its layer normalisation"
_IDS = "the converter measures no ranges of integers (token ids, masks), and int16x8 wants them"

_INT8 = ("int8", "int16x8")
_DECODERS = ("Gemma", "Gemma3", "Llama", "Qwen3")
_NORMED = ("ViT", "DeiT", "SwinTransformer", "MiT", "SegFormer", "SAM", "Whisper")
_INTEGERS = ("Bert", "Roberta", "DistilBert", "DebertaV3", "GPT2", "Bart", "T5", "Moonshine")
_REFUSED: list[tuple[tuple[str, ...], Callable[[str, str], bool], str]] = [
    (("FNet",), lambda format, quantize: format != "saved_model", _FOURIER),
    (("DFine",), lambda format, quantize: format == "tflite" and quantize in _INT8, _CALIBRATION),
    (_DECODERS, lambda format, quantize: quantize in _INT8, _LANGUAGE),
    (_NORMED, lambda format, quantize: quantize == "int16x8", _NORM),
    (_INTEGERS, lambda format, quantize: quantize == "int16x8", _IDS),
]


def refusal(backbone: Any, format: str, quantize: str) -> str | None:
    """Why a backbone cannot be exported so; None where it can, or where nobody has measured.

    Args:
        backbone: a KerasHub backbone, or the name of its class.
        format, quantize: as in `kerastune.recipe.Export`.
    """
    family = (backbone if isinstance(backbone, str) else type(backbone).__name__).removesuffix("Backbone")
    for families, applies, why in _REFUSED:
        if family in families and applies(format, quantize):
            return f"{family} cannot be exported as {format} with quantize = {quantize!r}: {why}"
    return None

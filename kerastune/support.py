"""What is known not to work, before an hour of training: measured on tiny random models with TensorFlow 2.21."""

from collections.abc import Callable
from typing import Any

_FOURIER = "it computes with complex numbers (FFT), which LiteRT and ONNX lack"
_CALIBRATION = "the converter crashes while it measures the ranges of activations"
_LANGUAGE = "language models lose their accuracy in full int8 (errors above 10 % were measured); dynamic keeps it"
_PADDING = (
    "padding is masked by numbers so large that nothing is left of the attention beside them in int8 (a classifier "
    "said the same about every text); dynamic has int8 weights, too"
)
_NORM = "LiteRT has no int16 kernel for its layer normalisation"

_INT8 = ("int8", "int16x8")
_DECODERS = ("Gemma", "Gemma3", "Llama", "Qwen", "Qwen3", "Mistral", "Phi3", "Falcon", "OPT", "Bloom")
_NORMED = (
    *("ViT", "DeiT", "SwinTransformer", "MiT", "SegFormer", "Bert", "Roberta", "DistilBert", "DebertaV3", "Albert"),
    *("GPT2", "Bart", "T5", "Whisper", "Moonshine", "XLMRoberta", "MobileNetV5", "SAM", "Electra"),
)
_REFUSED: list[tuple[tuple[str, ...], Callable[[str, str], bool], str]] = [
    (("FNet",), lambda format, quantize: format != "saved_model", _FOURIER),
    (("DFine",), lambda format, quantize: format == "tflite" and quantize in _INT8, _CALIBRATION),
    (_DECODERS, lambda format, quantize: quantize in _INT8, _LANGUAGE),
    (_NORMED, lambda format, quantize: quantize == "int16x8", _NORM),
]


def refusal(backbone: Any, format: str, quantize: str, unit: str = "image") -> str | None:
    """Why a backbone cannot be exported so; None where it can, or where nobody has measured.

    Args:
        backbone: a KerasHub backbone, or the name of its class.
        format, quantize: as in `kerastune.recipe.Export`.
        unit: "text" for models whose texts are padded.
    """
    if unit == "text" and quantize in _INT8:
        return f"texts cannot be exported with quantize = {quantize!r}: {_PADDING}"
    family = (backbone if isinstance(backbone, str) else type(backbone).__name__).removesuffix("Backbone")
    for families, applies, why in _REFUSED:
        if family in families and applies(format, quantize):
            return f"{family} cannot be exported as {format} with quantize = {quantize!r}: {why}"
    return None

"""Refuses known export failures before an hour of training. `make matrix` measures them: docs/export-matrix.md."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from kerastune import environment
from kerastune.formats import FORMATS

INACCURATE = 0.05
"""A combination that runs is refused if its error there is at least this share of the largest output."""

_FOURIER = "it computes with complex numbers (FFT), which LiteRT and ONNX lack"
_CALIBRATION = "the converter crashes while measuring the ranges of activations"
_LOOPS = "ONNX Runtime's quantiser writes loops before their inputs, which ONNX forbids"
_LANGUAGE = "language models lose accuracy in full int8 (measured logits were off by 9 % or more); dynamic keeps it"
_PADDING = (
    "the mask of padding is so large that int8 leaves no resolution for the attention (a classifier gave the same "
    "answer for every text); dynamic also has int8 weights"
)
_NORM = "LiteRT has no int16 kernel for its layer normalisation"
_INTEGERS = "the converter does not measure the ranges of integers (token ids, masks), which int16x8 needs"
_MASKS = "its attention masks are beyond the range of float16"

_INT8 = ("int8", "int16x8")
_DECODERS = ("Gemma", "Gemma3", "GPT2", "Llama", "Qwen3")
_NORMED = ("ViT", "DeiT", "SwinTransformer", "MiT", "SegFormer", "SAM", "Whisper")
_TOKENS = ("Bert", "Roberta", "DistilBert", "DebertaV3", "Bart", "T5", "Moonshine", *_DECODERS)


@dataclass(frozen=True)
class _Refused:
    """Families, formats and quantisations that do not work together. Empty `formats` or `quantizations` mean all."""

    families: tuple[str, ...]
    why: str
    formats: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()


_REFUSED = [
    _Refused(("FNet",), _FOURIER, formats=("tflite", "onnx", "transformers")),
    _Refused(("DFine",), _CALIBRATION, formats=("tflite",), quantizations=_INT8),
    _Refused(("DFine",), _LOOPS, formats=("onnx",), quantizations=("dynamic", "int8")),
    _Refused(("T5",), _MASKS, quantizations=("float16",)),
    _Refused(_DECODERS, _LANGUAGE, quantizations=("int8",)),
    _Refused(_NORMED, _NORM, quantizations=("int16x8",)),
    _Refused(_TOKENS, _INTEGERS, quantizations=("int16x8",)),
]

_OPEN_LENGTH_FAILS = ("DebertaV3", *(one for one in _DECODERS if one != "GPT2"), "T5", "Moonshine")


def fixed_length(backbone: Any) -> bool:
    """Returns whether a TFLite file must take texts of one length, because LiteRT lacks operators for any length."""
    return _family(backbone) in _OPEN_LENGTH_FAILS


def refusal(backbone: Any, format: str, quantize: str, unit: str = "image") -> str | None:
    """Returns why a backbone cannot be exported this way; None if it can, or if it was not measured.

    Args:
        backbone: a KerasHub backbone, or the name of its class.
        format, quantize: as in `kerastune.recipe.Export`.
        unit: "text" for models whose texts are padded.
    """
    family = _family(backbone)
    for row in _REFUSED:
        fits = family in row.families and format in (row.formats or (format,))
        if fits and quantize in (row.quantizations or (quantize,)):
            return f"{family} cannot be exported as {format} with quantize = {quantize!r}: {row.why}"
    if (known := FORMATS[format].families) and family not in known:
        return f"{family} cannot be exported as {format}, only {', '.join(known)}"
    return texts_refusal(quantize) if unit == "text" else None


def missing(quantize: str) -> str | None:
    """Returns why this installation cannot quantise in this way, or None."""
    if quantize != "int4" or find_spec("ai_edge_quantizer"):
        return None
    return f'quantize = "int4" needs ai-edge-quantizer: {environment.install("ai-edge-quantizer")}'


def texts_refusal(quantize: str) -> str | None:
    """Returns why no text model can be exported this way, or None."""
    return f"text models cannot be exported with quantize = {quantize!r}: {_PADDING}" if quantize in _INT8 else None


def _family(backbone: Any) -> str:
    return (backbone if isinstance(backbone, str) else type(backbone).__name__).removesuffix("Backbone")

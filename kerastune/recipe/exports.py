"""The [[exports]] tables: a model's target, format, quantisation and limits."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kerastune.errors import quoted
from kerastune.formats import FORMATS, QUANTIZATIONS
from kerastune.recipe import target
from kerastune.recipe.base import Name, Settings, Text
from kerastune.recipe.explain import did_you_mean

if TYPE_CHECKING:  # mypy needs literals
    Format = str
    Quantization = str
else:
    Format = Literal[tuple(FORMATS)]
    Quantization = Literal[QUANTIZATIONS]


class Export(Settings):
    """One artifact: a target or a format, with a quantisation."""

    target: Text | None = None
    """Deployment target: a folder in export/ (`kerastune targets list`)."""
    format: Format | None = None
    """Used instead of a target, or to select another format that the target supports: "onnx" for "browser"."""
    quantize: Quantization | None = None
    """Default: the target's own, or "none". "float16", "dynamic" (int8) and "int4" store weights in that type; "int8"
    and "int16x8" also compute in it, calibrated on training images. "auto" tries int8, int8 with its worst layers left
    in float, float16 and none, and takes the first within the limits below."""
    name: Name | None = None
    """The artifact's folder name. Default: the target's or the format's name, and the quantisation."""
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Refuse a quantised artifact that loses more validation accuracy."""
    max_size_mb: Annotated[float, Field(gt=0)] | None = None
    """Refuse a larger model; in megabytes (10^6 bytes)."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Refuse a slower model: median latency for one image on this machine, in milliseconds."""

    @field_validator("target")
    @classmethod
    def _target_exists(cls, value: str | None) -> str | None:
        if value is not None and value not in target.names():
            near = did_you_mean(value, target.names())
            raise ValueError(f"there is no target {quoted(value)}{near}; the targets are\n{target.summaries()}")
        return value

    @model_validator(mode="after")
    def _a_target_or_a_format(self) -> "Export":
        if self.target is None and self.format is None:
            raise ValueError("an export needs a `target` or a `format`")
        if self.target and self.format:
            where = target.load(self.target)
            if self.format not in (takes := (where.format, *where.other_formats)):
                raise ValueError(f"target {self.target!r} takes format = {' or '.join(takes)}, not {self.format!r}")
        return self

    @model_validator(mode="after")
    def _quantisation_is_to_be_had(self) -> "Export":
        format, quantize = self.resolved
        if quantize not in (known := FORMATS[format].quantizations):
            raise ValueError(f"{format} takes quantize = {' or '.join(known)}, not {quantize!r}")
        if self.target and target.load(self.target).io == "int8" and quantize not in ("int8", "auto"):
            raise ValueError(f"target {self.target!r} computes in int8 only, not with quantize = {quantize!r}")
        return self

    @property
    def resolved(self) -> tuple[str, str]:
        """Returns the format and the quantisation, with the target's defaults."""
        where = target.load(self.target) if self.target else None
        return self.format or (where.format if where else ""), self.quantize or (where.quantize if where else "none")


def export_name(export: Export) -> str:
    """Returns the artifact's folder name: "linux", "tflite", "linux-int8"."""
    quantize = export.quantize if export.quantize != "none" else None
    return export.name or "-".join(filter(None, [export.target, export.format, quantize]))

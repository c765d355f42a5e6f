"""report.json: results of an artifact in each runtime, compared with Keras."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from kerastune.errors import VerificationError
from kerastune.files import read_bounded, write_json
from kerastune.tasks.learnt.statistics import Paired

_LARGEST = 2**24  # bytes
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class Latency:
    """Milliseconds per example, or per token of an answer: the median and the 95th percentile."""

    median: float
    p95: float


@dataclass(frozen=True, config=_CONFIG)
class Agreement:
    """Outputs compared with Keras's for the same examples.

    Attributes:
        max_error: the largest distance; None if it is NaN.
        agreement: the share of examples with the same answer; None if `max_error` is.
    """

    examples: int
    max_error: float | None
    agreement: float | None


@dataclass(frozen=True, config=_CONFIG)
class Beside:
    """An additional figure, and Keras's."""

    value: float
    keras: float


@dataclass(frozen=True, config=_CONFIG)
class Validation:
    """Results on the validation split.

    Attributes:
        metric: None if no example can be judged.
        beside: additional figures by name.
    """

    outputs: Agreement
    metric: Paired | None
    beside: dict[str, Beside]


@dataclass(frozen=True, config=_CONFIG)
class Generation:
    """Number of golden prompts, of answers equal to Keras's, and of generated tokens."""

    prompts: int
    equal: int
    tokens: int


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class RuntimeReport:
    """Results of one runtime.

    Attributes:
        passed: None if this runtime does not judge the file.
        warnings: conclusions that the split is too small for.
        golden, validation, generation: None if there was nothing to run, or outputs were NaN.
        latency_ms, load_ms, peak_mb: measured on this machine, or None.
    """

    passed: bool | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    version: str | None = None
    golden: Agreement | None = None
    validation: Validation | None = None
    generation: Generation | None = None
    latency_ms: Latency | None = None
    load_ms: float | None = None
    peak_mb: float | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Candidate:
    """A quantisation that `auto` tried; figures are None if it did not get that far."""

    quantize: str
    kept_float: tuple[str, ...]
    passed: bool
    problems: tuple[str, ...]
    size_bytes: int | None = None
    latency_ms: Latency | None = None
    validation: Validation | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class VerificationReport:
    """Results of each runtime, and the verdict.

    Attributes:
        runtime: the runtime that judges the artifact, a key of `runtimes`.
        converter_peak_mb: the converter's peak memory, or None.
        ladder: all candidates of `quantize = "auto"`.
    """

    schema: Literal[1] = 1
    passed: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    size_bytes: int
    runtime: str
    runtimes: dict[str, RuntimeReport]
    machine: dict[str, Any]
    converter_peak_mb: float | None = None
    ladder: tuple[Candidate, ...] = ()

    @model_validator(mode="after")
    def _is_judged(self) -> "VerificationReport":
        if self.runtime not in self.runtimes:
            raise ValueError("it has no results of the runtime that judges the artifact")
        return self

    @property
    def own(self) -> RuntimeReport:
        """Results of the runtime that judges the artifact."""
        return self.runtimes[self.runtime]

    @property
    def validation(self) -> Validation | None:
        """Results of that runtime on the validation split, or None."""
        return self.own.validation

    def document(self) -> dict[str, Any]:
        """Returns the content of report.json."""
        document: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return document


_ADAPTER = TypeAdapter(VerificationReport)


def read(path: Path) -> VerificationReport:
    """Reads a report.

    Raises:
        VerificationError: it is damaged, or another version of kerastune wrote it.
    """
    try:
        return _ADAPTER.validate_json(read_bounded(path, _LARGEST, "a report"), strict=True)
    except (OSError, ValidationError) as error:
        raise VerificationError(
            f"{path} is damaged, or another version of kerastune wrote it.",
            "Write it again: kerastune verify ARTIFACT.",
        ) from error


def write(report: VerificationReport, path: Path) -> None:
    write_json(path, report.document())

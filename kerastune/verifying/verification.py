"""report.json: what runtimes said about an artifact, beside Keras."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from kerastune.errors import VerificationError
from kerastune.files import write_json
from kerastune.verifying.statistics import Paired

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CONFIG)
class Latency:
    """Milliseconds that one example, or one token of an answer, takes: the median, and the 95th percentile."""

    median: float
    p95: float


@dataclass(frozen=True, config=_CONFIG)
class Agreement:
    """How outputs compare with Keras's about the same examples.

    Attributes:
        max_error: the largest distance; None where it is no number.
        agreement: the share of the examples with the same answer; None as `max_error`.
    """

    examples: int
    max_error: float | None
    agreement: float | None


@dataclass(frozen=True, config=_CONFIG)
class Beside:
    """A further figure, and Keras's."""

    value: float
    keras: float


@dataclass(frozen=True, config=_CONFIG)
class Validation:
    """Outputs about the validation split.

    Attributes:
        metric: None where no example can be judged.
        beside: further figures by name.
    """

    outputs: Agreement
    metric: Paired | None
    beside: dict[str, Beside]


@dataclass(frozen=True, config=_CONFIG)
class Generation:
    """How many golden prompts were answered with Keras's tokens, and how many tokens were generated."""

    prompts: int
    equal: int
    tokens: int


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class RuntimeReport:
    """What one runtime said.

    Attributes:
        passed: None where the file is not judged by it.
        warnings: what the split is too small to tell.
        golden, validation, generation: None where there was nothing to ask, or no answer that is a number.
        latency_ms, load_ms, peak_mb: measured on this machine; None where they could not be.
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
    """A quantisation that `auto` tried; None where it did not get so far."""

    quantize: str
    kept_float: tuple[str, ...]
    passed: bool
    problems: tuple[str, ...]
    size_bytes: int | None = None
    latency_ms: Latency | None = None
    validation: Validation | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class VerificationReport:
    """A row of figures a runtime, and the verdict.

    Attributes:
        runtime: the one that the artifact is judged in, a key of `runtimes`.
        converter_peak_mb: the most memory that the converter held; None where that is not known.
        ladder: of `quantize = "auto"`, all that was tried.
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

    @property
    def own(self) -> RuntimeReport:
        """What the runtime said that it is judged in."""
        return self.runtimes[self.runtime]

    @property
    def validation(self) -> Validation | None:
        """What that runtime said about the validation split, if it was asked."""
        return self.own.validation

    def document(self) -> dict[str, Any]:
        """What report.json holds."""
        document: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return document


_ADAPTER = TypeAdapter(VerificationReport)


def read(path: Path) -> VerificationReport:
    """A report as it was written.

    Raises:
        VerificationError: it is damaged, or another version of kerastune wrote it.
    """
    try:
        return _ADAPTER.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        raise VerificationError(
            f"{path} is damaged, or another version of kerastune wrote it.",
            "Write it again: kerastune verify ARTIFACT.",
        ) from error


def write(report: VerificationReport, path: Path) -> None:
    write_json(path, report.document())

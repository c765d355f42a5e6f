"""manifest.json: an artifact's inputs and outputs, how to call it, and the hash of every file."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from kerastune.errors import VerificationError, shortened
from kerastune.files import write_json
from kerastune.formats import FORMATS
from kerastune.modalities import MODALITIES
from kerastune.targets.artifact import digest
from kerastune.tasks import TASKS
from kerastune.tasks.learnt import LEARNT

_LARGEST = 2**24  # bytes
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Tensor:
    """An input or an output of the model.

    Attributes:
        shape: None is any size; after an output's first axis, None is any number of rows per example.
        dtype: name of a NumPy dtype.
        range: the smallest and the largest value, or None.
        role: "boxes" for rows of x1, y1, x2, y2 in pixels of the picture, which a reader that resizes it scales back;
            "map" for a whole number of each pixel, in as many rows and columns as the picture has, likewise;
            "probabilities" for one of each class at each pixel, likewise, and "detail" for what other outputs are made
            of, both compared for the golden examples alone; "cells" for logits in larger cells than pixels, of which a
            reader makes a map; else None.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    range: tuple[float, float] | None
    meaning: str
    role: Literal["boxes", "map", "probabilities", "detail", "cells"] | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Preprocessing:
    """Preprocessing inside and outside the file."""

    inside: tuple[str, ...]
    outside: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Tolerance:
    """Allowed differences from Keras, in the unit of `Learnt.comparison.distance`; None to skip a check.

    Attributes:
        scale: the reference of the others.
        golden_error, validation_error: largest error of one example.
        accuracy_drop: largest drop of the metric.
    """

    scale: float
    golden_error: float | None
    validation_error: float | None
    accuracy_drop: float | None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Baseline:
    """What the best guess without a model reaches on the run's test split, and whether the model is better."""

    answer: str
    value: float
    beaten: bool


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Decision:
    """The label that is decided for, from this probability on."""

    label: str
    threshold: float = Field(ge=0, le=1)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Calibration:
    """Training examples that int8 ranges were measured on."""

    examples: int
    sha256: str


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class File:
    """A file as it was exported."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Manifest:
    """The contract of an artifact.

    Attributes:
        name: the artifact's name.
        format, target, runtime: rows of FORMATS, of export/ and of RUNTIMES.
        kept_float: layers that "int8" leaves in floating point.
        model: path of the model.
        modality, learnt: rows of MODALITIES and of LEARNT.
        signatures: names of the model's signatures.
        reading: what the modality's reader needs to turn an example into inputs.
        labels: the labels in the order of the outputs.
        colors: of the labels of pixels, for drawings; empty where the data have none.
        metric, test: the run's metric, and its value on the test split.
        baseline: None where there is no guess without a model.
        decision: None where the most probable label is the answer.
        run, recipe_sha256: the name of the run, and the hash of its recipe.
        extras: measurements for the target.
        files: all files by their path in the folder, except this one and report.json.
        sha256: of all of the above.
    """

    schema: Literal[1] = 1
    name: str
    format: str
    quantize: str
    kept_float: tuple[str, ...]
    target: str
    runtime: str
    model: str
    task: str
    modality: str
    learnt: str
    signatures: tuple[str, ...]
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    reading: dict[str, Any]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    colors: tuple[Annotated[str, Field(pattern="^#[0-9a-f]{6}$")], ...] = ()
    metric: str
    test: float
    baseline: Baseline | None = None
    decision: Decision | None = None
    tolerance: Tolerance
    calibration: Calibration | None
    preset: str
    licence: str
    run: str
    recipe_sha256: str
    versions: dict[str, str | None]
    extras: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, File] = Field(default_factory=dict)
    sha256: str = ""

    @field_validator("format", "task", "modality", "learnt")
    @classmethod
    def _is_a_row(cls, value: str, info: Any) -> str:
        if value not in (rows := _ROWS[info.field_name]):
            raise ValueError(f"must be one of {', '.join(rows)}")
        return value

    @field_validator("files")
    @classmethod
    def _are_inside(cls, files: dict[str, File]) -> dict[str, File]:
        for name in files:
            _inside(name)
        return files

    @field_validator("reading")
    @classmethod
    def _reads_inside(cls, reading: dict[str, Any]) -> dict[str, Any]:
        if "raw" in reading:
            _inside(str(reading["raw"]))
        return reading

    @model_validator(mode="after")
    def _names_its_scores(self) -> "Manifest":
        for one in self.outputs:
            if one.name == "scores" and one.shape[-1:] != (len(self.labels),):
                raise ValueError(f"scores has the shape {list(one.shape)}, but there are {len(self.labels)} labels")
        if self.decision and self.decision.label not in self.labels:
            raise ValueError(
                f"decision.label is {shortened(repr(self.decision.label))}, which is not one of the labels"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_format(self) -> "Manifest":
        if self.model != (path := FORMATS[self.format].model):
            raise ValueError(f"model is {shortened(repr(self.model))}, but that of {self.format} is {path}")
        if self.quantize not in (known := set(FORMATS[self.format].quantizations) - {"auto"}):
            found = shortened(repr(self.quantize))
            raise ValueError(f"quantize is {found}, but {self.format} supports {', '.join(sorted(known))}")
        return self

    @property
    def sides(self) -> int:
        """Number of arguments of `predict` per example; only texts come in pairs."""
        return 2 if self.reading.get("pairs") else 1

    def document(self) -> dict[str, Any]:
        """Returns the content of manifest.json."""
        document: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return {**document, "sha256": digest(document)}


def _inside(name: str) -> str:
    """Returns a path inside the artifact; raises ValueError for others."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{shortened(repr(name))} is not a path inside the artifact")
    return name


_ROWS: Mapping[str, Mapping[str, Any]] = {"format": FORMATS, "task": TASKS, "modality": MODALITIES, "learnt": LEARNT}
_ADAPTER = TypeAdapter(Manifest)


def parse(document: Mapping[str, Any]) -> Manifest:
    """Parses an exporter's manifest; raises pydantic's ValidationError if it is incomplete."""
    return _ADAPTER.validate_python(document)


def read(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        VerificationError: it is truncated, damaged or changed, or another version of kerastune wrote it.
    """
    hint = "Export it again: kerastune export RUN --target NAME."
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        document = json.loads(content)
        if isinstance(document, dict) and document.get("schema") != 1:
            found = shortened(repr(document.get("schema")))
            raise VerificationError(f"{path} has schema {found}, but this version of kerastune reads schema 1.", hint)
        manifest = _ADAPTER.validate_json(content, strict=True)
        if manifest.sha256 != digest(document):
            raise ValueError("its sha256 does not match its content")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise VerificationError(f"{path} is damaged: {shortened(said)}.", hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise VerificationError(f"{path} is damaged: {error or type(error).__name__}.", hint) from error
    return manifest


def write(manifest: Manifest, path: Path) -> None:
    """Writes manifest.json with its own hash."""
    write_json(path, manifest.document())

"""Records that cross rooms, such as a run's: frozen dataclasses, checked when loaded."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from kerastune.errors import KerastuneError, shortened

R = TypeVar("R")

_LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class Decision:
    """A choice that a recipe leaves to the machine.

    Attributes:
        key: the recipe's key, "train.precision", or what belongs to one, "train.cache forward".
        asked: what the recipe says: mostly "auto".
        got: the choice.
        why: the reason, in a sentence.
        phase: the phase that it holds for, from 1; None: all.
        after: of "train.cache": the layers whose outputs are kept, or would be.
        bytes_per_example: of "train.cache": the size of these outputs.
    """

    key: str
    asked: bool | str
    got: bool | str
    why: str
    phase: int | None = None
    after: tuple[str, ...] = ()
    bytes_per_example: int | None = None


# --- the audit of a phase ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A unit of the backbone, or the head, in a phase. `learning_rate` is None if it is frozen."""

    name: str
    parameters: int
    trainable_parameters: int
    learning_rate: float | None


@dataclass(frozen=True)
class Stage:
    """The units that train from an epoch on, in a phase of gradual unfreezing."""

    epoch: int
    units: tuple[str, ...]
    trainable_parameters: int


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters; `layers` are the paths of the adapted layers."""

    rank: int
    alpha: float
    bias: bool
    layers: tuple[str, ...]
    adapter_parameters: int


@dataclass(frozen=True)
class Norms:
    """Numbers of the backbone's BatchNorm layers in inference mode and in training mode."""

    inference: int
    training: int


@dataclass(frozen=True)
class Recalibration:
    """Recalibrated BatchNorm layers and the data they were measured on; `validation`: metrics after it."""

    layers: int
    batches: int
    examples: int
    validation: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The outcome of a phase.

    Attributes:
        seconds: training alone.
        start_s: seconds of them until the first step was done: tracing, and on a GPU loading its libraries and choosing
            cuDNN's algorithms. None: there was no step.
        precision: the dtype policy.
        xla: whether the steps were compiled; None: there were none.
        frozen_sha256, frozen_weights: hash and number of the weights that were proved not to move; None: the phase has
            not ended.
        best: the row of the epoch whose weights were kept; None: no epoch was finished.
    """

    epochs_run: int
    seconds: float
    precision: str
    start_s: float | None = None
    xla: bool | None = None
    frozen_sha256: str | None = None
    frozen_weights: int | None = None
    recalibrated: Recalibration | None = None
    best: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The plan of a phase: what trains, and how. `ran` is its outcome, once it has begun.

    Attributes:
        optimizer_steps: of all epochs; None: not counted.
        ema: the decay of the averaged weights; None: there are none.
        contrastive: whether it brings examples of a label close, and trains no head.
        stages: of a phase that unfreezes step by step.
        trainable_parameters, frozen_parameters: of the whole model.
    """

    unfreeze: str
    epochs: int
    learning_rate: float
    optimizer: str
    schedule: str
    gradient_accumulation: int = 1
    optimizer_steps: int | None = None
    clip_norm: float | None = None
    ema: float | None = None
    contrastive: bool = False
    lora: Adapters | None = None
    stages: tuple[Stage, ...] = ()
    units: tuple[Trained, ...]
    trainable_parameters: int
    frozen_parameters: int
    batch_norm: Norms
    ran: Ran | None = None


# --- the run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataRecord:
    """The data of a run.

    Attributes:
        counts: examples by label, by split.
        skipped: {"id", "problem"} of each example that `skip_bad` left out.
    """

    fingerprint: str
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    skipped: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Machine:
    system: str
    cpu: str
    cores: int
    memory_gb: float
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Resumption:
    """A resumption of a killed training: time, position and CPU."""

    at: str
    phase: int
    epoch: int
    step: int
    cpu: str


@dataclass(frozen=True)
class Generations:
    """Answers of a generating model to the sampled conversations: before training, and by "phase.epoch"."""

    conversations: tuple[tuple[dict[str, str], ...], ...]
    before: tuple[str, ...]
    epochs: dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of a run: run.json.

    Attributes:
        job: the command's, for who resumes it.
        like: the run whose decisions were taken over.
        workers: how many trained together.
        target: what is learnt, a row of LEARNT, where the data leave a choice.
        metric: the name of the figure that chose the best epoch.
        model: the task's description of inputs and outputs: sizes, lengths, how much was cut off.
        metrics: by split; None: the run was interrupted.
        before: the same before training, where the preset can do its task already.
        phases: one a phase of the recipe.
        saving: notes on the model's files.
        started: ISO 8601, with the zone.
        seconds: by stage.
    """

    schema: Literal[1] = 1
    status: Literal["complete", "interrupted"]
    job: Literal["train", "run"]
    name: str
    like: str | None = None
    workers: int = 1
    task: str
    preset: str
    preset_sha256: str
    recipe_sha256: str
    labels: tuple[str, ...]
    target: str
    metric: str
    seed: int
    backbone: str
    parameters: int
    model: dict[str, Any]
    metrics: dict[str, dict[str, Any]] | None = None
    before: dict[str, dict[str, Any]] | None = None
    generations: Generations | None = None
    data: DataRecord
    phases: tuple[Audit, ...]
    decisions: tuple[Decision, ...]
    saving: tuple[str, ...]
    started: str
    resumed: tuple[Resumption, ...]
    versions: dict[str, str]
    machine: Machine
    seconds: dict[str, float]


def read_run(path: Path) -> RunRecord:
    """Reads the record of a run.

    Raises:
        KerastuneError: it is damaged, or another version of kerastune wrote it.
    """
    hint = "Train again: kerastune run RECIPE."
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and document.get("schema") != 1:
            found = shortened(repr(document.get("schema")))
            raise KerastuneError(f"{path} has schema {found}, and this version of kerastune reads 1.", hint)
        record = from_json(RunRecord, document)
        if why := _unfit(record):
            raise ValueError(why)
        return record
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise KerastuneError(f"{path} is damaged: {shortened(said)}.", hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise KerastuneError(f"{path} is damaged: {error or type(error).__name__}.", hint) from error


def _unfit(record: RunRecord) -> str | None:
    """Returns what does not fit together in a record, or None."""
    if record.metrics is None and record.status == "complete":
        return "it is complete, but has no metrics"
    for split in ("validation", "test"):
        for found in (record.metrics, record.before):
            value = found and found.get(split, {}).get(record.metric)
            if found and (not isinstance(value, float | int) or not math.isfinite(value)):
                return f"{record.metric} of {split} is {shortened(repr(value))}"
    labels = set(record.labels)
    for split in ("train", "validation", "test", *record.data.counts):
        counted = set(record.data.counts.get(split, ()))
        if not counted or (labels & counted and labels - counted):  # some kinds of truth count under another name
            return "it does not count the examples of every label"
    return None


# --- a learning curve ----------------------------------------------------------------------------------------

Weights = Literal["pretrained", "random"]

CURVE = "curve.json"


@dataclass(frozen=True)
class CurvePoint:
    """The test accuracy of a linear head on one draw of training examples.

    Attributes:
        per_label: examples of each label; None: all.
        seconds: of fitting the head.
    """

    weights: Weights
    per_label: int | None
    seed: int
    examples: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Curve:
    """What each further example is worth, and what the pretrained weights are: curve.json.

    Attributes:
        test: examples that every point was judged on.
        feature_seconds: seconds of running the backbone over all examples, by its weights.
        sentence: the result in words.
    """

    name: str
    preset: str
    test: int
    points: tuple[CurvePoint, ...]
    feature_seconds: dict[str, float]
    sentence: str


def read_curve(folder: Path) -> Curve | None:
    """Returns the curve in a folder, or None.

    Raises KerastuneError if it is damaged.
    """
    try:
        return from_json(Curve, json.loads((folder / CURVE).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise KerastuneError(f"{folder / CURVE} is damaged.", "Delete the folder, and measure again.") from error


def curve_means(points: Iterable[CurvePoint], weights: Weights) -> list[tuple[int | None, float, float, float]]:
    """Returns (examples a label, mean number of examples, mean accuracy, half its range) of each size."""
    sizes: dict[int | None, list[CurvePoint]] = {}
    for point in points:
        if point.weights == weights:
            sizes.setdefault(point.per_label, []).append(point)
    found = []
    for size, those in sizes.items():
        each = [point.accuracy for point in those]
        count = sum(point.examples for point in those) / len(those)
        found.append((size, count, sum(each) / len(each), (max(each) - min(each)) / 2))
    return found


# --- as JSON -------------------------------------------------------------------------------------------------


def to_json(record: Any) -> dict[str, Any]:
    """Returns a record as a JSON object, without fields at their default, but with the schema version."""
    found: dict[str, Any] = TypeAdapter(type(record)).dump_python(record, mode="json", exclude_defaults=True)
    return {"schema": record.schema, **found} if hasattr(record, "schema") else found


def from_json(kind: type[R], value: Any) -> R:
    """Returns a record from a JSON object.

    Raises:
        pydantic.ValidationError: something is missing, or of another type.
    """
    return TypeAdapter(kind).validate_python(value)


def differences(then: Any, now: Any, where: str = "", words: tuple[str, str] = ("then", "now")) -> list[str]:
    """Returns the differences of two JSON documents, one per line: "train.batch_size: 8 then, 16 now".

    Args:
        where: the key of both in a larger document.
        words: what the two are called.
    """

    def each(key: Any, a: Any, b: Any) -> list[str]:
        return differences(a, b, f"{where}.{key}".lstrip("."), words)

    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = [*then, *(key for key in now if key not in then)]
        return [line for key in keys for line in each(key, then.get(key), now.get(key))]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [line for i, (a, b) in enumerate(zip(then, now, strict=True)) for line in each(i, a, b)]
    return [] if then == now else [f"{where}: {_worded(then)} {words[0]}, {_worded(now)} {words[1]}"]


def _worded(value: Any) -> str:
    """Returns a value of a JSON document for people; of an object, what is set in it."""
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        is_set = {key: one for key, one in value.items() if one not in (None, [], {})}
        return ", ".join(f"{key} = {_worded(one)}" for key, one in is_set.items()) or "empty"
    if isinstance(value, list):
        return f"[{'; '.join(map(_worded, value))}]" if any(isinstance(x, Mapping) for x in value) else repr(value)
    return repr(value)

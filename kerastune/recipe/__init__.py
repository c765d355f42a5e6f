"""The recipe: what the user asked for. Finds, reads, overrides and validates it; knows no TensorFlow.

A recipe is one TOML file. Nothing in it is ever executed. Every key is declared below, unknown keys are
errors with a suggestion, and all problems are reported in one message.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from kerastune import assets
from kerastune.errors import RecipeError
from kerastune.recipe import target


def _absolute(path: str) -> str:
    # Resolved once, against the folder the command runs in, so that a run still finds its data from elsewhere.
    return os.path.abspath(os.path.expanduser(path))


def _absolute_if_a_path(value: str) -> str:
    is_name = "://" in value or value in assets.ASSETS
    is_path = os.sep in value or value.startswith((".", "~")) or os.path.isdir(value)
    return _absolute(value) if is_path and not is_name else value


def _shipped_or_a_path(value: str) -> str:
    shipped = files("kerastune.recipes").joinpath(value)
    if value.endswith(".jsonl") and os.path.basename(value) == value and not os.path.exists(value):
        return str(shipped) if shipped.is_file() else value
    return _absolute_if_a_path(value)


Text = Annotated[str, StringConstraints(min_length=1)]
FilePath = Annotated[Text, AfterValidator(_absolute)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Target = Literal["label", "labels", "number", "pairs", "groups", "scores", "text"]
Delimiter = Literal[",", ";", "\t", "|"]


class _Settings(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Data(_Settings):
    """What every source of data takes."""

    unit: ClassVar[Literal["image", "text"]] = "image"
    """What an example is."""

    validation_fraction: Fraction = 0.15
    """Share of the examples held out to choose the best epoch, where the source brings no validation split."""
    test_fraction: Fraction = 0.15
    """Share of the examples held out for the final accuracy, where the source brings no test split."""
    skip_bad: bool = False
    """Leave out examples that cannot be read (they are listed in run.json) instead of stopping."""

    @property
    def target(self) -> Target:
        """What an example is given: one label, any number of labels, a number, or a text to say.

        Of texts to embed: "pairs" of texts that belong together (or with a third that does not), "groups" of texts
        with one label, or "scores" of how alike two texts are.
        """
        return "label"

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "Data":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction + test_fraction = {self.validation_fraction + self.test_fraction:g} "
                "leaves nothing to train on; their sum must be below 1"
            )
        return self


class _Images(Data):
    image_size: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Side in pixels of the square the model sees. Default: what the preset was trained at."""


class FolderData(_Images):
    """Images in one folder a label: path/<label>/*.jpg, or path/{train,validation,test}/<label>/*.jpg."""

    source: Literal["folder"]
    path: FilePath
    """The folder that holds the label folders."""


class CsvData(_Images):
    """A CSV file with a column of image paths and a column of labels."""

    source: Literal["csv"]
    path: FilePath
    """The CSV file (UTF-8, with a header line)."""
    delimiter: Delimiter = ","
    """What separates its cells."""
    images: FilePath | None = None
    """The folder that image paths are relative to, and must stay inside. Default: the CSV file's folder."""
    image_column: Text = "image"
    label_column: Text = "label"
    split_column: Text | None = None
    """A column that says train, validation or test. Default: split by content hash."""


class _Tfds(Data):
    source: Literal["tfds"]
    name: Text
    """Any TFDS name: "fashion_mnist", "cats_vs_dogs", "my_dataset/config:1.0.0"."""
    data_dir: Annotated[Text, AfterValidator(_absolute_if_a_path)] | None = None
    """A local TFDS folder, or the name of a fetched asset. Default: TFDS's own folder."""
    train: Text = "train"
    """TFDS split, slices included: "train[:2000]"."""
    validation: Text | None = None
    """TFDS split. Default: `validation_fraction` of the training split, by content hash."""
    test: Text | None = None
    """TFDS split. Default: "test" if the data set has one, else `test_fraction` of the training split."""
    label_key: Text = "label"


class TfdsData(_Tfds, _Images):
    """A TensorFlow Datasets data set with an image and a label."""

    image_key: Text = "image"


class _Texts(Data):
    unit = "text"

    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens of an example, special ones included, beyond which it is cut off. Default: what the preset says."""


class _Labelled(_Texts):
    @property
    def paired(self) -> bool:
        """Whether an example has two texts."""
        return bool(getattr(self, "pair_column", None) or getattr(self, "pair_key", None))

    label_separator: Text | None = None
    """An example may have several labels, with this between them: "|" reads "sport|politics" as two."""
    regression: bool = False
    """The label is a number, which the model learns to predict."""

    @property
    def target(self) -> Target:
        return "number" if self.regression else "labels" if self.label_separator else "label"

    @model_validator(mode="after")
    def _numbers_are_not_separated(self) -> "_Labelled":
        if self.regression and self.label_separator:
            raise ValueError("regression and label_separator exclude each other: a label is one number, or names")
        return self


class _Table(_Texts):
    source: Literal["csv", "jsonl", "parquet"]
    path: Annotated[Text, AfterValidator(_absolute_if_a_path)]
    """The file (UTF-8; CSV with a header line); or a folder, or a fetched asset, that holds train.csv (or .jsonl,
    .parquet) and, if wanted, validation.csv and test.csv."""
    delimiter: Delimiter = ","
    """What separates the cells of a CSV file."""
    split_column: Text | None = None
    """A column that says train, validation or test. Default: split by content hash."""


class TableData(_Table, _Labelled):
    """A CSV, JSON Lines or Parquet file with a column of texts and a column of labels."""

    text_column: Text = "text"
    pair_column: Text | None = None
    """A second text, for pairs of sentences."""
    label_column: Text = "label"

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of the columns that hold an example's texts."""
        return ("text_column", "pair_column") if self.pair_column else ("text_column",)

    @property
    def truth(self) -> str | None:
        """The key of the column that says what an example is given."""
        return "label_column"


_LAYOUTS: dict[tuple[str, ...], Target] = {
    ("anchor_column", "positive_column"): "pairs",
    ("anchor_column", "positive_column", "negative_column"): "pairs",
    ("text_column", "label_column"): "groups",
    ("text_column", "pair_column", "score_column"): "scores",
}


class EmbeddingData(_Table):
    """A CSV, JSON Lines or Parquet file of texts that belong together. The columns named say in which way:
    `anchor_column` and `positive_column` (and `negative_column`); `text_column` and `label_column`, where texts of one
    label belong together; or `text_column`, `pair_column` and `score_column`, which says how alike the two are."""

    anchor_column: Text | None = None
    """Texts that are searched with: questions, titles."""
    positive_column: Text | None = None
    """The text that belongs to each."""
    negative_column: Text | None = None
    """A text that does not, and is easily mistaken for one that does."""
    text_column: Text | None = None
    label_column: Text | None = None
    pair_column: Text | None = None
    score_column: Text | None = None
    """Numbers on any scale; larger: more alike."""

    @property
    def named(self) -> tuple[str, ...]:
        """The keys of the columns that are named."""
        known = dict.fromkeys(key for layout in _LAYOUTS for key in layout)
        return tuple(key for key in known if getattr(self, key))

    @property
    def target(self) -> Target:
        return next(target for layout, target in _LAYOUTS.items() if set(layout) == set(self.named))

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of the columns that hold an example's texts."""
        return tuple(key for key in self.named if key not in ("label_column", "score_column"))

    @property
    def truth(self) -> str | None:
        """The key of the column that says what an example is given; None: its texts say it."""
        return next((key for key in ("label_column", "score_column") if getattr(self, key)), None)

    @model_validator(mode="after")
    def _is_one_layout(self) -> "EmbeddingData":
        if set(self.named) not in map(set, _LAYOUTS):
            there = "; ".join(" + ".join(layout) for layout in _LAYOUTS)
            got = " + ".join(self.named) or "none"
            raise ValueError(f"the columns named are {got}; name those of one kind of data: {there}")
        return self


class TfdsTextData(_Tfds, _Labelled):
    """A TensorFlow Datasets data set with a text and a label."""

    text_key: Text = "text"
    pair_key: Text | None = None
    """A second text, for pairs of sentences."""


class ChatData(_Texts):
    """A CSV, JSON Lines or Parquet file with a prompt and a response, or a list of messages, in each row."""

    source: Literal["csv", "jsonl", "parquet"]
    path: Annotated[Text, AfterValidator(_shipped_or_a_path)]
    """The file (UTF-8; CSV with a header line), your own or one that comes with a shipped recipe ("tone.jsonl"); or a
    folder, or a fetched asset, that holds train.csv (or .jsonl, .parquet) and, if wanted, validation.csv and
    test.csv."""
    delimiter: Delimiter = ","
    """What separates the cells of a CSV file."""
    prompt_column: Text = "prompt"
    response_column: Text = "response"
    messages_column: Text | None = None
    """Instead of the two: a list of {"role", "content"}, where role is system, user or assistant. Every turn of the
    assistant is learnt. Not in CSV files."""
    system: Text | None = None
    """What is said first, as the system, in every conversation that does not say it itself."""
    split_column: Text | None = None
    """A column that says train, validation or test. Default: split by content hash."""

    @property
    def target(self) -> Target:
        return "text"

    @model_validator(mode="after")
    def _cells_hold_no_lists(self) -> "ChatData":
        if self.messages_column and self.source == "csv":
            raise ValueError("a CSV file has no lists of messages; use prompt_column and response_column, or jsonl")
        return self


class Samples(_Settings):
    """What the model says to some prompts of the validation split: before training, and after each epoch."""

    count: Annotated[int, Field(ge=0, le=100)] = 4
    """How many prompts; 0: none."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 48
    """Where a text is cut off that does not end."""


class Augment(_Settings):
    """Random changes to training images, made by Keras layers in the input pipeline; never to validation images."""

    flip: Literal["none", "horizontal", "vertical", "horizontal_and_vertical"] = "none"
    """Mirror half of the images."""
    crop: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the height and width that a random crop cuts away (then resized back)."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random brightness, contrast and saturation."""
    rand_augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of RandAugment (two random operations an image; Cubuk et al. 2019, arXiv:1909.13719)."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Blends each image and its label with another's; alpha of the Beta distribution that the share is drawn from
    (Zhang et al. 2018, arXiv:1710.09412). 0.2 is usual."""
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pastes a rectangle of another image into each; alpha as above, 1.0 is usual (Yun et al. 2019,
    arXiv:1905.04899)."""

    @property
    def any(self) -> bool:
        """Whether training images change from epoch to epoch."""
        return self != Augment()


class Train(_Settings):
    batch_size: Annotated[int, Field(ge=1)] = 32
    xla: Literal["auto", True, False] = "auto"
    """Compile the training step with XLA. `true` is an error where Keras would drop it."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """`auto` is bfloat16 on GPUs that have it, and on a CPU where a text model's largest product is faster in it."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weighs each class by n_examples / (n_classes * n_class), as scikit-learn does."""
    label_smoothing: Fraction = 0.0
    """Share of each training label that is spread over all labels (Szegedy et al. 2016, arXiv:1512.00567)."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """End a phase after this many epochs without a better validation accuracy (0: never)."""
    cache: Literal["auto", "off", "memory", "disk"] = "auto"
    """Where the outputs of frozen layers are kept, so that they run once per example and not once per epoch."""
    cache_views: Annotated[int, Field(ge=0, le=1000)] = 0
    """With [augment]: keep this many augmented views of each example and cycle through them. 0 keeps none, so that
    augmented phases run uncached."""
    checkpoint_every: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]* (steps|minutes)$")] = "10 minutes"
    """How often a checkpoint is written inside an epoch: "500 steps" or "10 minutes". An epoch ends with one, unless
    the last one is seconds old."""
    tensorboard: bool = False
    """Write TensorBoard logs to RUN/tensorboard."""

    @field_validator("xla", mode="before")
    @classmethod
    def _one_is_not_true(cls, value: Any) -> Any:
        if type(value) is int:  # 1 == True, also for pydantic
            raise ValueError(f"{value} is not one of 'auto', true or false")
        return value


def _is_regex(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from error
    return value


Regex = Annotated[Text, AfterValidator(_is_regex)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Lora(_Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): in the unfrozen units, only they train."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The adapters' output is scaled by alpha / rank. Default: rank."""
    targets: Annotated[tuple[Regex, ...], Field(strict=False, min_length=1)] = (r"^(query|value)(_dense)?$",)
    """Which layers get adapters: expressions that are tried on a layer's name and path."""
    bias: bool = False
    """Whether the targeted layers' biases train too."""


class Phase(_Settings):
    unfreeze: Text
    """Who trains: "head", "all", "none", "top:N" (the head and the last N blocks), "match:REGEX" (the head
    and every unit that the expression finds, by its own name or by the name of one of its layers) or "gradual" (the
    head in the first epoch, then one more block an epoch from the top; Howard & Ruder 2018, arXiv:1801.06146)."""
    epochs: Annotated[int, Field(ge=0)] = 1
    learning_rate: Rate = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block learns at this share of the rate of the block above it; the head has the full rate
    (Howard & Ruder 2018, arXiv:1801.06146)."""
    learning_rates: dict[Regex, Rate] = {}
    """Learning rates of their own for the units that an expression finds (as `match:` does); the first match counts."""
    optimizer: Literal["adam", "adamw", "lion", "rmsprop", "sgd"] = "adam"
    """"sgd" uses Nesterov momentum 0.9."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decoupled weight decay, on kernels only: biases and normalisation weights are left out."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls to zero over the phase."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the phase's steps in which the learning rate climbs from zero."""
    batch_norm: Literal["frozen", "train", "recalibrate"] = "frozen"
    """"frozen" keeps every BatchNorm in inference mode; "train" lets unfrozen ones learn; "recalibrate" keeps them
    frozen, and after the phase sets the unfrozen ones' statistics to those of the training data."""
    lora: Lora | None = None
    """Train low-rank adapters in the unfrozen units instead of their weights."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are averaged into one step."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients whose norm over all weights is larger are scaled down to it."""
    ema: Fraction = 0.0
    """Momentum of an exponential moving average of the weights, which is what is validated and kept. 0: none."""

    @field_validator("unfreeze")
    @classmethod
    def _is_known(cls, value: str) -> str:
        kind, _, argument = value.partition(":")
        if value in ("head", "all", "none", "gradual"):
            return value
        if kind == "top" and re.fullmatch(r"[1-9][0-9]*", argument):
            return value
        if kind == "match" and argument:
            _is_regex(argument)
            return value
        raise ValueError(f'{value!r} is none of "head", "all", "none", "gradual", "top:N" (N = 1, 2, …), "match:REGEX"')

    @model_validator(mode="after")
    def _epochs_fit(self) -> "Phase":
        if self.unfreeze == "none" and self.epochs:
            raise ValueError('unfreeze = "none" trains nothing, so it needs epochs = 0')
        if self.unfreeze != "none" and not self.epochs:
            raise ValueError('epochs = 0 trains nothing; use at least 1, or unfreeze = "none"')
        return self

    @model_validator(mode="after")
    def _settings_agree(self) -> "Phase":
        if self.layer_decay != 1 and self.learning_rates:
            raise ValueError("layer_decay and learning_rates both set the units' rates; use one of them")
        if self.lora and self.unfreeze in ("head", "none", "gradual"):
            raise ValueError(
                f'lora has no unit to adapt under unfreeze = "{self.unfreeze}"; use "all", "top:N" or "match:REGEX"'
            )
        if self.lora and self.batch_norm != "frozen":
            raise ValueError(f'lora trains adapters only, so batch_norm = "{self.batch_norm}" has nothing to do')
        return self


def _or_false(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": False})


class ChatPhase(Phase):
    """A phase of a language model, which trains adapters unless it says `lora = false`."""

    unfreeze: Text = "all"
    lora: Annotated[Lora | None, Field(json_schema_extra=_or_false)] = None
    """Low-rank adapters, which train instead of the unfrozen units' weights. Default: of rank 8; `false`: none."""

    @model_validator(mode="before")
    @classmethod
    def _adapters_unless_refused(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        default = None if values.get("unfreeze") in ("none", "head", "gradual") else {"rank": 8}
        given = values.get("lora", default)
        return {**values, "lora": None if given is False else given}

    @model_serializer(mode="wrap")
    def _say_that_there_are_no_adapters(self, handler: Any) -> dict[str, Any]:
        return {**handler(self), **({} if self.lora else {"lora": False})}

    @model_validator(mode="after")
    def _there_is_no_head(self) -> "ChatPhase":
        if self.unfreeze in ("head", "gradual"):
            raise ValueError(
                f'unfreeze = "{self.unfreeze}" starts with a new head, and a language model has none; '
                'use "all", "top:N" or "match:REGEX"'
            )
        return self


QUANTIZATIONS = {
    "saved_model": ("none",),
    "tflite": ("none", "float16", "dynamic", "int8", "int16x8", "int4", "auto"),
    "onnx": ("none", "dynamic", "int8", "auto"),
    "transformers": ("none",),
}
"""What `quantize` may be in each format."""


class Export(_Settings):
    """One artifact: a target, or a format, with a quantisation."""

    target: Text | None = None
    """A place it runs: a folder in export/ (`kerastune targets list`)."""
    format: Literal["saved_model", "tflite", "onnx", "transformers"] | None = None
    """Instead of a target, or another format that the target takes: "onnx" for "browser"."""
    quantize: Literal["none", "float16", "dynamic", "int8", "int16x8", "int4", "auto"] | None = None
    """Default: what the target says, or "none". "float16", "dynamic" (int8) and "int4" store weights so; "int8" and
    "int16x8" also compute so, calibrated on training images. "auto" tries int8, int8 with its worst layers left in
    float, float16 and none, and takes the first that keeps the limits below."""
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """The artifact's folder name. Default: the target's or the format's name, and the quantisation."""
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] = 0.02
    """A quantised artifact that loses more validation accuracy than this is refused."""
    max_size_mb: Annotated[float, Field(gt=0)] | None = None
    """A larger model is refused. In megabytes (10^6 bytes)."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """A model is refused whose median latency for one image, here, is above this. In milliseconds."""

    @field_validator("target")
    @classmethod
    def _target_exists(cls, value: str | None) -> str | None:
        if value is not None and value not in target.names():
            raise ValueError(f"there is no target {value!r}{_did_you_mean(value, target.names())}")
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
        if quantize not in QUANTIZATIONS[format]:
            raise ValueError(f"{format} takes quantize = {' or '.join(QUANTIZATIONS[format])}, not {quantize!r}")
        if self.target and target.load(self.target).io == "int8" and quantize not in ("int8", "auto"):
            raise ValueError(f"target {self.target!r} computes in int8 alone, so it takes no quantize = {quantize!r}")
        return self

    @property
    def resolved(self) -> tuple[str, str]:
        """The format and the quantisation, with the target's defaults."""
        where = target.load(self.target) if self.target else None
        return self.format or (where.format if where else ""), self.quantize or (where.quantize if where else "none")


class Recipe(_Settings):
    """What to train, on what, how, and where the result goes."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run folder. Default: the recipe file's name."""
    task: str
    preset: Annotated[Text, AfterValidator(_absolute_if_a_path)]
    """A KerasHub preset, hf://…, kaggle://…, a local folder, or a fetched asset (`kerastune assets list`)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    train: Train = Train()
    phases: Annotated[tuple[Phase, ...], Field(strict=False)]
    exports: Annotated[tuple[Export, ...], Field(strict=False)] = ()

    @field_validator("phases")
    @classmethod
    def _has_a_phase(cls, value: tuple[Phase, ...]) -> tuple[Phase, ...]:
        if not value:
            raise ValueError("a recipe needs at least one [[phases]] table")
        return value

    @model_validator(mode="after")
    def _exports_have_their_own_names(self) -> "Recipe":
        names = [export_name(export) for export in self.exports]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two exports would be called {twice[0]!r}; give one of them a `name`")
        return self

    @property
    def changes(self) -> Augment:
        """How training examples change from epoch to epoch."""
        return Augment()

    @model_validator(mode="after")
    def _targets_take_the_examples(self) -> "Recipe":
        asked = [target.refusal(one.target, self.data.unit, self.task) for one in self.exports if one.target]
        if refused := list(filter(None, asked)):
            raise ValueError(f"{'; '.join(refused)}, and this recipe is for {self.data.unit}s (task = {self.task})")
        return self

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(exclude_none=True, mode="json"))

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class ImageClassification(Recipe):
    """One label an image."""

    task: Literal["image_classification"]
    data: Annotated[FolderData | CsvData | TfdsData, Field(discriminator="source")]
    augment: Augment = Augment()

    @property
    def changes(self) -> Augment:
        return self.augment

    @model_validator(mode="after")
    def _views_need_augmentation(self) -> "ImageClassification":
        train, augment = self.train, self.augment
        if train.cache_views and not augment.any:
            raise ValueError("train.cache_views keeps augmented views, and [augment] changes nothing; leave it out")
        if train.cache_views and (augment.mixup or augment.cutmix):
            raise ValueError("train.cache_views cannot keep mixup or cutmix, which need two images at a time")
        if augment.any and train.cache in ("memory", "disk") and not train.cache_views:
            raise ValueError(
                f'train.cache = "{train.cache}" would show every epoch the same augmented images; '
                "set train.cache_views to how many views to keep"
            )
        return self


class TextClassification(Recipe):
    """Labels, or a number, for a text or a pair of texts."""

    task: Literal["text_classification"]
    data: Annotated[TableData | TfdsTextData, Field(discriminator="source")]

    @model_validator(mode="after")
    def _views_are_of_images(self) -> "TextClassification":
        if self.train.cache_views:
            raise ValueError("train.cache_views keeps augmented views of images, and texts have none")
        return self

    @model_validator(mode="after")
    def _numbers_have_no_classes(self) -> "TextClassification":
        if self.data.target != "label" and (self.train.class_weights != "none" or self.train.label_smoothing):
            raise ValueError("train.class_weights and train.label_smoothing are for one label a text")
        return self


class TextEmbedding(Recipe):
    """Vectors of texts: those of texts that belong together point the same way."""

    task: Literal["text_embedding"]
    data: EmbeddingData

    @model_validator(mode="after")
    def _nothing_is_labelled(self) -> "TextEmbedding":
        if self.train.class_weights != "none" or self.train.label_smoothing:
            raise ValueError("train.class_weights and train.label_smoothing are for one label an example")
        if self.train.cache_views:
            raise ValueError("train.cache_views keeps augmented views of images, and texts have none")
        return self


class CausalLM(Recipe):
    """A language model that learns to answer."""

    task: Literal["causal_lm"]
    data: ChatData
    samples: Samples = Samples()
    phases: Annotated[tuple[ChatPhase, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _tokens_have_no_classes(self) -> "CausalLM":
        if self.train.cache_views:
            raise ValueError("train.cache_views keeps augmented views of images, and texts have none")
        if self.train.class_weights != "none" or self.train.label_smoothing:
            raise ValueError("train.class_weights and train.label_smoothing are for labels, and a text has none")
        return self


RECIPES: dict[str, type[Recipe]] = {
    get_args(recipe.model_fields["task"].annotation)[0]: recipe
    for recipe in (ImageClassification, TextClassification, TextEmbedding, CausalLM)
}


def export_name(export: Export) -> str:
    """The artifact's folder name: "linux", "tflite", "linux-int8"."""
    quantize = export.quantize if export.quantize != "none" else None
    return export.name or "-".join(filter(None, [export.target, export.format, quantize]))


# --- finding -----------------------------------------------------------------------------------------------


def shipped() -> list[str]:
    """Names of the recipes that come with kerastune."""
    return sorted(f.name[:-5] for f in files("kerastune.recipes").iterdir() if f.name.endswith(".toml"))


def find(reference: str) -> tuple[str, str]:
    """A recipe's name and text, from a shipped recipe's name or a file's path.

    Raises:
        RecipeError: there is no such recipe, or the file is not UTF-8 text.
    """
    path = Path(os.path.expanduser(reference))
    is_path = path.suffix == ".toml" or os.sep in reference or (path.is_file() and reference not in shipped())
    if not is_path and reference in shipped():
        return reference, files("kerastune.recipes").joinpath(f"{reference}.toml").read_text("utf-8")
    if not is_path:
        raise RecipeError(
            f"There is no recipe called {reference!r}{_did_you_mean(reference, shipped())}.",
            f"Shipped recipes: {', '.join(shipped())}. For a file of yours, give its path, ending in .toml.",
        )
    try:
        return path.stem, path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"There is no file {path.absolute()}.",
            "kerastune recipes copy NAME DEST makes a recipe of your own to start from.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.absolute()} cannot be read as text: {error}.") from error


def read(reference: str, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe by name or path, applies `a.b=value` overrides, and validates the whole.

    Raises:
        RecipeError: with every problem in one message.
    """
    name, text = find(reference)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(
            f"{reference} is not valid TOML: {error}.",
            "Texts need quotes; see https://toml.io for the syntax.",
        ) from error
    for override in [overrides] if isinstance(overrides, str) else overrides:
        _override(values, override)
    return parse({"name": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "recipe", **values}, reference)


def parse(values: Mapping[str, Any], origin: str) -> Recipe:
    """Validates a recipe that is already a dict; `origin` names it in messages."""
    task = values.get("task")
    found: list[list[str]] = []
    for recipe in [RECIPES[task]] if task in RECIPES else RECIPES.values():
        try:
            return recipe.model_validate(values)
        except ValidationError as error:
            found.append([_explain(problem, values, recipe) for problem in error.errors()])
    problems = min(found, key=len)  # where the task is not known, those of the one that was probably meant
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise RecipeError(
        f"{origin} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems),
        "kerastune recipes schema prints every key there is; kerastune recipes show NAME prints an example.",
    )


def parse_export(values: Mapping[str, Any]) -> Export:
    """An export that was asked for outside a recipe; the same problems, the same words."""
    try:
        return Export.model_validate(values)
    except ValidationError as error:
        where = {"exports": [values]}
        problems = [_explain({**p, "loc": ("exports", 0, *p["loc"])}, where, Recipe) for p in error.errors()]
    raise RecipeError("; ".join(problem.removeprefix("exports.0").lstrip(".: ") for problem in problems))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    any_task: Any = Annotated[Union[*RECIPES.values()], Field(discriminator="task")]
    schema = TypeAdapter(any_task).json_schema()
    for recipe in RECIPES.values():
        schema["$defs"][recipe.__name__]["required"].remove("name")  # the file's name stands in
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- overriding --------------------------------------------------------------------------------------------


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")  # only the first "=": values may hold more
    if not equals or not key.strip():
        raise RecipeError(f"-s {override!r} is not KEY=VALUE.", "For example: -s train.batch_size=64")
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a text, so that shells need no double quoting
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"-s {override!r} sets more than one key.", "Use one -s for each.") from error
    *parents, last = key.strip().split(".")
    node: Any = values
    for depth, part in enumerate(parents):
        node = _step(node, part, ".".join(parents[: depth + 1]), override)
    if isinstance(node, list):
        node[_index(node, last, key, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"-s {override}: {'.'.join(parents)} is {node!r}, which has no key {last!r}.")


def _step(node: Any, part: str, where: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, where, override)]
    if not isinstance(node, dict):
        raise RecipeError(f"-s {override}: there is nothing below {where.rpartition('.')[0]}, it is {node!r}.")
    return node.setdefault(part, {})


def _index(node: list[Any], part: str, where: str, override: str) -> int:
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    raise RecipeError(
        f"-s {override}: {where.rpartition('.')[0]} has {len(node)} entries, so {part!r} is not one of them.",
        f"Count from 0: use 0 to {len(node) - 1}." if node else None,
    )


# --- explaining --------------------------------------------------------------------------------------------


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(problem: ErrorDetails, values: Mapping[str, Any], recipe: type[Recipe]) -> str:
    """One line for one pydantic error: the key's path, what is wrong, what is near."""
    path, model = _locate(problem["loc"], recipe)
    sources = _sources(recipe)
    where = ".".join(path) or "recipe"
    received = problem["input"]
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}: unknown key{_did_you_mean(path[-1], model.model_fields)}"
    if kind == "missing":
        return f"{where}: is missing"
    if kind.startswith("union_tag"):
        there = ", ".join(f'"{source}"' for source in sources)
        if kind == "union_tag_not_found":
            return f"{where}.source: is missing; one of {problem['ctx']['discriminator']} = {there}"
        tag = str(problem["ctx"]["tag"])
        return f"{where}.source: {tag!r} is not a source{_did_you_mean(tag, sources)}; use one of {there}"
    if kind == "literal_error":
        expected = " or ".join(map(repr, RECIPES)) if where == "task" else problem["ctx"]["expected"]
        near = _did_you_mean(received, re.findall(r"'([^']*)'", expected)) if isinstance(received, str) else ""
        return f"{where}: {received!r} is not one of {expected}{near}"
    if kind == "tuple_type":
        return f"{where}: must be a list of tables, each under [[{where}]]"
    if kind == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    message = problem["msg"].replace("Input should be", "must be")
    return f"{where}: {message[0].lower()}{message[1:]}; received {received!r}"


def _locate(loc: tuple[int | str, ...], recipe: type[Recipe]) -> tuple[list[str], type[BaseModel]]:
    """A pydantic location as the user's key path, and the settings class that owns its last key.

    Pydantic puts the union's tag (the source's name) into the path; users never wrote that.
    """
    path: list[str] = []
    owner: type[BaseModel] = recipe
    current: type[BaseModel] = recipe
    for depth, part in enumerate(loc):
        if depth == 1 and path == ["data"] and part in (sources := _sources(recipe)):
            current = sources[str(part)]
            continue
        path.append(str(part))
        if isinstance(part, int):
            continue
        owner = current
        only = set(_sources(recipe).values())
        current = only.pop() if path == ["data"] and len(only) == 1 else _SECTIONS.get(part, current)
    return path, owner


def _sources(recipe: type[Recipe]) -> dict[str, type[BaseModel]]:
    """The sources that a task reads, and their settings; none where the task is not known."""
    annotation: Any = recipe.model_fields["data"].annotation
    settings = get_args(annotation) or (annotation,)
    read = [one for one in settings if "source" in one.model_fields]
    return {name: one for one in read for name in get_args(one.model_fields["source"].annotation)}


_SECTIONS: dict[str, type[BaseModel]] = {
    "augment": Augment,
    "samples": Samples,
    "train": Train,
    "phases": Phase,
    "lora": Lora,
    "exports": Export,
}

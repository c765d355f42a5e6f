"""Tables that every recipe has: [train], [[phases]] and the recipe itself.

`kerastune.tasks.TASK.settings` has the settings that a task adds.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, StringConstraints, field_validator, model_validator

from kerastune.errors import quoted
from kerastune.recipe import target
from kerastune.recipe.base import MAX_TABLES, Count, Fraction, Name, Rate, Regex, Settings, Text, regular_expression
from kerastune.recipe.exports import Export, export_name
from kerastune.recipe.paths import Preset
from kerastune.recipe.sources import Data


class Train(Settings):
    """Settings for all phases."""

    batch_size: Count = 32
    xla: Literal["auto", True, False] = "auto"
    """Compile the training step with XLA. `true` is an error if Keras would silently disable it."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """`auto` is bfloat16 on GPUs that support it, and on CPUs where a text model's largest product, or a step of
    another model, is measured to be faster in it."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weights each class by n_examples / (n_classes * n_class), as scikit-learn does; classes of pixels by
    the root of how much rarer they are than the median class."""
    label_smoothing: Fraction = 0.0
    """Fraction of each training label that is spread over all labels (Szegedy et al. 2016, arXiv:1512.00567)."""
    calibrate: bool = False
    """After training, divide the logits by the temperature that suits the validation split best, inside every export
    (Guo et al. 2017, arXiv:1706.04599). Answers stay the same; probabilities become more truthful."""
    early_stopping: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """End a phase after this many epochs without better validation accuracy (0: never)."""
    cache: Literal["auto", "off", "memory", "disk"] = "auto"
    """Where to cache the outputs of frozen layers, so that these run once per example and not once per epoch."""
    cache_views: Annotated[int, Field(ge=0, le=1000)] = 0
    """With [augment]: cache this many augmented views of each example and cycle through them. 0: augmented phases run
    uncached."""
    inputs: Literal["auto", "off", "memory", "disk"] = "auto"
    """Where to keep decoded and resized images, so that each is decoded once and not once per epoch."""
    checkpoint_every: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8} (steps|minutes)$")] = "10 minutes"
    """How often to write a checkpoint within an epoch: "500 steps" or "10 minutes". An epoch also ends with one, unless
    the last one is seconds old."""
    tensorboard: bool = False
    """Write TensorBoard logs to RUN/tensorboard."""

    @field_validator("xla", mode="before")
    @classmethod
    def _one_is_not_true(cls, value: Any) -> Any:
        if type(value) is int:  # 1 == True, even for pydantic
            raise ValueError(f"{quoted(value)} is not one of 'auto', true or false")
        return value


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685). In the unfrozen units, only adapters train."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scales the adapters' output by alpha / rank. Default: rank."""
    targets: Annotated[tuple[Regex, ...], Field(strict=False, min_length=1)] = (r"^(query|value)(_dense)?$",)
    """Layers that get adapters: regular expressions, searched for in a layer's name and path."""
    bias: bool = False
    """Train the biases of these layers as well."""


class Phase(Settings):
    """One part of training: which units train, for how long, and how fast."""

    unfreeze: Text
    """Units that train: "head", "all", "none", "top:N" (the head and the last N blocks), "match:REGEX" (the head and
    every unit whose name, or a layer's name in it, matches the expression) or "gradual" (the head in the first epoch,
    then one more block per epoch from the top; Howard & Ruder 2018, arXiv:1801.06146)."""
    epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    learning_rate: Rate = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block's learning rate as a fraction of the block above it; the head has the full rate
    (Howard & Ruder 2018, arXiv:1801.06146)."""
    learning_rates: dict[Regex, Rate] = Field({})
    """Learning rates of units that match an expression, as in `match:`; the first match counts."""
    optimizer: Literal["adam", "adamw", "lion", "rmsprop", "sgd"] = "adam"
    """"sgd" uses Nesterov momentum 0.9."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decoupled weight decay on kernels only, not on biases and normalisation weights."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls to zero over the phase."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the phase's steps over which the learning rate rises from zero."""
    batch_norm: Literal["frozen", "train", "recalibrate"] = "frozen"
    """"frozen" keeps every BatchNorm in inference mode; "train" trains unfrozen ones; "recalibrate" keeps all frozen,
    and after the phase recomputes the statistics of unfrozen units on the training data."""
    lora: Lora | None = None
    """Train low-rank adapters in the unfrozen units instead of their weights."""
    gradient_accumulation: Count = 1
    """Number of batches whose gradients are averaged into one step."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Maximum global norm of the gradients; larger ones are scaled down. Default: no limit."""
    contrastive: bool = False
    """Instead of the labels' loss, bring examples of one label close, and those of others apart, in front of the head
    (Khosla et al. 2020, arXiv:2004.11362; as a warm-up for few examples: SetFit, Tunstall et al. 2022,
    arXiv:2209.11055). The head stays as it is, so another phase must follow. The last epoch's weights are kept."""
    ema: Fraction = 0.0
    """Momentum of an exponential moving average of the weights; the average is validated and saved. 0: none."""

    @field_validator("unfreeze")
    @classmethod
    def _is_known(cls, value: str) -> str:
        kind, _, argument = value.partition(":")
        if value in ("head", "all", "none", "gradual"):
            return value
        if kind == "top" and re.fullmatch(r"[1-9][0-9]{0,3}", argument):
            return value
        if kind == "match" and argument:
            regular_expression(argument)
            return value
        raise ValueError(
            f'{quoted(value)} is not one of "head", "all", "none", "gradual", "top:N" (N = 1, 2, …), "match:REGEX"'
        )

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
            raise ValueError("layer_decay and learning_rates both set the rates of units; use only one of them")
        if self.lora and self.unfreeze in ("head", "none", "gradual"):
            raise ValueError(
                f'lora has no units to adapt with unfreeze = "{self.unfreeze}"; use "all", "top:N" or "match:REGEX"'
            )
        if self.contrastive and self.unfreeze in ("head", "none", "gradual"):
            raise ValueError(f'contrastive trains no head, so unfreeze = "{self.unfreeze}" leaves nothing; use "all"')
        if self.lora and self.batch_norm != "frozen":
            raise ValueError(f'lora trains only adapters, so batch_norm = "{self.batch_norm}" has no effect')
        return self


class Threshold(Settings):
    """A decision for one label: when its probability is enough to act on. Chosen on the validation split."""

    label: Text
    """The label that is decided for: "spam", "ill"."""
    sensitivity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the examples of this label that the decision must find; the others then have as few false alarms as can
    be."""
    miss_cost: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Instead: the cost of a miss, where a false alarm costs 1. The sum is made as small as can be."""

    @model_validator(mode="after")
    def _has_one_aim(self) -> "Threshold":
        if (self.sensitivity is None) == (self.miss_cost is None):
            raise ValueError("a threshold needs a sensitivity or a miss_cost, and not both")
        return self


class Recipe(Settings):
    """A training job: the model, the data, the phases and the exports."""

    name: Name
    """Name of the run folder. Default: the recipe file's name."""
    task: str
    preset: Preset
    """A KerasHub preset, hf://…, kaggle://…, a local folder, or a fetched asset (`kerastune assets list`)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    train: Train = Train()
    threshold: Threshold | None = None
    phases: Annotated[tuple[Phase, ...], Field(strict=False)]
    exports: Annotated[tuple[Export, ...], Field(strict=False)] = ()

    @field_validator("phases", "exports", mode="before")
    @classmethod
    def _are_few(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > MAX_TABLES:  # before each of them is validated
            raise ValueError(f"has {len(value):,} entries, but {MAX_TABLES} are allowed")
        return value

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
    def augments(self) -> bool:
        """Returns whether training examples change from epoch to epoch."""
        return False

    @model_validator(mode="after")
    def _training_suits_the_examples(self) -> "Recipe":
        train = self.train
        if train.cache_views and not self.augments:
            has_table = "augment" in type(self).model_fields
            why = "[augment] changes nothing" if has_table else f"{self.data.modality}s are not augmented"
            raise ValueError(f"train.cache_views caches augmented views, but {why}; remove it")
        if self.augments and train.cache in ("memory", "disk") and not train.cache_views:
            raise ValueError(
                f'train.cache = "{train.cache}" would show every epoch the same augmented {self.data.modality}s; '
                "set train.cache_views to the number of views to cache"
            )
        if self.data.target not in ("label", "mask") and train.class_weights != "none":
            raise ValueError("train.class_weights needs one label per example, or per pixel")
        if self.data.target != "label" and train.label_smoothing:
            raise ValueError("train.label_smoothing needs one label per example")
        if self.data.target not in ("label", "labels") and train.calibrate:
            raise ValueError("train.calibrate needs probabilities of labels, and this recipe learns none; remove it")
        if self.data.target != "label" and self.threshold:
            raise ValueError("[threshold] needs one label per example; remove it")
        if self.data.target not in ("label", "labels", "groups") and self.data.per_label:
            raise ValueError("data.per_label draws examples by their label, and these data have none; remove it")
        return self

    @model_validator(mode="after")
    def _contrasts_come_before_a_head(self) -> "Recipe":
        if not any(phase.contrastive for phase in self.phases):
            return self
        if self.data.target != "label":
            raise ValueError("a contrastive phase needs one label per example")
        if self.phases[-1].contrastive:
            raise ValueError('the last phase is contrastive, so the head would learn nothing; add unfreeze = "head"')
        augment = getattr(self, "augment", None)
        if getattr(augment, "mixup", 0) or getattr(augment, "cutmix", 0):
            raise ValueError("augment.mixup and augment.cutmix blend labels, and a contrastive phase needs one label")
        return self

    @model_validator(mode="after")
    def _targets_take_the_examples(self) -> "Recipe":
        asked = [target.refusal(one.target, self.data.modality) for one in self.exports if one.target]
        if refused := list(filter(None, asked)):
            raise ValueError(f"{'; '.join(refused)}, and this recipe is for {self.data.modality}s (task = {self.task})")
        return self

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(exclude_none=True, mode="json"))

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

"""The tables that every recipe has: [train], [[phases]] and the recipe itself.

What a task adds is in its own settings, `kerastune.tasks.TASK.settings`.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, StringConstraints, field_validator, model_validator

from kerastune.errors import quoted
from kerastune.recipe import target
from kerastune.recipe.base import Count, Fraction, Name, Rate, Regex, Settings, Text, regular_expression
from kerastune.recipe.exports import Export, export_name
from kerastune.recipe.paths import Preset
from kerastune.recipe.sources import Data


class Train(Settings):
    """Settings of all phases."""

    batch_size: Count = 32
    xla: Literal["auto", True, False] = "auto"
    """Compile the training step with XLA. `true` is an error where Keras would drop it."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """`auto` is bfloat16 on GPUs that have it, and on a CPU where a text model's largest product is faster in it."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weighs each class by n_examples / (n_classes * n_class), as scikit-learn does."""
    label_smoothing: Fraction = 0.0
    """Share of each training label that is spread over all labels (Szegedy et al. 2016, arXiv:1512.00567)."""
    early_stopping: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """End a phase after this many epochs without a better validation accuracy (0: never)."""
    cache: Literal["auto", "off", "memory", "disk"] = "auto"
    """Where the outputs of frozen layers are kept, so that they run once per example and not once per epoch."""
    cache_views: Annotated[int, Field(ge=0, le=1000)] = 0
    """With [augment]: keep this many augmented views of each example and cycle through them. 0 keeps none, so that
    augmented phases run uncached."""
    checkpoint_every: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8} (steps|minutes)$")] = "10 minutes"
    """How often a checkpoint is written inside an epoch: "500 steps" or "10 minutes". An epoch ends with one, unless
    the last one is seconds old."""
    tensorboard: bool = False
    """Write TensorBoard logs to RUN/tensorboard."""

    @field_validator("xla", mode="before")
    @classmethod
    def _one_is_not_true(cls, value: Any) -> Any:
        if type(value) is int:  # 1 == True, also for pydantic
            raise ValueError(f"{quoted(value)} is not one of 'auto', true or false")
        return value


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): in the unfrozen units, only they train."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The adapters' output is scaled by alpha / rank. Default: rank."""
    targets: Annotated[tuple[Regex, ...], Field(strict=False, min_length=1)] = (r"^(query|value)(_dense)?$",)
    """The layers that get adapters: expressions, searched for in a layer's name and path."""
    bias: bool = False
    """Train the biases of these layers as well."""


class Phase(Settings):
    """A part of training: the units that train, for how long, and how fast."""

    unfreeze: Text
    """The units that train: "head", "all", "none", "top:N" (the head and the last N blocks), "match:REGEX" (the head
    and every unit that the expression finds, by its own name or by the name of one of its layers) or "gradual" (the
    head in the first epoch, then one more block an epoch from the top; Howard & Ruder 2018, arXiv:1801.06146)."""
    epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    learning_rate: Rate = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block learns at this share of the rate of the block above it; the head has the full rate
    (Howard & Ruder 2018, arXiv:1801.06146)."""
    learning_rates: dict[Regex, Rate] = Field({})
    """Learning rates of the units that an expression finds, as in `match:`; the first match counts."""
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
    gradient_accumulation: Count = 1
    """Batches whose gradients are averaged into one step."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the gradients over all weights; larger ones are scaled down. Default: no limit."""
    ema: Fraction = 0.0
    """Momentum of an exponential moving average of the weights; the average is validated and kept. 0: none."""

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
            f'{quoted(value)} is none of "head", "all", "none", "gradual", "top:N" (N = 1, 2, …), "match:REGEX"'
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
            raise ValueError("layer_decay and learning_rates both set the units' rates; use one of them")
        if self.lora and self.unfreeze in ("head", "none", "gradual"):
            raise ValueError(
                f'lora has no unit to adapt under unfreeze = "{self.unfreeze}"; use "all", "top:N" or "match:REGEX"'
            )
        if self.lora and self.batch_norm != "frozen":
            raise ValueError(f'lora trains adapters only, so batch_norm = "{self.batch_norm}" has nothing to do')
        return self


class Recipe(Settings):
    """What to train, on what, how, and where the result goes."""

    name: Name
    """Names the run folder. Default: the recipe file's name."""
    task: str
    preset: Preset
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
    def augments(self) -> bool:
        """Whether training examples change from epoch to epoch."""
        return False

    @model_validator(mode="after")
    def _training_suits_the_examples(self) -> "Recipe":
        train = self.train
        if train.cache_views and not self.augments:
            has_table = "augment" in type(self).model_fields
            why = "[augment] changes nothing" if has_table else f"{self.data.modality}s are not augmented"
            raise ValueError(f"train.cache_views keeps augmented views, and {why}; leave it out")
        if self.data.target != "label" and (train.class_weights != "none" or train.label_smoothing):
            raise ValueError("train.class_weights and train.label_smoothing are for one label an example")
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

"""Settings for language model recipes."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from kerastune.recipe.base import Settings, Text
from kerastune.recipe.settings import Lora, Phase, Recipe
from kerastune.recipe.sources import ChatData


class Samples(Settings):
    """Answers to some prompts of the validation split, generated before training and after each epoch."""

    count: Annotated[int, Field(ge=0, le=100)] = 4
    """How many prompts; 0: none."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 48
    """Maximum tokens of an answer."""


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
                f'unfreeze = "{self.unfreeze}" starts with a new head, but a language model has none; '
                'use "all", "top:N" or "match:REGEX"'
            )
        return self


class CausalLM(Recipe):
    """A language model that learns to answer."""

    task: Literal["causal_lm"]
    data: ChatData
    samples: Samples = Samples()
    phases: Annotated[tuple[ChatPhase, ...], Field(strict=False)]


RECIPE = CausalLM

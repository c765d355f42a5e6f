"""Settings for recipes that write speech down."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kerastune.errors import quoted
from kerastune.recipe.base import Text
from kerastune.recipe.paths import FilePath
from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import Transcripts
from kerastune.tasks.audio_classification.settings import SoundAugment
from kerastune.tasks.causal_lm.settings import ChatPhase


def _language(value: str) -> str:
    if not (2 <= len(value) <= 3 and value.isascii() and value.islower()):
        raise ValueError(f'{quoted(value)} is not a code of a language such as "en" or "it"')
    return value


Language = Annotated[str, AfterValidator(_language)]


class SpeechPhase(ChatPhase):
    """A phase that trains adapters in the decoder unless it says otherwise."""

    unfreeze: Text = "match:^transformer_decoder"


class Control(Transcripts):
    """Ordinary speech that is not trained on, to measure what is forgotten. Every row is used, whatever its split."""

    language: Language | None = None
    """Language of the control set. Default: the recipe's."""


class SpeechToText(Recipe):
    """A model that learns to write speech down."""

    task: Literal["speech_to_text"]
    data: Transcripts
    augment: SoundAugment = SoundAugment()
    language: Language = "en"
    """Language that is spoken: "en", "it", … (ISO 639-1, as the preset names it)."""
    translate: bool = False
    """Whether transcripts are English translations of the speech."""
    max_tokens: Annotated[int, Field(ge=1, le=440)] | None = None
    """Maximum tokens of a transcript, which also bounds memory. Default: 16 and 10 per second of data.window, at most
    224."""
    beams: Annotated[int, Field(ge=1, le=8)] = 1
    """Drafts of a transcript that decoding pursues at a time, which takes as many times as long. 1 takes the likeliest
    token each time."""
    terms: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Words and phrases whose recall and precision are measured, such as the terms of a trade."""
    terms_file: FilePath | None = None
    """More of them: a UTF-8 file with one per line."""
    control: Control | None = None
    """Ordinary speech whose word error rate is measured before and after training."""
    phases: Annotated[tuple[SpeechPhase, ...], Field(strict=False)]

    @property
    def augments(self) -> bool:
        return self.augment.any

    @property
    def tokens(self) -> int:
        """Returns the maximum tokens of a transcript."""
        return self.max_tokens or min(16 + round(10 * self.data.window), 224)

    @model_validator(mode="after")
    def _control_is_heard_in_the_same_window(self) -> "SpeechToText":
        if self.control and self.control.window > self.data.window:
            raise ValueError(
                f"control.window = {self.control.window:g} s is longer than data.window = {self.data.window:g} s, "
                "which the model hears; lower it"
            )
        return self


RECIPE = SpeechToText

"""Settings for audio classification recipes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kerastune.recipe.base import Settings
from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import FolderSounds, ListedSounds, TfdsSounds

Share = Annotated[float, Field(ge=0, le=1)]


class SoundAugment(Settings):
    """Random changes to training sounds, never to validation sounds."""

    gain: Annotated[float, Field(ge=0, le=40)] = 0.0
    """Makes sounds louder or softer by up to this many dB."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Moves sounds earlier or later by up to this fraction of the window; silence fills the gap."""
    noise: Share = 0.0
    """Fraction of sounds that get white noise, 10 to 40 dB below them."""
    telephone: Share = 0.0
    """Fraction of sounds that become those of a telephone: 8 kHz and 8 bits by the μ-law of ITU-T G.711."""
    mask: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest fraction of the frequencies, and of the time, that is masked (SpecAugment; Park et al. 2019,
    arXiv:1904.08779)."""

    @property
    def any(self) -> bool:
        """Returns whether training sounds change from epoch to epoch."""
        return self != SoundAugment()


class AudioClassification(Recipe):
    """Labels for a sound."""

    task: Literal["audio_classification"]
    data: Annotated[FolderSounds | ListedSounds | TfdsSounds, Field(discriminator="source")]
    augment: SoundAugment = SoundAugment()
    blocks: Annotated[int, Field(ge=0, le=100)] | None = None
    """Number of encoder blocks to use, from the input; 0 leaves its convolutions. Fewer make the model smaller and
    faster, and lower ones often hold more of a sound's timbre. Default: all of the preset's."""
    pooling: Literal["mean", "mean_and_deviation"] = "mean_and_deviation"
    """Statistics over time that the head gets of each layer."""
    level: Literal["as_is", "peak"] = "as_is"
    """"peak" scales each window to the same largest value, where loudness says nothing: recordings at several gains."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the head's inputs that are dropped in training."""

    @property
    def augments(self) -> bool:
        return self.augment.any

    @model_validator(mode="after")
    def _labels_are_learnt(self) -> "AudioClassification":
        if self.data.target == "number":
            raise ValueError("data.regression is for images and texts; a sound has labels")
        return self


RECIPE = AudioClassification

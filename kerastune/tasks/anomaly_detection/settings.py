"""Settings for anomaly detection recipes."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kerastune.recipe.base import Settings
from kerastune.recipe.image_sources import CsvDefects, FolderDefects, TfdsDefects
from kerastune.recipe.settings import Phase, Recipe

Score = Literal["patches", "residuals", "image"]
SCORES: tuple[Score, ...] = ("patches", "residuals", "image")
"""The scores, in the order of the output "parts"."""

PASS = Phase(unfreeze="head", epochs=1, learning_rates={})
"""The only phase: one pass of the frozen backbone over the pictures."""


class Detector(Settings):
    """What is measured on a picture, and where the threshold lies."""

    scores: Annotated[tuple[Score, ...], Field(strict=False, min_length=1)] = SCORES
    """"patches": distances of deep features, place by place; "residuals": fine detail at full resolution;
    "image": statistics of the features of the whole picture. The largest decides, each in units of held-out good
    pictures."""
    patches: Literal["auto", "gaussian", "memory_bank"] = "auto"
    """How far a place is from the good ones: by one Gaussian, or by its nearest neighbour in a coreset of them (Roth et
    al. 2022, arXiv:2106.08265). "auto" takes what finds more synthetic defects on held-out good pictures."""
    bank_size: Annotated[int, Field(ge=2, le=20_000)] = 600
    """Places in the memory bank."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of good pictures called defective. Split conformal prediction keeps it on average over draws of held-out
    good pictures; 0.01 takes 99 of them. "auto": 0.01, or the least that they can keep."""


class AnomalyDetection(Recipe):
    """Good or defective, and where, learnt from good pictures alone."""

    task: Literal["anomaly_detection"]
    data: Annotated[FolderDefects | CsvDefects | TfdsDefects, Field(discriminator="source")]
    detector: Detector = Detector()
    phases: Annotated[tuple[Phase, ...], Field(strict=False)] = (PASS,)
    """Left out: nothing is trained by gradients."""

    @field_validator("phases")
    @classmethod
    def _has_one_pass(cls, value: tuple[Phase, ...]) -> tuple[Phase, ...]:
        if value != (PASS,):
            raise ValueError(
                "anomaly_detection computes statistics in one pass and trains no phases; remove [[phases]]"
            )
        return value

    @model_validator(mode="after")
    def _nothing_of_gradients(self) -> "AnomalyDetection":
        train = self.train
        asked = {
            "xla": train.xla is True,
            "early_stopping": train.early_stopping,
            "cache": train.cache in ("memory", "disk"),
            "inputs": train.inputs in ("memory", "disk"),
            "tensorboard": train.tensorboard,
            "precision": train.precision not in ("auto", "float32"),
        }
        if found := [f"train.{name}" for name, is_set in asked.items() if is_set]:
            raise ValueError(f"{', '.join(found)}: one pass in float32 has no use for it; remove it")
        return self

    @model_validator(mode="after")
    def _names_scores_once(self) -> "AnomalyDetection":
        if len(set(self.detector.scores)) < len(self.detector.scores):
            raise ValueError("detector.scores names a score twice")
        return self


RECIPE = AnomalyDetection
"""The settings of this task."""

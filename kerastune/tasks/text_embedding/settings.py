"""Settings for text embedding recipes."""

from typing import Literal

from pydantic import model_validator

from kerastune.recipe.base import Text
from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import Table, Target

_LAYOUTS: dict[tuple[str, ...], Target] = {
    ("anchor_column", "positive_column"): "pairs",
    ("anchor_column", "positive_column", "negative_column"): "pairs",
    ("text_column", "label_column"): "groups",
    ("text_column", "pair_column", "score_column"): "scores",
}


class EmbeddingData(Table):
    """A CSV, JSON Lines or Parquet file of texts that belong together. The named columns define how:
    `anchor_column` and `positive_column` (and `negative_column`); `text_column` and `label_column`, where texts with
    the same label belong together; or `text_column`, `pair_column` and `score_column`, the similarity of both texts."""

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
        """Returns the keys of the named columns."""
        known = dict.fromkeys(key for layout in _LAYOUTS for key in layout)
        return tuple(key for key in known if getattr(self, key))

    @property
    def target(self) -> Target:
        return next(target for layout, target in _LAYOUTS.items() if set(layout) == set(self.named))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(key for key in self.named if key not in ("label_column", "score_column"))

    @property
    def truth(self) -> str | None:
        return next((key for key in ("label_column", "score_column") if getattr(self, key)), None)

    @model_validator(mode="after")
    def _is_one_layout(self) -> "EmbeddingData":
        if set(self.named) not in map(set, _LAYOUTS):
            there = "; ".join(" + ".join(layout) for layout in _LAYOUTS)
            got = " + ".join(self.named) or "none"
            raise ValueError(f"the named columns are {got}; name those of one kind of data: {there}")
        return self


class TextEmbedding(Recipe):
    """Vectors of texts that are similar for texts that belong together."""

    task: Literal["text_embedding"]
    data: EmbeddingData


RECIPE = TextEmbedding

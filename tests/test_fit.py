"""The fit of a preset to a language: what it does not know is told, with presets that know it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kerastune import fine_tune
from kerastune.data import load
from kerastune.recipe.sources import TableData
from kerastune.tasks import fit

ENGLISH = {"tokens_per_word": 1.0, "unknown": 0.0}


def found(**train: float) -> dict[str, Any]:
    return {"english": ENGLISH, "train": {**ENGLISH, **train}}


def test_english_in_an_english_preset_is_not_warned_about() -> None:
    assert fit.warnings(found(tokens_per_word=1.25), "minilm") == []


@pytest.mark.parametrize("train", [{"tokens_per_word": 2.1}, {"unknown": 0.05}])
def test_another_language_is_warned_about_with_presets_that_know_it(train: dict[str, float]) -> None:
    (said,) = fit.warnings(found(**train), "minilm")
    assert "a language or a jargon that minilm does not know" in said
    assert "xlm_roberta_base_multi" in said and "hf://intfloat/multilingual-e5-small" in said


def test_tokens_and_unknown_ones_are_counted_by_split(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f"the cat is zzz{i},{'ab'[i % 2]}\n" for i in range(60)))
    splits = load(TableData.model_validate({"source": "csv", "path": str(table)}))
    from kerastune.tasks.text_classification import task

    recipe = text_recipe()
    model = task.build(recipe, recipe.preset, 2, "float32")
    told = fit.fit(SimpleNamespace(preprocessor=model.preprocessor), splits)
    assert told["train"] == {"tokens_per_word": 1.0, "unknown": 0.25}
    assert told["english"]["unknown"] > 0.5  # the tiny preset knows no English


def test_a_run_says_and_records_the_fit(
    text_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "warnings", lambda found, preset: [f"{preset} does not know it"])
    phases = [{"unfreeze": "head", "epochs": 1}]
    made = fine_tune(text_recipe(phases=phases, head="pooler"), tmp_path / "run")
    assert set(made.record.model["tokens"]) == {"english", "train", "validation", "test"}
    assert made.record.model["warnings"] == [f"{made.recipe.preset} does not know it"]

"""Heads on a sentence vector: as KerasHub's embedder gives it, chosen by measuring, kept in runs and exports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest

from kerastune import fine_tune
from kerastune.data import load
from kerastune.errors import RecipeError
from kerastune.recipe import Export
from kerastune.tasks.text_classification import choosing, pooled
from kerastune.tasks.text_classification import task as text_classification

HEAD = [{"unfreeze": "head", "epochs": 8, "learning_rate": 1e-2}]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_pooled_head_reads_what_the_embedder_gives(pooling: str, text_recipe: Callable[..., Any]) -> None:
    recipe = text_recipe(head=pooling)
    model = text_classification.build(recipe, recipe.preset, 2, "float32")
    embedder = keras_hub.models.BertTextEmbedder(
        model.backbone, model.preprocessor, pooling_mode=pooling, normalize=False
    )
    found = choosing.sentence_vectors(model, load(recipe.data).test)[pooling]
    texts = [load(recipe.data).test.example(i).tolist()[0] for i in range(len(found))]
    np.testing.assert_allclose(found, embedder.predict(texts, verbose=0), atol=1e-5)


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "DebertaV3"])
def test_padding_does_not_change_the_mean(family: str, text_recipe: Callable[..., Any]) -> None:
    recipe = text_recipe(family, head="mean")
    model = text_classification.build(recipe, recipe.preset, 2, "float32")
    split = load(recipe.data).test
    alone = text_classification.reference(recipe, model, [split.example(i) for i in range(6)])
    padded = text_classification.scores("label", model, split, 32)[:6]
    np.testing.assert_allclose(padded, alone, atol=1e-5)


def test_auto_takes_the_vector_that_tells_the_labels_apart(text_recipe: Callable[..., Any]) -> None:
    recipe = text_recipe()
    splits, rng = load(recipe.data), np.random.default_rng(0)
    noise = rng.normal(size=(len(splits.train), 4)).astype(np.float32)
    told = noise + 4 * splits.train.labels[:, None]
    hits = {name: choosing.correct(splits.train, found) for name, found in (("pooler", noise), ("mean", told))}
    assert choosing.chosen(hits, "pooler") == "mean"
    assert choosing.chosen({"pooler": hits["mean"], "mean": hits["mean"]}, "pooler") == "pooler"


def test_the_choice_is_recorded_with_its_reason_and_the_run_keeps_it(
    text_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    made = fine_tune(text_recipe(phases=HEAD, train={"precision": "float32"}), tmp_path / "run")
    (decision,) = [one for one in made.record.decisions if one.key == "head"]
    assert decision.asked == "auto" and "cross-validated accuracy of a linear model on" in decision.why
    assert made.recipe.head == made.record.model["head"] == decision.got


def test_an_embedders_own_pooling_comes_first(embedder_preset: Callable[..., Path], text_recipe: Callable[..., Any]):
    preset = str(embedder_preset("Bert"))
    recipe = text_recipe(preset=preset, data={"per_label": 2})
    model = text_classification.build(recipe, preset, 2, "float32")
    decision = choosing.choose(model, load(recipe.data).train, choosing.own_pooling(preset))
    assert (
        decision.got == "mean"
        and decision.why == "the preset pools by 'mean'; 4 training examples are too few to measure"
    )


def test_a_pooled_run_answers_and_exports_with_its_head(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    from kerastune import export

    made = fine_tune(text_recipe(head="mean", phases=HEAD, train={"precision": "float32"}), tmp_path / "run")
    loaded = text_classification.load(str(made.folder))
    assert isinstance(loaded, pooled.PooledTextClassifier) and loaded.pooling == "mean"
    artifacts = export(made, [Export(target="linux"), Export(target="onnxruntime"), Export(target="tf-serving")])
    assert all(one.report.passed for one in artifacts)


def test_numbers_are_learnt_from_the_mean(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    data = {"label_column": "rating", "regression": True}
    made = fine_tune(text_recipe(data=data, head="mean", seed=1, phases=HEAD), tmp_path / "run")
    assert made.record.metric == "r2" and made.record.model["head"] == "mean"


def test_another_head_than_those_is_refused(text_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="head: 'max' is not one of 'auto', 'pooler', 'mean' or 'cls'"):
        text_recipe(head="max")


def test_inputs_that_do_not_tell_the_padding_have_no_mean() -> None:
    backbone = keras_hub.models.FNetBackbone(vocabulary_size=20, num_layers=1, hidden_dim=8, intermediate_dim=8)
    assert set(pooled.vectors(backbone)) == {"pooler", "cls"}

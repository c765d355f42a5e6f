"""The contrastive warm-up: examples of one label come close, the head stays, and a head learns on what came out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kerastune import data, fine_tune, resume, weights
from kerastune.errors import RecipeError
from kerastune.progress import Progress
from kerastune.tasks import contrast, losses
from kerastune.tasks.text_classification import task as text_classification
from kerastune.training.batches import Batches

WARM = {"unfreeze": "all", "contrastive": True, "epochs": 3, "learning_rate": 1e-3}
TRAIN = {"batch_size": 8, "precision": "float32"}
HEAD = {"unfreeze": "head", "epochs": 3, "learning_rate": 1e-2}


@pytest.fixture
def recipe(text_recipe: Callable[..., Any]) -> Any:
    return text_recipe(head="mean", data={"per_label": 8}, phases=[WARM, HEAD], train=TRAIN)


def test_vectors_of_one_label_that_lie_together_have_the_lower_loss() -> None:
    truth = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    near = tf.constant([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    total, count = contrast.of_labels(truth, near, tf.ones(4))
    mixed, _ = contrast.of_labels(truth, tf.gather(near, [0, 2, 1, 3]), tf.ones(4))
    assert float(total) < float(mixed) and float(count) == 4


def test_batches_hold_several_of_each_label(recipe: Any) -> None:
    splits = data.load(recipe.data)
    model = text_classification.build(recipe, recipe.preset, len(splits.labels), "float32")
    batches = Batches(
        recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": 8})}), model, splits
    )
    order = batches.of_phase(recipe.phases[0]).order("train", seed=(0,))
    for batch in list(order)[:-1]:
        assert np.bincount(splits.train.labels[batch]).max() >= 4
    assert sorted(np.concatenate(list(order))) == list(range(len(splits.train)))


def test_the_model_in_front_of_the_head_gives_what_the_head_reads(recipe: Any) -> None:
    model = text_classification.build(recipe, recipe.preset, 2, "float32")
    x = text_classification.inputs(model, [["the cat is big"]])[0]
    x = {name: row[None] for name, row in x.items()}
    kernel, bias = losses.head(model)
    vector = losses.before_head(model)(x, training=False)
    np.testing.assert_allclose(vector @ kernel + bias, model(x, training=False), atol=1e-5)


def test_a_warm_up_moves_the_encoder_and_leaves_the_head_to_the_next_phase(recipe: Any, tmp_path: Path) -> None:
    made = fine_tune(recipe, tmp_path / "run")
    first, second = made.record.phases
    assert first.contrastive and not second.contrastive
    assert [unit.name for unit in first.units if unit.learning_rate is None][-1] == "head"
    assert {row["phase"] for row in made.history} == {2}  # a warm-up has no figures of the head
    assert first.ran and first.ran.epochs_run == 3
    plain = fine_tune(recipe.model_copy(update={"phases": recipe.phases[1:]}), tmp_path / "plain")
    ours, theirs = (text_classification.load(str(one.folder)).backbone.weights for one in (made, plain))
    assert any(weights.sha256(a) != weights.sha256(b) for a, b in zip(ours, theirs, strict=True))


def test_only_the_last_epoch_of_a_warm_up_is_validated(recipe: Any, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    fine_tune(recipe, tmp_path / "run", progress=Listening())
    epochs = [line for line in said if line.startswith("phase 1/2 (all), epoch")]
    assert ["validation loss" in line for line in epochs] == [False, False, True]


def test_a_warm_up_that_was_killed_ends_with_the_same_bits(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastune.training import loop

    whole = fine_tune(recipe, tmp_path / "whole")
    real, seen = loop.Training._end_epoch, []

    def dying(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        self.save()
        seen.append(1)
        if len(seen) == 2:
            raise RuntimeError("killed")

    monkeypatch.setattr(loop.Training, "_end_epoch", dying)
    with pytest.raises(RuntimeError, match="killed"):
        fine_tune(recipe, tmp_path / "run")
    monkeypatch.setattr(loop.Training, "_end_epoch", real)
    again = resume(tmp_path / "run")
    (one,), (other,) = (made.predictions("test")[2].values() for made in (whole, again))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([WARM], "the last phase is contrastive, so the head would learn nothing"),
        ([{**WARM, "unfreeze": "head"}, HEAD], "contrastive trains no head"),
    ],
)
def test_a_warm_up_without_use_is_refused(phases: Any, message: str, text_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=message):
        text_recipe(phases=phases)


def test_numbers_have_no_labels_to_contrast(text_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="a contrastive phase needs one label per example"):
        text_recipe(data={"label_column": "rating", "regression": True}, phases=[WARM, HEAD])

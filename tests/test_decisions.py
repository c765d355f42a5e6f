"""Decisions at a threshold: chosen for a sensitivity or a cost, kept in the manifest, told by readers, verified."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import export, fine_tune, predict
from kerastune.errors import RecipeError
from kerastune.recipe import Export
from kerastune.targets.answers import decided
from kerastune.tasks.learnt import calibration
from kerastune.verifying import decisions
from kerastune.verifying.manifest import Decision
from kerastune.verifying.verification import Agreement, Validation

POSITIVE = np.array([False, False, False, True, True, True, True, False])
SCORE = np.array([0.1, 0.2, 0.3, 0.25, 0.6, 0.7, 0.8, 0.9])


@pytest.mark.parametrize(("sensitivity", "threshold"), [(1.0, 0.225), (0.75, 0.45), (0.5, 0.65)])
def test_the_highest_threshold_that_finds_enough_is_taken(sensitivity: float, threshold: float) -> None:
    assert calibration.threshold(POSITIVE, SCORE, sensitivity, None) == pytest.approx(threshold)


def test_a_dear_miss_lowers_the_threshold() -> None:
    assert calibration.threshold(POSITIVE, SCORE, None, 0.5) == pytest.approx(0.45)
    assert calibration.threshold(POSITIVE, SCORE, None, 10) == pytest.approx(0.225)


def test_a_score_on_the_threshold_is_enough() -> None:
    decision = {"label": "ill", "threshold": 0.25}
    assert decided({"scores": np.array([0.75, 0.25])}, ["well", "ill"], decision) == (
        True,
        "decision: ill (0.2500 >= 0.2500)",
    )
    assert (
        decided({"scores": np.array([0.9, 0.1])}, ["well", "ill"], decision)[1] == "decision: not ill (0.1000 < 0.2500)"
    )


def test_an_artifact_that_misses_more_than_keras_is_refused() -> None:
    truth, decision = POSITIVE.astype(int), Decision(label="ill", threshold=0.225)
    theirs, ours = ({"scores": np.stack([1 - one, one], axis=1)} for one in (SCORE, SCORE * 0.5))
    beside = decisions.rates_at(decision, ("well", "ill"), truth, ours, theirs)
    found = Validation(Agreement(8, 0.4, 0.5), None, beside)
    (problem,) = decisions.lost(decision, found, 0.02)
    assert "a sensitivity for ill at the threshold of 0.7500, Keras of 1.0000" in problem
    assert decisions.lost(decision, found, 0.3) == []


def test_a_threshold_is_chosen_kept_told_and_verified(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    phases = [{"unfreeze": "head", "epochs": 3, "learning_rate": 1e-2}]
    recipe = text_recipe(phases=phases, head="mean", train={"precision": "float32"})
    label = fine_tune(recipe, tmp_path / "plain").labels[0]
    asked = {"label": label, "sensitivity": 1.0}
    made = fine_tune(recipe.model_validate({**recipe.model_dump(), "threshold": asked}), tmp_path / "run")
    decision = made.record.model["decision"]
    assert decision["label"] == label and decision["validation"]["sensitivity"]["value"] == 1.0
    (artifact,) = export(made, Export(target="onnxruntime"))
    assert artifact.manifest.decision == Decision(label=label, threshold=decision["threshold"])
    rates = artifact.report.validation.beside
    assert rates[f"sensitivity for {label} at the threshold"].value == 1.0
    said = [predict(of, "the cat is big")[0] for of in (made, artifact)]
    assert said[0].document["decision"]["reached"] == said[1].document["decision"]["reached"]
    ran = subprocess.run(
        [sys.executable, "reader.py", ".", "the cat is big"],
        cwd=artifact.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said[1].lines[-1] in ran.stdout and "decision: " in ran.stdout


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ({"label": "a"}, "a threshold needs a sensitivity or a miss_cost, and not both"),
        ({"label": "a", "sensitivity": 0.9, "miss_cost": 2}, "a threshold needs a sensitivity or a miss_cost"),
        ({"label": "a", "sensitivity": 1.5}, "threshold.sensitivity"),
    ],
)
def test_a_threshold_has_one_aim(threshold: dict[str, Any], message: str, text_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=message):
        text_recipe(threshold=threshold)


def test_a_threshold_on_an_unknown_label_is_refused(text_recipe: Callable[..., Any]) -> None:
    from kerastune.training import plan

    with pytest.raises(RecipeError, match=r"threshold\.label = 'nobody', but the labels are"):
        plan.plan(text_recipe(threshold={"label": "nobody", "miss_cost": 2}))

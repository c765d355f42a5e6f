"""Calibration: the temperature is found, answers stay, exports give calibrated scores; curves have intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from kerastune import export, fine_tune
from kerastune.errors import RecipeError
from kerastune.recipe import Export
from kerastune.reporting import report
from kerastune.tasks.learnt import LEARNT, calibration

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 3, 4000)
LOGITS = RNG.normal(size=(4000, 3)) + 1.5 * np.eye(3)[TRUTH]


def test_confidence_that_is_right_as_often_as_it_says_has_no_error() -> None:
    sure = RNG.uniform(0.5, 1, 200_000)
    assert calibration.calibration_error(sure, RNG.uniform(size=len(sure)) < sure) < 0.01
    assert calibration.calibration_error(np.full(100, 0.9), np.arange(100) < 60) == pytest.approx(0.3)


def test_the_temperature_of_logits_that_are_too_large_is_found() -> None:
    own = calibration.temperature(softmax(LOGITS, axis=1), TRUTH, exclusive=True)
    hot = calibration.temperature(softmax(4 * LOGITS, axis=1), TRUTH, exclusive=True)
    assert hot == pytest.approx(4 * own, rel=0.02)


def test_several_labels_have_a_temperature_of_their_own() -> None:
    logits = RNG.normal(size=(5000, 2))
    truth = RNG.uniform(size=(5000, 2)) < 1 / (1 + np.exp(-logits))
    scores = 1 / (1 + np.exp(-3 * logits))
    assert calibration.temperature(scores, truth.astype(np.float32), exclusive=False) == pytest.approx(3, rel=0.1)


def test_cooled_scores_are_heated_back_to_what_they_were() -> None:
    scores = softmax(LOGITS, axis=1)
    again = calibration.heated(calibration.heated(scores, 2.5, True), 1 / 2.5, True)
    np.testing.assert_allclose(again, scores, atol=1e-9)


def test_rates_and_areas_of_two_labels_lie_inside_their_intervals() -> None:
    positive = np.arange(300) < 60
    score = np.where(positive, RNG.normal(0.7, 0.2, 300), RNG.normal(0.4, 0.2, 300))
    found = {**calibration.rates(positive, score > 0.5), **calibration.areas(positive, score)}
    assert set(found) == {"sensitivity", "specificity", "roc_auc", "average_precision"}
    for figure in found.values():
        low, high = figure["interval"]
        assert low < figure["value"] < high


def test_curves_run_from_corner_to_corner() -> None:
    positive, score = np.arange(300) < 60, RNG.uniform(size=300)
    roc = calibration.curves(positive, score)["roc"]
    assert roc[0] == (0, 0) and roc[-1] == (1, 1) and len(roc) <= 101
    assert calibration.curves(np.ones(5, bool), score[:5]) == {}


def test_the_rarer_label_is_what_is_looked_for() -> None:
    truth = np.array([0, 0, 0, 1])
    found = LEARNT["label"].shown.context(("ham", "spam"), truth, {"scores": np.eye(2, dtype=np.float32)[truth]}, None)
    assert found["two"]["label"] == "spam" and found["two"]["sensitivity"]["value"] == 1.0
    assert [plot.title for plot in found["plots"]] == ["Reliability", "ROC curve", "Precision and recall"]


def test_a_calibrated_run_gives_the_same_answers_and_exports_its_scores(
    text_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    phases = [{"unfreeze": "head", "epochs": 3, "learning_rate": 1e-2}]
    train = {"batch_size": 8, "precision": "float32"}
    plain = fine_tune(text_recipe(phases=phases, head="mean", train=train), tmp_path / "plain")
    made = fine_tune(text_recipe(phases=phases, head="mean", train={**train, "calibrate": True}), tmp_path / "run")
    (before,), (after,) = (one.predictions("test")[2].values() for one in (plain, made))
    found = made.record.model["calibration"]
    np.testing.assert_allclose(calibration.heated(before, found["temperature"], True), after, atol=1e-3)
    assert (before.argmax(-1) == after.argmax(-1)).all() and set(found["test"]) == {"before", "after"}
    artifacts = export(made, [Export(target="linux"), Export(target="onnxruntime")])
    assert all(one.report.passed for one in artifacts)
    assert "Calibrated by the temperature" in report.write(made).read_text()


def test_a_number_has_no_probabilities_to_calibrate(text_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"train.calibrate needs probabilities of labels"):
        text_recipe(data={"label_column": "rating", "regression": True}, train={"calibrate": True})

"""The learning curve: nested draws, pretrained beside random weights, on with it after a kill, a sentence to paste."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kerastune import data, fine_tune
from kerastune.cli import cli
from kerastune.errors import KerastuneError, RecipeError
from kerastune.records import CurvePoint, curve_means, read_curve
from kerastune.training import curve


def point(weights: Any, per_label: int | None, examples: int, accuracy: float, seed: int = 0) -> CurvePoint:
    return CurvePoint(weights, per_label, seed, examples, accuracy, 0.1)


POINTS = [
    *(point("pretrained", 8, 16, accuracy, seed) for seed, accuracy in enumerate((0.50, 0.60, 0.55))),
    *(point("pretrained", 16, 32, 0.60, seed) for seed in range(3)),
    point("pretrained", None, 64, 0.65),
    *(point("random", size, count, 0.5) for size, count in ((8, 16), (16, 32), (None, 64))),
]


def test_a_size_has_the_mean_of_its_draws_and_half_their_range() -> None:
    first, *_, last = curve_means(POINTS, "pretrained")
    assert first == (8, 16.0, pytest.approx(0.55), pytest.approx(0.05)) and last == (None, 64.0, 0.65, 0.0)


def test_the_sentence_tells_the_worth_of_twice_the_examples_and_of_the_weights() -> None:
    said = curve.sentence(POINTS, "minilm", 500)
    assert "reaches 65.0% of 500 test examples with all 64, and 55.0% with 8 a label" in said
    assert "twice the examples would bring about 5.0 points more" in said
    assert said.endswith("The same network with random weights reaches 50.0% with all.")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_draw_is_that_of_per_label(seed: int, text_recipe: Callable[..., Any]) -> None:
    whole = data.load(text_recipe().data).train
    some = data.load(text_recipe(data={"per_label": 5, "per_label_seed": seed}).data).train
    drawn = curve.drawn(whole, 5, seed)
    assert {whole.ids[i] for i in drawn} == set(some.ids)
    assert set(drawn) < set(curve.drawn(whole, 10, seed))


def test_a_guess_knows_how_common_labels_are_where_training_evens_them_out(
    text_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    rows = "".join(f"{'a good old' if n % 4 else 'a bad'} text {n},{'usual' if n % 4 else 'rare'}\n" for n in range(80))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    few = {"path": str(tmp_path / "rows.csv"), "per_label": 4}
    recipe = text_recipe(data=few, head="mean", phases=[{"unfreeze": "head", "epochs": 1, "learning_rate": 1e-3}])
    guess = fine_tune(recipe, tmp_path / "run").record.metrics["test"]["baseline"]
    assert (guess["answer"], guess["accuracy"]) == ("always usual", pytest.approx(0.75, abs=0.05))


def test_a_curve_is_measured_and_goes_on_after_a_kill(
    text_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = text_recipe(head="mean", train={"precision": "float32"}), tmp_path / "curve"
    few = text_recipe(head="mean", train={"precision": "float32"}, data={"per_label": 5})
    whole = curve.measure(few, tmp_path / "whole")  # draws from all examples nevertheless
    real, calls = curve._point, []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(curve, "_point", dying)
    with pytest.raises(KeyboardInterrupt):
        curve.measure(recipe, out)
    with (out / "points.jsonl").open("a") as file:
        file.write('{"weights": "pret')  # a line that the kill cut off
    found = curve.measure(recipe, out)
    assert len(calls) == 3 + len(whole.points) - 2  # those that were measured are not measured again
    figures = [[(p.weights, p.per_label, p.seed, p.accuracy) for p in one.points] for one in (whole, found)]
    assert figures[0] == figures[1] and read_curve(out) == found
    assert {p.weights for p in found.points} == {"pretrained", "random"}

    (tmp_path / "my.toml").write_text(recipe.to_toml(), encoding="utf-8")
    told = CliRunner().invoke(cli, ["curve", str(tmp_path / "my.toml"), "-o", str(out)])
    assert told.exit_code == 0 and found.sentence in told.output.replace("\n", " ")
    assert "<svg" in (out / "curve.svg").read_text("utf-8")


def test_a_folder_of_another_curve_is_refused(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    curve._claim(tmp_path / "curve", {"recipe": "a", "data": "b"}, force=False)
    with pytest.raises(KerastuneError, match="it is no curve of this recipe and these data"):
        curve._claim(tmp_path / "curve", {"recipe": "other", "data": "b"}, force=False)
    curve._claim(tmp_path / "curve", {"recipe": "other", "data": "b"}, force=True)
    assert json.loads((tmp_path / "curve" / "key.json").read_text())["recipe"] == "other"


def test_data_without_one_label_have_no_curve(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    numbers = text_recipe(data={"label_column": "rating", "regression": True})
    with pytest.raises(RecipeError, match="A learning curve needs one label for each example"):
        curve.measure(numbers, tmp_path / "curve")


def test_random_weights_are_those_of_the_initialisers(text_recipe: Callable[..., Any]) -> None:
    from kerastune.tasks.text_classification import task

    recipe = text_recipe()
    model = task.build(recipe, recipe.preset, 2, "float32")
    before = [np.array(weight) for weight in model.backbone.weights]
    curve._forget(model.backbone, 0)
    moved = [not np.array_equal(one, weight) for one, weight in zip(before, model.backbone.weights, strict=True)]
    assert sum(moved) > len(moved) / 4

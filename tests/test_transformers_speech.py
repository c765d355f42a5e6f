"""A Whisper as a Hugging Face folder that kerastune wrote: the same model when read back, and in transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import export, fine_tune, predict
from kerastune.errors import RecipeError
from kerastune.recipe import Export
from kerastune.tasks.speech_to_text import feeding, hugging_face_writing
from kerastune.training import train
from kerastune.verifying import runtimes

HERE = runtimes.RUNTIMES["transformers"]
needs_transformers = pytest.mark.skipif(not HERE.version, reason=HERE.install)


@pytest.fixture(scope="module")
def plan(speech_recipe: Callable[..., Any]) -> Any:
    """A Whisper with no weight at its first value."""
    made, random = train.plan(speech_recipe(language="it")), np.random.default_rng(0)
    for weight in made.task.whisper.weights:
        weight.assign(weight.numpy() + 0.05 * random.normal(size=weight.shape).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def folder(plan: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "whisper"
    hugging_face_writing.write(plan.task, "it", False, path)
    return path


def document(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def test_a_folder_that_was_written_is_the_same_model_when_read(
    plan: Any, folder: Path, speech_recipe: Callable[..., Any]
) -> None:
    again = train.plan(speech_recipe(preset=str(folder), language="it")).task
    x = feeding.example(plan.task, plan.splits.train, 2)
    np.testing.assert_array_equal(again(x, training=False), plan.task(x, training=False))
    assert again.settings == plan.task.settings


def test_a_folder_hears_the_window_that_was_trained(folder: Path, speech_recipe: Callable[..., Any]) -> None:
    assert document(folder, "config")["max_source_positions"] == 50  # of 1 s
    with pytest.raises(RecipeError, match="hears 1 s at a time"):
        train.plan(speech_recipe(preset=str(folder), data={"window": 2.0}))


def test_generation_begins_with_the_recipes_language_and_writes_no_special_token(plan: Any, folder: Path) -> None:
    found, settings = document(folder, "generation_config"), plan.task.settings
    assert found["lang_to_id"][found["language"]] == settings["prompt"][1]
    assert found["task_to_id"][found["task"]] == settings["prompt"][2]
    shut, every = set(found["suppress_tokens"]), set(range(plan.task.whisper.vocabulary_size))
    assert every - shut == {*range(settings["words"]), settings["end"]}


def test_weights_are_stored_once_and_in_float32(plan: Any, folder: Path) -> None:
    from safetensors.numpy import load_file

    stored = load_file(folder / "model.safetensors")
    assert {value.dtype.name for value in stored.values()} == {"float32"} and "proj_out.weight" not in stored


@pytest.fixture(scope="module")
def made(speech_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    phases = [{"unfreeze": "all", "lora": False, "epochs": 12, "learning_rate": 4e-3}]
    return fine_tune(speech_recipe(phases=phases), tmp_path_factory.mktemp("runs") / "tones")


@pytest.mark.slow
@needs_transformers
def test_an_artifact_writes_in_transformers_what_keras_writes(made: Any, spoken: Path) -> None:
    (of,) = export(made, Export(target="transformers"))
    (report,) = of.report.runtimes.values()
    assert report.passed and report.golden.max_error < 1e-2
    sounds = [str(spoken / f"{i:02}.wav") for i in range(40, 44)]
    theirs, ours = (predict(one, sounds) for one in (of, made))
    assert [one.document["text"] for one in theirs] == [one.document["text"] for one in ours]

"""Every row of TASKS goes the whole way, from `validate` to an artifact that is served.

It is validated, trained, killed, resumed, scored, exported, verified, asked and served.

All of it runs in another folder than the data's, whose path is relative in the recipe.
"""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import drawing
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kerastune import evaluate, export, fine_tune, resume, tasks, verify
from kerastune.cli import cli
from kerastune.data import ragged
from kerastune.exporting.rehearsal import rehearse
from kerastune.progress import Progress
from kerastune.recipe import read
from kerastune.recipe import recipes as recipe_classes
from kerastune.reporting import report
from kerastune.run import Run
from kerastune.tasks.contract import Building, Device, Feeding, Learning, Task
from kerastune.training import train
from tests import drawn

EXPORTS = [{"target": target} for target in ("linux", "tf-serving")]  # each task's own tests have all formats


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe without its preset, in a folder with its data; and what the model is asked."""

    task: str
    data: dict[str, Any]
    phases: list[dict[str, Any]]
    asked: list[str]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


HEAD = [{"unfreeze": "head", "epochs": 3, "learning_rate": 0.03}]
ALL = [{"unfreeze": "all", "epochs": 2, "learning_rate": 0.01}]
CSV = {"source": "csv", "path": "photos.csv"}
CASES = {
    "a label of an image": Case("image_classification", {"source": "folder", "path": "photos"}, HEAD, ["photo.png"]),
    "labels of an image": Case(
        "image_classification",
        {**CSV, "label_column": "labels", "label_separator": "|"},
        HEAD,
        ["photo.png"],
        {"augment": {"flip": "horizontal"}},
    ),
    "a number of an image": Case(
        "image_classification",
        {**CSV, "label_column": "brightness", "regression": True},
        [{**ALL[0], "epochs": 4, "learning_rate": 3e-3}],
        ["photo.png"],
        {"augment": {"flip": "horizontal"}},
    ),
    "a vector of an image": Case(
        "image_embedding",
        {"source": "folder", "path": "photos", "known_labels": True},
        HEAD,
        ["photo.png"],
        {"dimensions": [8, 4]},
    ),
    "a defect of a piece": Case("anomaly_detection", {"source": "folder", "path": "pieces"}, [], ["piece.png"]),
    "boxes in an image": Case(
        "object_detection",
        {"source": "coco", "path": "shapes", "image_size": 64},
        [{**ALL[0], "epochs": 3, "learning_rate": 5e-3}],
        ["shape.png"],
        {"detector": {"width": 16}, "augment": {"flip": "horizontal"}},
    ),
    "the class of each pixel": Case(
        "image_segmentation",
        {"source": "masks", "path": "drawn", "classes": list(drawn.CLASSES), "image_size": 64},
        [{"unfreeze": "head", "epochs": 6, "learning_rate": 0.01, "optimizer": "adamw"}],
        ["scene.png"],
        {"augment": {"flip": "horizontal", "crop": 0.2}, "segmenter": {"width": 16}},
    ),
    "a label of a sound": Case(
        "audio_classification",
        {"source": "folder", "path": "hits", "group_folders": True, "window": 0.2},
        HEAD,
        ["hit.wav"],
        {"augment": {"gain": 6.0, "noise": 0.5}},
    ),
    "the words in a sound": Case(
        "speech_to_text",
        {"source": "jsonl", "path": "spoken/spoken.jsonl", "split_column": "split", "window": 1.0},
        [{"unfreeze": "all", "lora": False, "epochs": 10, "learning_rate": 4e-3}],
        ["said.wav"],
        {"augment": {"gain": 3.0}, "terms": ["do mi"]},
    ),
    "a label of a text": Case(
        "text_classification",
        {"source": "csv", "path": "texts.csv"},
        [{**ALL[0], "epochs": 8, "learning_rate": 2e-2}],
        ["the cat is old"],
    ),
    "a vector of a text": Case(
        "text_embedding",
        {"source": "csv", "path": "texts.csv", "anchor_column": "text", "positive_column": "pair"},
        ALL,
        ["the cat is old"],
    ),
    "an answer": Case(
        "causal_lm",
        {"source": "jsonl", "path": "pairs.jsonl", "split_column": "split"},
        [{"epochs": 2, "learning_rate": 1e-2}],
        ["sun 0?"],
        {"samples": {"count": 1, "max_tokens": 4}},
    ),
}


ONCE_MORE = {"labels of an image", "a number of an image"}  # the task of another case

_PARAMETERS = [
    pytest.param(name, id=name.replace(" ", "-"), marks=[pytest.mark.slow] if name in ONCE_MORE else [])
    for name in CASES
]


@pytest.fixture(scope="module", params=_PARAMETERS)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def presets(
    preset: Callable[..., Path],
    sound_preset: Path,
    speech_preset: Path,
    text_preset: Callable[..., Path],
    embedder_preset: Callable[..., Path],
    chat_preset: Callable[..., Path],
) -> dict[str, Path]:
    return {
        "image_classification": preset("resnet"),
        "image_embedding": preset("resnet"),
        "anomaly_detection": preset("resnet"),
        "object_detection": preset("resnet"),
        "image_segmentation": preset("resnet"),
        "audio_classification": sound_preset,
        "speech_to_text": speech_preset,
        "text_classification": text_preset("Bert"),
        "text_embedding": embedder_preset("Bert"),
        "causal_lm": chat_preset("Qwen3"),
    }


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    pictures: Path,
    pieces: Path,
    hits: Path,
    spoken: Path,
    texts: Path,
    pairs: Path,
) -> Path:
    """The folder of the data, and of a photo that no model has seen."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(pictures, folder / "photos")
    shutil.copytree(pieces, folder / "pieces")
    shutil.copy(folder / "pieces" / "spot" / "000.png", folder / "piece.png")
    drawing.coco(folder / "shapes", 64)
    shutil.copy(folder / "shapes" / "images" / "001.png", folder / "shape.png")
    drawn.write(folder / "drawn")
    shutil.copy(folder / "drawn" / "images" / "000.png", folder / "scene.png")
    shutil.copytree(hits, folder / "hits")
    shutil.copy(folder / "hits" / "low" / "kit3" / "2.wav", folder / "hit.wav")
    shutil.copytree(spoken, folder / "spoken")
    shutil.copy(folder / "spoken" / "41.wav", folder / "said.wav")
    shutil.copy(texts, folder / "texts.csv")
    shutil.copy(pairs, folder / "pairs.jsonl")
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "labels", "brightness"])
        for i, path in enumerate(sorted((folder / "photos").rglob("*.png"))):
            factor, image = 0.3 + 0.7 * (i % 7) / 6, Image.open(path)
            dimmed = Image.fromarray((np.asarray(image) * factor).astype(np.uint8))
            dimmed.save(folder / f"{i}.png")
            labels = [path.parent.name, *(["bright"] if factor > 0.6 else [])]
            rows.writerow([f"{i}.png", "|".join(labels), float(np.asarray(dimmed).mean())])
    shutil.copy(folder / "3.png", folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def wanted(case: Case, home: Path, presets: dict[str, Path]) -> Any:
    """The recipe, read in the folder of its data; from then on the process is somewhere else."""
    values = {
        "task": case.task,
        "preset": str(presets[case.task]),
        "data": case.data,
        # Nothing is left to `auto`, which decides by timing: two trainings are compared bit for bit.
        "train": {"batch_size": 8, "checkpoint_every": "2 steps", "xla": False, "precision": "float32"},
        **({"phases": case.phases} if case.phases else {}),
        "exports": EXPORTS,
        **case.more,
    }
    import tomli_w

    (home / "recipe.toml").write_text(tomli_w.dumps(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return read("recipe.toml")


@pytest.fixture(scope="module")
def made(wanted: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A trained run; its artifacts are in its exports."""
    away = tmp_path_factory.mktemp("away")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(away)
        run = fine_tune(wanted, "run")
        export(run)
        yield run


def artifacts(run: Run) -> list[Path]:
    return sorted(path.parent for path in run.exports.glob("*/manifest.json"))


def same(one: Any, other: Any) -> bool:
    """Whether two JSON documents say the same; numbers to 1e-3, and labels in any order."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        if one and isinstance(one[0], dict) and "label" in one[0]:
            one, other = (sorted(rows, key=lambda row: row["label"]) for rows in (one, other))
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == pytest.approx(other, rel=1e-3, abs=1e-3)) if isinstance(one, float) else bool(one == other)


def test_every_task_has_a_case() -> None:
    assert {case.task for case in CASES.values()} == set(tasks.TASKS) == set(recipe_classes())


def test_its_exports_are_rehearsed_before_it_is_trained(wanted: Any) -> None:
    first = wanted.model_copy(update={"exports": wanted.exports[:1]})
    rows, failure = rehearse(first, train.plan(first))
    assert failure is None
    assert [row["passed"] for row in rows] == [True]


class Dies(Progress):
    """Ends the training in the middle of its second epoch, or of its only pass, as an exception of ours would."""

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if (", epoch 2/" in stage or stage.startswith("fitting")) and done > 1:
            raise RuntimeError("dies")


def test_a_training_that_dies_is_gone_on_with_to_the_same_bits(made: Run, wanted: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="dies"):
        fine_tune(wanted, tmp_path / "again", progress=Dies())
    _, _, expected = made.predictions("test")
    _, _, found = resume(tmp_path / "again").predictions("test")
    assert expected.keys() == found.keys()
    arrays = ragged.packed(found)
    for name, array in ragged.packed(expected).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_it_is_scored_again_to_the_same_figures(made: Run) -> None:
    assert evaluate(made) == made.record.metrics


def test_every_artifact_is_verified_on_the_whole_validation_split(made: Run) -> None:
    assert len(artifacts(made)) == len(EXPORTS)
    for folder in artifacts(made):
        found = verify(folder)
        assert found.passed and found.validation and found.validation.metric and found.validation.metric.examples > 1


def test_the_run_and_its_artifacts_give_the_same_answer(made: Run, case: Case, home: Path) -> None:
    asked = [str(home / one) if (home / one).exists() else one for one in case.asked]

    def answer(folder: Path) -> Any:
        result = CliRunner().invoke(cli, ["predict", str(folder), *asked, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    expected = answer(made.folder)
    for folder in artifacts(made):
        assert same(answer(folder), expected)


def test_the_report_shows_its_metric_and_every_artifact(made: Run) -> None:
    page = report.write(made).read_text("utf-8")
    assert made.metric.replace("_", " ") in page
    assert all(folder.name in page for folder in artifacts(made))


def test_it_is_served(made: Run) -> None:
    command = [sys.executable, "-m", "kerastune", "serve", str(made.exports / "tf-serving")]
    with subprocess.Popen([*command, "--port", "0", "--grpc-port", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = re.search(r"http://\S+", server.stdout.readline())
            assert address
            with urllib.request.urlopen(address[0]) as reply:
                assert json.load(reply)["model_version_status"][0]["state"] == "AVAILABLE"
        finally:
            server.terminate()


# --- the contract --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", [Task, Device, Building, Feeding, Learning])
def test_a_task_that_lacks_a_member_cannot_be_made(contract: type) -> None:
    """mypy finds it before this does."""
    missing = dataclasses.MISSING
    needed = [one.name for one in dataclasses.fields(contract) if one.default is one.default_factory is missing]
    contract(**dict.fromkeys(needed))
    for name in needed:
        with pytest.raises(TypeError, match=name):
            contract(**dict.fromkeys(set(needed) - {name}))

"""The commands from a recipe to an answer, each from another folder than the data's."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kerastune import run
from kerastune.cli import cli
from kerastune.recipe import Export
from kerastune.reporting import comparing


def invoke(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, recipe: Callable[..., Any], pictures: Path) -> Path:
    """A run with one artifact, made where the data are named by a relative path."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "mine.toml").write_text(recipe("resnet", phases=[{"unfreeze": "head", "learning_rate": 3e-2}]).to_toml())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        overrides = ["-s", f"data.path={os.path.relpath(pictures)}", "-s", 'exports=[{format="onnx"}]']
        result = invoke("run", folder / "mine.toml", *overrides, "-o", folder / "my run")
    assert re.search(r"^test accuracy [\d.]+, validation accuracy [\d.]+$", result.stdout, re.MULTILINE)
    assert re.search(r"^onnx +onnx +none +[\d.]+ .* onnxruntime$", result.stdout, re.MULTILINE)
    assert re.search(
        r"^phase 1/1 \(head\), from epoch 1: 1 epoch; \d+ optimizer steps?; 195 of", result.stderr, re.MULTILINE
    )
    (line,) = re.findall(r"^Next: (kerastune predict .*)\n  or: open .* in a browser$", result.stderr, re.MULTILINE)
    of, example = shlex.split(line)[2:]
    assert of == f"{folder.name}/my run/exports/onnx" and (folder.parent / example).is_relative_to(pictures)
    return folder / "my run"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_evaluated_and_reported_from_another_folder(run_folder: Path) -> None:
    result = invoke("evaluate", run_folder)
    assert re.search(r"^test: .*accuracy [\d.]+", result.stdout, re.MULTILINE)
    assert re.search(r"^red +[\d.]+ +[\d.]+ +[\d.]+ +\d+$", result.stdout, re.MULTILINE)
    assert f"Next: kerastune report '{run_folder}'" in result.stderr
    assert invoke("report", run_folder).stdout.strip() == f"{run_folder}/report.html"


def test_resume_makes_the_exports_that_were_refused_or_killed(run_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_folder, tmp_path / "run")
    (copy / "report.html").unlink()
    (copy / "exports" / "onnx").rename(copy / "exports" / ".onnx-0123abcd.partial")
    refused = {"name": "onnx", "format": "onnx", "quantize": "none", "error": "The machine had no memory left."}
    (copy / "exports" / "onnx.failed.json").write_text(json.dumps(refused))
    result = invoke("resume", copy)
    assert re.search(r"^onnx +onnx +none", result.stdout, re.MULTILINE)
    assert {path.name for path in (copy / "exports").iterdir()} == {"onnx"}
    assert (copy / "report.html").is_file()
    again = CliRunner().invoke(cli, ["resume", str(copy)])
    assert "There is nothing to resume" in again.stderr and "is complete" in again.stderr


def test_a_run_is_exported_from_another_folder(run_folder: Path) -> None:
    result = invoke("export", run_folder, "--target", "linux", "-o", "my artifact", "--max-accuracy-drop", "0.1")
    assert re.search(r"^litert [\d.]+ .* (same|too few to tell)$", result.stdout, re.MULTILINE)
    assert "Next: kerastune predict 'my artifact' photo.jpg" in result.stderr  # away from its run, which names a file
    assert "kerastune targets show linux" in result.stderr


def test_an_artifact_without_its_run_says_loudly_what_was_not_checked(run_folder: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run_folder / "exports" / "onnx", tmp_path / "onnx")
    assert "NOT scored on the validation split" in invoke("verify", alone, "--runtime", "onnxruntime").stdout
    result = invoke("verify", alone, "--runtime", "onnxruntime", "--run", run_folder)
    assert "NOT scored" not in result.stdout


def test_the_largest_error_is_the_same_figure_in_both_tables(run_folder: Path) -> None:
    shown = invoke("verify", run_folder / "exports" / "onnx", "--runtime", "onnxruntime").stdout
    errors = re.findall(r"^onnx.* (\d\.\de[-+]\d\d) ", shown, re.MULTILINE)
    assert len(errors) == 2 and errors[0] == errors[1]


def test_an_artifact_is_verified_benchmarked_and_asked(run_folder: Path, pictures: Path) -> None:
    artifact, photo = run_folder / "exports" / "onnx", next(pictures.rglob("*.png"))
    assert "onnxruntime" in invoke("verify", artifact, "--runtime", "onnxruntime").stdout
    refused = ["refused.failed.json"]  # of RUN/exports/*
    result = invoke("benchmark", artifact, *refused, "--runtime", "onnxruntime", "--plot", "latency.png", "--json")
    assert json.loads(result.stdout)[0]["accuracy"] > 0
    assert Path("latency.png").is_file()
    assert re.match(rf"{photo}\n  [\d.]+  \w+\n", invoke("predict", artifact, photo, "--top", "1").stdout)
    same = [json.loads(invoke("predict", of, photo, "--json").stdout)[0]["labels"][0] for of in (artifact, run_folder)]
    assert same[0]["label"] == same[1]["label"]
    assert same[0]["probability"] == pytest.approx(same[1]["probability"], abs=1e-4)


def test_runs_are_listed_with_what_to_do_next(run_folder: Path) -> None:
    half = run_folder.with_name("half.partial")
    half.mkdir(exist_ok=True)
    shutil.copy(run_folder / "recipe.toml", half)
    run_folder.with_name("cut").mkdir()
    (run_folder.with_name("cut") / "run.json").write_text("{")
    rows = {
        Path(row["run"]).name: row for row in json.loads(invoke("runs", "list", run_folder.parent, "--json").stdout)
    }
    assert (rows["my run"]["status"], rows["my run"]["metric"]) == ("complete", "accuracy")
    assert 0 < rows["my run"]["test"] <= 1 and rows["my run"]["size_bytes"] > 100_000
    assert (rows["half"]["status"], rows["half"]["next"]) == (
        "unfinished",
        f"kerastune resume {run_folder.parent}/half",
    )
    assert (rows["cut"]["status"], rows["cut"]["next"]) == ("damaged", f"kerastune runs remove {run_folder.parent}/cut")
    assert "my run" in invoke("runs", "list", run_folder.parent).stdout
    assert invoke("runs").stdout == "There are no runs in runs.\n"


def test_two_runs_stand_side_by_side_with_paired_intervals(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    recipe = other / "recipe.toml"
    recipe.write_text(re.sub(r"^seed = 0", "seed = 7", recipe.read_text(), flags=re.MULTILINE))
    with np.load(other / "predictions.npz") as stored:
        arrays = dict(stored)
    arrays["test/predictions/scores"] = np.roll(arrays["test/predictions/scores"], 1, axis=1)
    np.savez(other / "predictions.npz", **arrays)
    found = json.loads(invoke("runs", "compare", run_folder, other, "--json").stdout)
    assert found["recipe"] == ["seed: 0 in A, 7 in B"]
    assert [(one["split"], one["verdict"]) for one in found["metrics"]] == [
        ("validation", "the same"),
        ("test", "worse"),
    ]
    difference, (low, high) = found["metrics"][1]["difference"]
    assert low <= difference <= high < 0
    assert found["artifacts"][0]["name"] == "onnx" and found["artifacts"][0]["a"] == found["artifacts"][0]["b"]
    assert re.search(
        r"^test accuracy +[\d.]+ \([\d.]+ to [\d.]+\)",
        invoke("runs", "compare", run_folder, other).stdout,
        re.MULTILINE,
    )


def test_an_export_that_only_one_run_has_is_named_in_words(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    recipe = run.recipe_of(other)
    more = (*recipe.exports, Export(target="android", quantize="int8"))
    longer = (*recipe.phases, recipe.phases[0].model_copy(update={"epochs": 9}))
    (other / "recipe.toml").write_text(recipe.model_copy(update={"exports": more, "phases": longer}).to_toml())
    phase, export = comparing.compare(run.load(run_folder), run.load(other)).recipe
    assert phase.startswith("phases.1: not set in A, unfreeze = 'head', epochs = 9, learning_rate = ")
    assert export.startswith("exports.android-int8: not set in A, target = 'android', quantize = 'int8', max_acc")


def test_runs_are_removed_when_the_user_says_so_and_nothing_else_is(run_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_folder, tmp_path / "copy")
    asked = CliRunner().invoke(cli, ["runs", "remove", str(copy)], input="n\n")
    assert asked.exit_code == 1 and copy.is_dir()
    (tmp_path / "photos").mkdir()
    refused = CliRunner().invoke(cli, ["runs", "remove", str(copy), str(tmp_path / "photos"), "--yes"])
    assert "is no run" in refused.output and copy.is_dir()
    removed = invoke("runs", "remove", copy, f"{copy}/", copy, "--yes", "--json")
    assert json.loads(removed.stdout)["removed"] == [str(copy)]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]

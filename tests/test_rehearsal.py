"""`validate` tries a recipe's exports before anything is trained."""

import json
import shlex
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from kerastune import child
from kerastune.cli import cli
from kerastune.data import few
from kerastune.errors import ConverterError
from kerastune.exporting import rehearsal
from kerastune.tasks.learnt import statistics
from kerastune.training.plan import plan

EXPORTS = [
    {"target": "linux", "quantize": "auto", "max_accuracy_drop": 0.0},
    {"format": "onnx", "name": "too-much", "max_size_mb": 0.01, "max_latency_ms": 1e-6},
]


def validate(recipe, path, *options):
    path.write_text(recipe.to_toml())
    return CliRunner().invoke(cli, ["validate", str(path), *options], catch_exceptions=False)


def test_every_export_that_will_fail_is_named_before_anything_is_trained(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = validate(recipe("resnet", exports=EXPORTS), tmp_path / "mine.toml", "--json")
    assert result.exit_code == 3
    assert "max_size_mb is 0.01" in result.stderr and "max_latency_ms is 1e-06" in result.stderr
    good, bad = json.loads(result.stdout)["exports"]
    assert (good["quantize"], good["passed"]) == ("int8", True)  # no accuracy is judged, however little may be lost
    assert good["size_bytes"] > 0 and 20 < good["converter_peak_mb"] < 20_000 and good["latency_ms"] > 0
    assert not bad["passed"] and "max_size_mb" in bad["problems"][0]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_broken_converter_is_exit_code_4(recipe, tmp_path, monkeypatch):
    ran = child.run

    def broken(what, arguments, **options):
        return ran(what, ["-c", "raise ValueError('why')"] if "converter" in what else arguments, **options)

    monkeypatch.setattr(child, "run", broken)
    result = validate(recipe("resnet", exports=[{"format": "onnx"}]), tmp_path / "mine.toml")
    assert result.exit_code == ConverterError.exit_code
    assert "ValueError: why" in result.stdout and "The onnx converter failed" in result.stderr


def test_the_exports_can_be_left_out(recipe, tmp_path):
    result = validate(recipe("resnet", exports=EXPORTS), tmp_path / "mine.toml", "--no-exports")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "exports: linux-auto, too-much")


def test_a_split_that_is_too_small_to_judge_is_named_beforehand(recipe, tmp_path):
    exports = [{"target": "linux"}, {"target": "linux", "quantize": "dynamic", "max_accuracy_drop": 0.05}]
    wanted = recipe("resnet", exports=exports)
    document = json.loads(validate(wanted, tmp_path / "a.toml", "--no-exports", "--json").stdout)
    (warning,), count = document["warnings"], document["examples"]["validation"]
    assert warning.startswith(f"linux-dynamic: {count} validation images are too few to tell")
    assert f"one of them is {1 / count:.4f}, and it takes 54" in warning
    assert statistics._of_proportions(0, 0, 54)[0][1] <= 0.05 < statistics._of_proportions(0, 0, 53)[0][1]


def test_the_next_step_runs_what_was_validated(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["-s", "train.batch_size=4", "-s", "phases.0.unfreeze=match:^(block|stem)"]
    result = validate(recipe("resnet"), Path("my recipe.toml"), *overrides)
    step = result.stderr.rpartition("Next: ")[2]
    assert shlex.split(step) == ["kerastune", "run", "my recipe.toml", *overrides]


def test_an_untrained_model_says_something_else_about_every_image(recipe, tmp_path):
    made = plan(recipe("efficientnet"))
    of = rehearsal.untrained(made, tmp_path, rehearsal.Progress())
    scores = of.predictions("validation")[2]["scores"]
    assert np.ptp(scores, axis=0).min() > 0.2
    assert len(few(made.splits.train, 5)) == 5 and len(set(few(made.splits.train, 3).labels)) == 3

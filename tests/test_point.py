"""A new kind of task is one folder and one row in each table: image → a point, added from outside the package."""

import csv

import numpy as np
import pytest
from PIL import Image
from point.learnt import POINT as LEARNT_POINT
from point.truth import POINT as TRUE_POINT

from kerastune import fine_tune, tasks
from kerastune.data import TRUTHS
from kerastune.progress import Progress
from kerastune.recipe import parse, read
from kerastune.tasks.learnt import LEARNT
from kerastune.training.loop import Training
from kerastune.training.plan import plan


@pytest.fixture
def needles(tmp_path):
    """Black pictures with a bright spot, and a CSV of where it is."""
    random = np.random.default_rng(0)
    with (tmp_path / "needles.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label"])
        for i in range(80):
            x, y = random.integers(4, 28, 2)
            pixels = np.zeros((32, 32, 3), np.uint8)
            pixels[y - 3 : y + 4, x - 3 : x + 4] = 255
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
            rows.writerow([f"{i}.png", f"{x} {y}"])
    return tmp_path / "needles.csv"


@pytest.fixture
def wanted(needles, preset, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "image_point", "point")
    monkeypatch.setitem(TRUTHS, "point", TRUE_POINT)
    monkeypatch.setitem(LEARNT, "point", LEARNT_POINT)
    recipe = needles.with_name("needles.toml")
    recipe.write_text(
        f'''task = "image_point"
preset = "{preset("resnet")}"
data = {{source = "csv", path = "{needles}"}}
train = {{batch_size = 8}}
phases = [{{unfreeze = "all", epochs = 6, learning_rate = 3e-3}}]
'''
    )
    return read(str(recipe))


def test_a_point_is_learnt_chosen_by_its_distance_and_stored_by_its_name(wanted, tmp_path):
    run = fine_tune(wanted, tmp_path / "run")
    distances = [row["val_distance"] for row in run.history]
    ids, truth, predictions = run.predictions("test")
    assert truth.shape == predictions["point"].shape == (len(ids), 2)
    assert run.record.metric == "distance"
    assert run.record.metrics["validation"]["distance"] == pytest.approx(min(distances), rel=1e-3)
    assert min(distances) < distances[0]


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_kept_view_keeps_the_truth_that_moved_with_it(wanted, tmp_path, monkeypatch, cache):
    """Every other point is mirrored in the first view, and the others in the second: 31 - x."""
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path))
    settings = {"train": {"batch_size": 8, "cache": cache, "cache_views": 2}, "augment": {"color": 0.1}}
    phases = [{"unfreeze": "head", "epochs": 2}]
    made = plan(parse({**wanted.model_dump(mode="json"), **settings, "phases": phases}, "views"))
    own = made.splits.train.labels
    for title in ("computed", "found"):  # the second time on disk
        training = Training(made, tmp_path, {}, Progress())
        views = training.feed(2).kept.views
        for number, view in enumerate(views):
            found, turned = view.targets.truth["point"], (np.arange(len(own)) + number) % 2 == 1
            np.testing.assert_allclose(found[turned], own[turned] * [-1, 1] + [31, 0], err_msg=title)
            np.testing.assert_array_equal(found[~turned], own[~turned])
        _, truth, _ = next(training.feed(2).train(2, 0))
        assert not set(map(tuple, truth["point"])) <= set(map(tuple, own))


def test_a_bad_point_is_a_problem_with_its_line(wanted, needles, tmp_path):
    from kerastune.errors import DataError

    needles.write_text(needles.read_text().replace("0.png,", "0.png,far ", 1))
    with pytest.raises(DataError, match="line 2: the point is"):
        fine_tune(wanted, tmp_path / "run")

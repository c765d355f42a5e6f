"""Anomaly detection: what is read, what the statistics say, what the threshold keeps, and what a planted fault does."""

import dataclasses
import shutil
import subprocess
import sys
from importlib import resources
from types import SimpleNamespace

import keras_hub
import numpy as np
import pytest
from PIL import Image

from kerastune import data, export, fine_tune, predict, verify
from kerastune.data.truths import OUTLINE, outlines
from kerastune.errors import DataError, RecipeError, VerificationError
from kerastune.recipe import Export, parse
from kerastune.targets.browser import reader as browser
from kerastune.tasks.anomaly_detection import fitting, task
from kerastune.tasks.anomaly_detection.conformal import conformal, fewest_for
from kerastune.tasks.anomaly_detection.evening import evened
from kerastune.tasks.anomaly_detection.fitting import coreset
from kerastune.tasks.anomaly_detection.model import AnomalyDetector, seen_size
from kerastune.tasks.image_backbones import at_size
from kerastune.tasks.learnt.defects import DEFECTS, auroc
from kerastune.verifying import runtimes
from tests.test_browser import seen


@pytest.fixture
def wanted(pieces, preset):
    """A recipe on the pieces; keyword arguments replace its tables."""

    def make(path=pieces, detector=None, data=None, **changes):
        values = {
            "name": "pieces",
            "task": "anomaly_detection",
            "preset": str(preset("resnet")),
            "data": {"source": "folder", "path": str(path), **(data or {})},
            "detector": detector or {},
            "train": {"batch_size": 16},
        }
        return parse({**values, **changes}, "test")

    return make


@pytest.fixture(scope="module")
def made(pieces, preset, tmp_path_factory):
    """A run on the pieces, with two exported files."""
    values = {
        "name": "pieces",
        "task": "anomaly_detection",
        "preset": str(preset("resnet")),
        "data": {"source": "folder", "path": str(pieces)},
        "exports": [{"target": "linux"}, {"target": "onnxruntime"}],
    }
    run = fine_tune(parse(values, "test"), tmp_path_factory.mktemp("anomaly") / "run")
    export(run)
    return run


# --- data ----------------------------------------------------------------------------------------------------


def test_defective_pictures_are_never_in_train(wanted):
    splits = data.load(wanted().data)
    assert splits.labels == ("good", "spot", "stripes")
    assert set(splits.train.labels["kind"]) == {0}
    for split in (splits.validation, splits.test):
        assert set(split.labels["kind"]) == {0, 1, 2}


def test_no_picture_is_in_two_splits(wanted):
    splits = data.load(wanted().data)
    digests = [set(split.digests) for split in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*digests)) == sum(map(len, digests))


def test_a_mask_is_read_beside_its_picture(wanted, pieces):
    test = data.load(wanted().data).test
    i = next(i for i, id in enumerate(test.ids) if id.startswith("spot"))
    pixels = np.asarray(Image.open(pieces / "ground_truth" / "spot" / f"{test.ids[i][5:8]}_mask.png")) > 0
    expected = pixels.repeat(OUTLINE // 32, 0).repeat(OUTLINE // 32, 1)
    np.testing.assert_array_equal(outlines(test.labels[i : i + 1])[0], expected)


def test_good_pictures_alone_are_enough(wanted, pieces, tmp_path):
    shutil.copytree(pieces / "good", tmp_path / "only" / "good")
    splits = data.load(wanted(tmp_path / "only").data)
    assert splits.labels == ("good",)


def test_declared_splits_are_kept_as_mvtec_lays_them_out(wanted, pieces, tmp_path):
    shutil.copytree(pieces / "good", tmp_path / "train" / "good")
    shutil.copytree(pieces / "spot", tmp_path / "test" / "spot")
    shutil.copytree(pieces / "ground_truth", tmp_path / "ground_truth")
    (tmp_path / "test" / "good").mkdir()
    for i in range(20):
        (tmp_path / "train" / "good" / f"{i:03}.png").rename(tmp_path / "test" / "good" / f"{i:03}.png")
    splits = data.load(wanted(tmp_path).data)
    assert (len(splits.test), set(splits.validation.labels["kind"])) == (32, {0})
    assert outlines(splits.test.labels).any(axis=(1, 2)).sum() == 12


def test_a_defect_in_train_is_a_problem(wanted, pieces, tmp_path):
    for kind in ("good", "spot"):
        shutil.copytree(pieces / kind, tmp_path / "train" / kind)
    with pytest.raises(DataError, match="is defective and in train"):
        data.load(wanted(tmp_path).data)


def test_a_folder_without_good_pictures_is_refused(wanted, pieces, tmp_path):
    shutil.copytree(pieces / "good", tmp_path / "ok")
    with pytest.raises(DataError, match=r"holds no 'good' for good pictures, but ok"):
        data.load(wanted(tmp_path).data)
    assert data.load(wanted(tmp_path, data={"good": "ok"}).data).labels == ("ok",)


def test_rows_of_a_csv_are_read_as_folders_are(wanted, pieces, tmp_path):
    rows = [f"{path.relative_to(pieces)},{path.parent.name}" for path in sorted(pieces.glob("[gs]*/*.png"))]
    kinds = [row for row in rows if not row.startswith("ground")]
    (tmp_path / "rows.csv").write_text("\n".join(["image,label", *kinds]))
    source = {"source": "csv", "images": str(pieces), "masks": str(pieces / "ground_truth")}
    read = data.load(wanted(tmp_path / "rows.csv", data=source).data)
    expected = data.load(wanted().data)
    assert read.labels == expected.labels and read.test.digests == expected.test.digests
    np.testing.assert_array_equal(read.test.labels, expected.test.labels)
    with pytest.raises(DataError, match=r"holds no 'fine' for good pictures, but good, spot, stripes"):
        data.load(wanted(tmp_path / "rows.csv", data={**source, "good": "fine"}).data)


def test_defective_images_of_tfds_s_train_are_judged_and_never_learnt(wanted, tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    random = np.random.default_rng(0)
    values = {"image": random.integers(0, 255, (60, 16, 16, 3), np.uint8), "label": (np.arange(60) % 4 == 0) * 1}
    features = {"image": tfds.features.Image(shape=(16, 16, 3)), "label": tfds.features.ClassLabel(names=["ok", "bad"])}
    tfds.dataset_builders.store_as_tfds_dataset(
        "pieces",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(values)},
        data_dir=tmp_path,
    )
    recipe = {"name": "pieces", "task": "anomaly_detection", "preset": wanted().preset}
    source = {"source": "tfds", "name": "pieces", "data_dir": str(tmp_path), "good": "ok"}
    splits = data.load(parse({**recipe, "data": source}, "test").data)
    assert set(splits.train.labels["kind"]) == {0}
    assert [int((part.labels["kind"] > 0).sum()) for part in (splits.validation, splits.test)] == [10, 5]


# --- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phases": [{"unfreeze": "all"}]}, "trains no phases"),
        ({"train": {"xla": True}}, "train.xla: one pass"),
        ({"detector": {"scores": ["image", "image"]}}, "names a score twice"),
        ({"detector": {"false_alarm_rate": 0}}, "false_alarm_rate"),
    ],
)
def test_what_one_pass_has_no_use_for_is_refused(wanted, changes, words):
    with pytest.raises(RecipeError, match=words):
        wanted(**changes)


def test_a_rate_that_the_pictures_cannot_keep_is_refused(wanted, tmp_path):
    with pytest.raises(DataError, match=r"false_alarm_rate = 0\.001 takes 999 held-out good pictures, but validation"):
        fine_tune(wanted(detector={"false_alarm_rate": 0.001}), tmp_path / "run")


def test_pictures_of_several_sizes_need_one_to_look_at_them(wanted, pieces, tmp_path):
    shutil.copytree(pieces / "good", tmp_path / "good")
    for i in range(60):
        path = tmp_path / "good" / f"{i:03}.png"
        Image.open(path).resize((40, 32)).save(path)
    with pytest.raises(DataError, match="have 2 sizes, from 32 x 32 to 40 x 32 pixels"):
        fine_tune(wanted(tmp_path), tmp_path / "run")


def test_pictures_of_another_size_for_validation_are_named_and_not_resized(wanted, pieces, tmp_path):
    for n, split in enumerate(("train", "validation", "test")):
        (tmp_path / "line" / split / "good").mkdir(parents=True)
        for path in sorted((pieces / "good").iterdir())[20 * n : 20 * n + 20]:
            shutil.copy(path, tmp_path / "line" / split / "good")
    other = next((tmp_path / "line" / "validation" / "good").iterdir())
    Image.open(other).resize((40, 32)).save(other)
    with pytest.raises(DataError, match=rf"have 32 x 32 pixels .* another size: .*{other.name} \(40 x 32\)"):
        fine_tune(wanted(tmp_path / "line"), tmp_path / "run")


def test_pictures_too_large_to_be_looked_at_are_refused_with_what_to_do(wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "_MOST_PIXELS", 1000)
    with pytest.raises(DataError, match="have 32 x 32 pixels, but only 16 x 16 to 1,000") as caught:
        fine_tune(wanted(), tmp_path / "run")
    assert "Cut all pictures into parts of one size" in caught.value.hint


def test_a_large_picture_is_seen_in_parts_that_give_the_scores_of_the_whole(preset):
    backbone = keras_hub.models.Backbone.from_preset(str(preset("resnet")))
    x = np.random.default_rng(0).uniform(0, 255, (4, 160, 312, 3)).astype(np.float32)
    whole, parts = (
        AnomalyDetector(at_size(backbone, seen_size((160, 312), backbone, tile)), (160, 312), 1 / 255, None, tile=tile)
        for tile in (2048, 192)
    )
    assert whole.backbone.input_shape[1:3] == (160, 312) and parts.backbone.input_shape[1:3] == (160, 192)
    fitting.vary(whole, x)
    parts.set_weights(whole.get_weights())
    ours, theirs = parts(x), whole(x)
    assert ours["heat_map"].shape == (4, 40, 78) and np.ptp(ours["heat_map"]) > 0.1
    for name in ("heat_map", "parts"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-3)


def test_large_pictures_are_read_few_at_a_time():
    found = [
        fitting.order(SimpleNamespace(image_size=(side, 1024)), range(50), 32).batch_size for side in (64, 2048, 6000)
    ]
    assert found == [32, 2, 1]


def test_pictures_that_are_made_much_smaller_are_said(wanted, pieces, tmp_path):
    shutil.copytree(pieces / "good", tmp_path / "good")
    for path in (tmp_path / "good").iterdir():
        Image.open(path).resize((40, 32)).save(path)
    recipe, model = wanted(tmp_path, data={"image_size": 16}), SimpleNamespace(image_size=(16, 16), cell=4)
    (warning,) = task.describe(recipe, model, data.load(recipe.data))["warnings"]
    assert warning.startswith("pictures of 40 x 32 pixels are made 2.5 times smaller (data.image_size = 16)")
    assert "warnings" not in task.describe(recipe, SimpleNamespace(image_size=(20, 20), cell=4), data.load(recipe.data))


def test_there_is_no_learning_rate_to_find(wanted):
    from kerastune.training import lr_finder

    with pytest.raises(RecipeError, match="has no learning rate"):
        lr_finder.find(wanted())


# --- the threshold -------------------------------------------------------------------------------------------


def test_the_threshold_keeps_its_rate_on_average_over_many_draws():
    random = np.random.default_rng(0)
    draws = random.standard_t(3, (2000, 99))
    above = [(random.standard_t(3, 200) > conformal(scores, 0.05).threshold).mean() for scores in draws]
    assert 0.04 < np.mean(above) <= 0.05  # between two scores, so a little less


def test_the_interval_holds_the_rate_of_one_draw_19_times_in_20():
    random = np.random.default_rng(1)
    held = 0
    for scores in random.uniform(size=(1000, 199)):
        found = conformal(scores, 0.05)
        held += found.interval[0] <= 1 - found.threshold <= found.interval[1]
    assert held / 1000 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("rate", "count"), [(0.01, 99), (0.05, 19), (0.5, 1)])
def test_a_rate_takes_so_many_held_out_pictures(rate, count):
    assert fewest_for(rate) == count
    conformal(np.arange(count, dtype=float), rate)
    with pytest.raises(ValueError, match="keep no rate"):
        conformal(np.arange(count - 1, dtype=float), rate)


def test_no_held_out_score_lies_on_the_threshold():
    scores = np.random.default_rng(0).normal(size=200)
    found = conformal(scores, 0.05)
    assert (scores > found.threshold).sum() == 200 - found.rank == 9
    assert np.abs(scores - found.threshold).min() > 0


# --- statistics ----------------------------------------------------------------------------------------------


def test_a_coreset_covers_better_than_chance():
    points = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)

    def farthest(chosen):
        return np.sqrt(((points[:, None] - points[chosen]) ** 2).sum(-1)).min(1).max()

    assert farthest(coreset(points, 50, 0)) < 0.8 * farthest(np.arange(50))


def test_a_loud_border_is_brought_down_to_the_inside_and_a_calm_one_left():
    random = np.random.default_rng(0)
    maps = random.normal(5, 1, (400, 24, 24))
    maps[:, 0], maps[:, :, -1] = random.normal(9, 3, (400, 24)), random.normal(2, 0.1, (400, 24))
    gain, shift = evened(maps.mean(0), np.square(maps).mean(0))
    found = maps * gain + shift
    assert (found[:, 0, :-1].mean(), found[:, 0, :-1].std()) == pytest.approx((5, 1), abs=0.1)
    np.testing.assert_array_equal(found[:, 1:-1, -1], maps[:, 1:-1, -1])
    np.testing.assert_array_equal(found[:, 4:-4, 4:-4], maps[:, 4:-4, 4:-4])


def test_auroc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    good, bad = random.integers(0, 9, 40).astype(float), random.integers(2, 12, 30).astype(float)
    assert auroc(good, bad) == pytest.approx(roc_auc_score([0] * 40 + [1] * 30, [*good, *bad]))


def test_it_tells_good_pieces_from_defective_ones(made):
    found = made.record.metrics["test"]
    assert found["auroc"] > 0.95
    assert set(found["per_kind"]) == {"spot", "stripes"}
    sizes = {size: row["of"] for size, row in found["per_size"].items()}
    assert sizes == {"more than 2 %": found["per_kind"]["spot"]["of"]}  # 25 of 1,024 pixels; stripes have no mask
    assert 0 < found["pro"] <= 1


def test_what_was_decided_is_in_the_record(made):
    decided = {one.key: one for one in made.record.decisions}
    assert decided["detector.patches"].got in ("gaussian", "memory_bank")
    assert "0.01 takes 99 held-out good pictures" in decided["detector.false_alarm_rate"].why
    assert "scrambled" in decided["synthetic defects"].why


def test_its_backbone_did_not_move(made):
    (phase,) = made.record.phases
    assert phase.ran.frozen_weights > 10
    assert phase.ran.frozen_sha256


@pytest.mark.parametrize("patches", ["gaussian", "memory_bank"])
def test_an_asked_distance_is_taken_and_survives_being_loaded(wanted, tmp_path, patches):
    run = fine_tune(wanted(detector={"patches": patches, "scores": ["patches"]}), tmp_path / "run")
    from kerastune import tasks

    model = tasks.get("anomaly_detection").building.load(str(run.folder), run.recipe, "float32")
    assert model.bank.is_used == (patches == "memory_bank")
    _, _, predictions = run.predictions("test")
    assert np.ptp(predictions["parts"][:, 0]) > 0
    assert not predictions["parts"][:, 1:].any()


def test_the_heat_map_is_highest_on_the_spot(made):
    _, truth, predictions = made.predictions("test")
    spots = [i for i in np.flatnonzero(truth["kind"] == 1) if predictions["parts"][i].argmax() < 2]
    near = []
    for i in spots:
        heat = predictions["heat_map"][i]
        mask = outlines(truth[i : i + 1])[0]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        cell = OUTLINE // heat.shape[0]
        # One cell of tolerance: windows are two cells wide.
        around = mask[max(row - 1, 0) * cell : (row + 2) * cell, max(column - 1, 0) * cell : (column + 2) * cell]
        near.append(around.any())
    assert np.mean(near) >= 0.75


def test_pictures_that_score_unlike_training_ones_are_warned_of(wanted, pieces, tmp_path):
    from kerastune.progress import Progress

    lines = []

    class Heard(Progress):
        def say(self, line):
            lines.append(line)

    for i, path in enumerate(sorted((pieces / "good").iterdir())):
        split = ("train", "validation", "test")[i % 3]
        (tmp_path / "data" / split / "good").mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(path)).astype(float)
        if split == "validation":  # another lamp
            pixels = 255 * (pixels / 255) ** 2
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / split / "good" / path.name)
    fine_tune(wanted(tmp_path / "data"), tmp_path / "run", progress=Heard())
    assert any("score unlike good training pictures" in line for line in lines)


# --- files ---------------------------------------------------------------------------------------------------


def artifacts(run):
    return sorted(path.parent for path in run.exports.glob("*/manifest.json"))


def test_every_file_gives_all_of_keras_decisions(made):
    assert len(artifacts(made)) == 2
    for folder in artifacts(made):
        found = verify(folder)
        assert found.own.validation.outputs.agreement == 1.0
        assert found.own.validation.outputs.max_error < 1e-3


def test_an_answer_says_the_decision_the_score_and_the_place(made, pieces):
    (answer,) = predict(made, [pieces / "spot" / "000.png"])
    assert set(answer.document) == {"defective", "score", "parts", "most_at"}
    assert answer.document["defective"] == (answer.document["score"] > 1)
    assert answer.lines[0].startswith(("DEFECTIVE", "good"))


def test_a_picture_of_another_size_is_refused_and_not_resized(made, pieces, tmp_path):
    picture = Image.open(pieces / "good" / "000.png").resize((64, 48))
    picture.save(tmp_path / "large.png")
    why = "it has 64 x 48 pixels, but this model looks at pictures of 32 x 32 as they are"
    for of in (made, *artifacts(made)):
        with pytest.raises(DataError, match=f"Example 2: {why}"):
            predict(of, [pieces / "good" / "000.png", tmp_path / "large.png"])
    for folder in artifacts(made):
        command = [sys.executable, folder / "reader.py", folder, tmp_path / "large.png"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 5 and f"large.png: {why}" in done.stderr


@pytest.mark.skipif(not shutil.which("node"), reason="no node: apt-get install nodejs")
def test_the_page_refuses_a_picture_of_another_size():
    source = (resources.files("kerastune.targets") / "browser" / "images.js").read_text("utf-8")
    code = (
        "const reading = { own_size: true, height: 4, width: 6, interpolation: 'bilinear' };"
        "const picture = (height, width) => ({ height, width, data: new Uint8Array(height * width * 3) });"
        "console.log(images.taken(picture(4, 6), reading).length); images.taken(picture(8, 6), reading);"
    )
    done = subprocess.run(["node", "--input-type=module"], input=source + code, capture_output=True, text=True)
    assert done.stdout == "72\n"
    assert "it has 6 × 8 pixels, but this model looks at pictures of 6 × 4 as they are" in done.stderr


def test_a_target_without_floating_point_is_refused_in_words(wanted, tmp_path):
    with pytest.raises(RecipeError, match="cannot be exported in integers alone"):
        fine_tune(wanted(exports=[{"target": "microcontroller"}]), tmp_path / "run")


def test_a_file_that_changes_a_decision_is_refused():
    from kerastune.verifying import comparing

    theirs = {
        "score": np.array([[0.5], [1.0001], [3.0]], np.float32),
        "defective": np.array([[0], [1], [1]], np.float32),
        "heat_map": np.ones((3, 2, 2), np.float32),
        "parts": np.ones((3, 3), np.float32),
    }
    ours = {**theirs, "score": theirs["score"] - 2e-4, "defective": np.array([[0], [0], [1]], np.float32)}
    part = comparing.Part("validation images", (), theirs, tolerance=1.0)
    assert comparing.problems(DEFECTS, part, theirs, 1.0) == []
    assert comparing.problems(DEFECTS, part, ours, 1.0) == ["validation images: 1 of 3 decisions differ from Keras's"]


def broken(made, tmp_path, change):
    """Returns a copy of the run whose model was changed before it is exported again."""
    from kerastune import tasks
    from kerastune.tasks import registered

    copy = tmp_path / "run"
    shutil.copytree(made.folder, copy, ignore=shutil.ignore_patterns("exports"))
    model = tasks.get("anomaly_detection").building.load(str(copy), made.recipe, "float32")
    change(model)
    registered.save(model, copy)
    return copy


@pytest.mark.parametrize("target", ["linux", "onnxruntime", "tf-serving"])
def test_a_changed_threshold_is_caught(made, tmp_path, target):
    from kerastune.recipe.reading import parse_export

    run = broken(made, tmp_path, lambda model: model.calibration.threshold.assign(model.calibration.threshold * 1.05))
    with pytest.raises(VerificationError, match=r"largest error|decisions differ"):
        export(run, parse_export({"target": target}))


@pytest.mark.parametrize("target", ["linux", "onnxruntime", "tf-serving"])
def test_a_transposed_map_is_caught_in_each_format(made, tmp_path, target):
    from kerastune.recipe.reading import parse_export
    from kerastune.verifying import artifact

    (of,) = export(made, parse_export({"target": target, "name": "turned"}), tmp_path / "turned")
    heat_map = of.golden.expected["heat_map"].transpose(0, 2, 1)
    proof = dataclasses.replace(of.golden, expected={**of.golden.expected, "heat_map": heat_map})
    with pytest.raises(VerificationError, match="largest error"):
        verify(artifact.write(of.folder, of.manifest, proof).folder)


def test_a_transposed_map_is_far_from_the_right_one():
    _, ours = np.random.default_rng(0).uniform(size=(2, 4, 8, 8))
    theirs = {
        "score": np.linspace(0, 2, 4)[:, None],
        "defective": np.array([[0], [0], [1], [1]]),
        "heat_map": ours,
        "parts": np.zeros((4, 3)),
    }
    turned = {**theirs, "heat_map": ours.transpose(0, 2, 1)}
    assert DEFECTS.comparison.distance(turned, theirs).min() > 0.1
    assert not DEFECTS.comparison.distance(theirs, theirs).any()


def test_the_report_shows_heat_maps(made):
    from kerastune.reporting import report

    page = report.write(made).read_text("utf-8")
    assert "Heat map over test image" in page
    assert "used to set the threshold" in page and "Sizes of defects" in page
    assert "statistics come from one pass" in page


def test_a_split_without_defects_says_that_power_is_unknown(wanted, pieces, tmp_path):
    from kerastune.reporting import report

    shutil.copytree(pieces / "good", tmp_path / "only" / "good")
    run = fine_tune(wanted(tmp_path / "only"), tmp_path / "run")
    assert "auroc" not in run.record.metrics["test"]
    assert "nobody knows how many real defects are found" in report.write(run).read_text("utf-8")


def test_squares_of_the_sharpest_detail_fit_into_float16(made):
    from kerastune import tasks

    model = tasks.get("anomaly_detection").building.load(str(made.folder), made.recipe, "float32")
    height, width = model.image_size
    board = np.indices((height, width)).sum(0) % 2 * 255.0
    _, energies, _ = model.features(np.repeat(board[None, ..., None], 3, axis=-1).astype(np.float32))
    assert 1 < float(np.max(energies)) ** 2 < np.finfo(np.float16).max


def test_a_file_in_float16_gives_all_of_keras_decisions(made, tmp_path):
    from kerastune.recipe.reading import parse_export

    (half,) = export(made, parse_export({"target": "linux", "quantize": "float16"}), tmp_path / "half")
    found = verify(half, made.folder)
    assert found.passed and found.own.validation.outputs.agreement == 1.0


@pytest.mark.skipif(not browser.installed(), reason=f"no Chromium or no runtimes: {browser.INSTALL}")
def test_the_page_gives_all_of_keras_decisions_and_draws_the_heat(made, pieces, tmp_path):
    (of,) = export(made, Export(target="browser"), tmp_path / "page")
    assert of.report.runtimes["browser"].passed
    shown = seen(of, next((pieces / "spot").glob("*.png")))
    assert 0 < shown["drawn"] < shown["pixels"]


@pytest.mark.slow
@pytest.mark.skipif(not runtimes.RUNTIMES["arm64"].version, reason="arm64 is not set up: bash export/linux/arm64.sh")
def test_arm64_gives_all_of_keras_decisions(made):
    found = verify(made.exports / "linux", in_runtimes=["arm64"])
    assert found.passed and found.runtimes["arm64"].validation.outputs.agreement == 1.0

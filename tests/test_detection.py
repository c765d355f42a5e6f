"""Object detection: what it learns from, how it finds, and what a planted fault in a file does."""

import shutil
from importlib.util import find_spec

import drawing
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from kerastune import export, fine_tune, predict, tasks, verify
from kerastune.cli import cli
from kerastune.data.truths import BOX
from kerastune.errors import RecipeError, VerificationError
from kerastune.recipe import parse
from kerastune.recipe.reading import parse_export
from kerastune.targets.browser import reader as browser
from kerastune.tasks import registered
from kerastune.tasks.learnt.boxes import BOXES
from kerastune.tasks.object_detection import anchors, decoding, learning
from kerastune.verifying import runtimes
from tests.test_browser import seen
from tests.test_mediapipe import ask

SQUARE = (0.25, 0.25, 0.5, 0.5)


# --- anchors and targets -------------------------------------------------------------------------------------


def picture(*boxes):
    """The truth of a picture of 100 x 50 pixels with boxes in shares of it, all of class 0."""
    rows = np.zeros(1 + len(boxes), BOX)
    rows["label"][0] = -1
    rows["corners"] = [(0, 0, 100, 50), *(np.array(box) * [100, 50, 100, 50] for box in boxes)]
    return rows


def test_the_best_overlap_is_found_without_looking_at_every_anchor():
    random = np.random.default_rng(0)
    low = random.uniform(0, 0.8, (50, 2))
    boxes = np.concatenate([low, low + random.uniform(0.05, 0.2, (50, 2))], 1).astype(np.float32)
    every = anchors.overlaps(boxes, anchors.anchors(128, 2.0)).max(1)
    share, count = anchors.coverage([picture(*boxes)], 128, 2.0)
    assert count == 50
    assert share == pytest.approx((every >= 0.5).mean(), abs=0.021)


def test_the_scale_of_anchors_follows_the_boxes():
    small, large = (picture((0.4, 0.4, 0.4 + side, 0.4 + side)) for side in (0.1, 0.55))
    assert anchors.best_scale([small], 128) < anchors.best_scale([large], 64)


def test_encoding_is_undone_by_decoding():
    fixed = tf.constant(anchors.anchors(64, 2.0)[:9])
    boxes = tf.constant([SQUARE] * 9)
    np.testing.assert_allclose(decoding.decoded(decoding.encoded(boxes, fixed), fixed), boxes, atol=1e-5)


def truth_of(*rows):
    return tf.constant([[*rows, (-1, 0, 0, 0, 0, 0)]], tf.float32)


def test_every_box_gets_an_anchor_and_far_anchors_are_background():
    fixed = anchors.anchors(64, 2.0)
    tiny = (1, 0.9, 0.9, 0.95, 0.95, 0)
    on, counts, wanted = learning.assigned(truth_of((0, *SQUARE, 0), tiny), fixed)
    labels = wanted[0, :, 0].numpy()[on[0].numpy()]
    assert set(labels) == {0, 1}
    assert counts.numpy().mean() > 0.8
    shared = anchors.overlaps(np.array([SQUARE]), fixed)[0]
    assert on[0].numpy()[shared >= 0.5].all()


def test_anchors_on_a_crowd_neither_train_nor_count():
    fixed = anchors.anchors(64, 2.0)
    on, counts, _ = learning.assigned(truth_of((0, 0, 0, 1, 1, 1)), fixed)
    assert not on.numpy().any()
    assert not counts.numpy()[0, np.all((fixed >= 0) & (fixed <= 1), axis=1)].any()


def test_a_picture_that_shows_nothing_has_a_finite_loss():
    recipe = parse({**VALUES, "detector": {"anchor_scale": 2.0}}, "test")
    count = len(anchors.anchors(64, 2.0))
    outputs = {"class_logits": tf.fill([1, count, 2], -4.0), "box_deltas": tf.zeros([1, count, 4])}
    total, number = learning.loss(recipe)(truth_of(), outputs, tf.ones([1]))
    assert 0 < float(total) < 100 and float(number) == 1


# --- detections ----------------------------------------------------------------------------------------------


def greedy(boxes, scores, classes):
    """The indices that greedy suppression keeps, class by class."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = [j for j in kept if classes[j] == classes[i]]
        if scores[i] > 0.05 and not (anchors.overlaps(boxes[[i]], boxes[rivals]) > 0.5).any():
            kept.append(i)
    return kept[:100]


@pytest.mark.parametrize("seed", range(3))
def test_suppression_in_rounds_is_greedy_suppression(seed):
    random = np.random.default_rng(seed)
    fixed = anchors.anchors(64, 2.0)
    logits = random.normal(-3, 2, (1, len(fixed), 3)).astype(np.float32)
    deltas = random.normal(0, 0.2, (1, len(fixed), 4)).astype(np.float32)
    outputs = {"class_logits": tf.constant(logits), "box_deltas": tf.constant(deltas)}
    found = decoding.detections(outputs, fixed).numpy()[0]
    best = np.argsort(-logits[0].max(-1), kind="stable")[:300]
    boxes = decoding.decoded(deltas[0][best], fixed[best]).numpy().clip(0, 1)
    scores = 1 / (1 + np.exp(-logits[0][best].max(-1)))
    kept = greedy(boxes, scores, logits[0][best].argmax(-1))
    kept = [i for i in kept if (boxes[i, 2:] - boxes[i, :2]).min() > 1e-3]  # the others lie outside
    np.testing.assert_allclose(found[: len(kept), 4], scores[kept], atol=1e-6)
    np.testing.assert_allclose(found[: len(kept), :4], boxes[kept], atol=1e-5)
    assert not found[len(kept) :].any()


def predictions(*rows):
    found = np.zeros((1, 100, 6), np.float32)
    found[0, : len(rows)] = rows
    return {"detections": found}


@pytest.mark.parametrize(
    ("ours", "apart"),
    [
        ([(10, 10, 50, 50, 0.9, 0), (60, 10, 90, 50, 0.6, 1)], 0),
        ([(60, 10, 90, 50, 0.6, 1), (10, 10, 50, 50, 0.9, 0)], 0),  # another order
        ([(10, 10, 50.02, 50, 0.9, 0), (60, 10, 90, 50, 0.6, 1)], 1e-4),  # 0.02 pixels
        ([(10, 10, 50, 50, 0.8, 0), (60, 10, 90, 50, 0.6, 1)], 0.1),
        ([(11, 10, 51, 50, 0.9, 0), (60, 10, 90, 50, 0.6, 1)], 1 / 200),
        ([(10, 10, 50, 50, 0.9, 1), (60, 10, 90, 50, 0.6, 0)], 0.9),  # classes swapped
        ([(10, 10, 50, 50, 0.9, 0)], 0.6),  # one is missing
    ],
)
def test_a_distance_is_measured_between_detections_of_one_thing(ours, apart):
    theirs = [(10, 10, 50, 50, 0.9, 0), (60, 10, 90, 50, 0.6, 1)]
    (found,) = BOXES.comparison.distance(predictions(*ours), predictions(*theirs))
    assert found == pytest.approx(apart, rel=0.02, abs=1e-9)


def test_a_detection_that_a_hair_decides_about_is_no_difference():
    theirs = predictions((10, 10, 50, 50, 0.9, 0))
    half = (10, 10, 50, 30.004, 0.7, 0)  # overlaps the other by half
    for extra in ((70, 70, 80, 80, 0.0504, 1), half):
        (found,) = BOXES.comparison.distance(predictions((10, 10, 50, 50, 0.9, 0), extra), theirs)
        assert found == 0


# --- a run ---------------------------------------------------------------------------------------------------

VALUES = {
    "name": "shapes",
    "task": "object_detection",
    "preset": "none",
    "data": {"source": "coco", "path": "shapes", "image_size": 64},
    "detector": {"width": 16},
    "train": {"batch_size": 8, "xla": False, "precision": "float32"},
    "phases": [{"unfreeze": "all", "epochs": 20, "learning_rate": 5e-3, "schedule": "cosine"}],
}


@pytest.fixture(scope="module")
def wanted(preset, tmp_path_factory):
    """A recipe on pictures of squares and discs; keyword arguments replace its tables."""
    folder = tmp_path_factory.mktemp("detection")
    drawing.coco(folder / "shapes", 96)
    data = {"source": "coco", "path": str(folder / "shapes"), "image_size": 64}

    def make(**changes):
        return parse({**VALUES, "preset": str(preset("resnet")), "data": data, **changes}, "test")

    return make


@pytest.fixture(scope="module")
def made(wanted, tmp_path_factory):
    run = fine_tune(wanted(), tmp_path_factory.mktemp("detection") / "run")
    export(run, [parse_export({"target": name}) for name in ("linux", "onnxruntime")])
    return run


def test_shapes_are_found_and_the_best_epoch_has_the_highest_precision(made):
    found = made.record.metrics
    assert found["test"]["mAP50"] > 0.4
    assert found["validation"]["mAP"] == pytest.approx(max(row["val_mAP"] for row in made.history), abs=0.01)
    assert found["test"]["baseline"]["beaten"]
    assert set(found["test"]["per_class"]) == {"square", "disc"}


def test_a_plan_counts_pictures_besides_those_of_each_class(wanted, tmp_path):
    (tmp_path / "mine.toml").write_text(wanted().to_toml())
    said = CliRunner().invoke(cli, ["validate", str(tmp_path / "mine.toml"), "--no-exports"]).stdout
    rows = {row[0]: list(map(int, row[1:])) for row in (line.split() for line in said.splitlines()[1:4])}
    assert list(rows) == ["square", "disc", "all"] and sum(rows["all"]) == 96
    assert sum(rows["square"]) < 96 < sum(rows["square"]) + sum(rows["disc"])


def test_the_coverage_of_the_anchors_is_said(made):
    (decision,) = [one for one in made.record.decisions if one.key == "detector.anchor_scale"]
    assert "training boxes by 0.5 or more at image_size = 64" in decision.why
    assert made.recipe.detector.anchor_scale == float(decision.got)


def test_files_find_what_keras_finds(made):
    for folder in sorted(path.parent for path in made.exports.glob("*/manifest.json")):
        report = verify(folder)
        assert report.own.golden.max_error < 1e-4
        assert report.own.validation.metric.verdict == "same"


def test_mediapipe_is_told_how_to_read_the_android_file(made):
    """Its task finds tensors by their names; the boxes are those of the other files."""
    (artifact,) = export(made, [parse_export({"target": "android", "quantize": "float16"})])
    assert [one.name for one in artifact.manifest.outputs] == ["boxes", "box_scores", "classes", "count"]
    content = (artifact.folder / artifact.manifest.model).read_bytes()
    assert b"location" in content and b"number of detections" in content and b"disc" in content
    assert artifact.report.validation.metric.examples > 10
    if find_spec("mediapipe"):
        pairs = list(zip(artifact.golden.examples, artifact.golden.found["detections"], strict=True))
        picture, expected = max(pairs, key=lambda pair: float(pair[1][:, 4].sum()))
        said = ask("ObjectDetector", content, "detect", picture, score_threshold=0.1).detections
        corners = [one.bounding_box for one in said]
        boxes = [(one.origin_x, one.origin_y, one.origin_x + one.width, one.origin_y + one.height) for one in corners]
        known = expected[expected[:, 4] > 0.1]
        assert len(boxes) == len(known) > 0
        np.testing.assert_allclose(boxes, known[:, :4], atol=2)  # it cuts corner and size to whole pixels


def test_boxes_come_in_pixels_of_the_picture(made, tmp_path):
    """The same picture twice as wide: so are its boxes."""
    narrow = Image.open(f"{made.recipe.data.path}/images/001.png")
    paths = [tmp_path / "narrow.png", tmp_path / "wide.png"]
    narrow.save(paths[0])
    narrow.resize((128, 64), Image.Resampling.BILINEAR).save(paths[1])
    one, two = predict(made.exports / "linux", paths)
    pairs = zip(one.document["detections"][:1], two.document["detections"][:1], strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(theirs["box"], np.array(ours["box"]) * [2, 1, 2, 1], atol=4)


def test_drawings_show_the_boxes(made, tmp_path):
    folder = made.recipe.data.path
    given = [f"{folder}/images/{n:03}.png" for n in range(1, 9)]
    drawn = tmp_path / "drawn"
    found = predict(made, given, draw=drawn)
    assert sorted(path.name for path in drawn.iterdir()) == [f"{n:03}.png" for n in range(1, 9)]
    changed = [
        not np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(drawn / f"{n:03}.png")))
        for n, one in enumerate(given, 1)
    ]
    assert changed == [one.lines[0] != "nothing" for one in found]


def test_augmentation_moves_boxes_and_kept_views_keep_them(wanted, tmp_path):
    from kerastune.progress import Progress
    from kerastune.training.loop import Training
    from kerastune.training.plan import plan

    train = {**VALUES["train"], "cache": "memory", "cache_views": 2}
    augment = {"flip": "horizontal", "crop": 0.3, "zoom_out": 0.3}
    phases = [{"unfreeze": "head", "epochs": 2}]
    made = plan(wanted(train=train, augment=augment, phases=phases))
    views = Training(made, tmp_path, {}, Progress()).feed(2).kept.views
    first, second = (view.targets.truth for view in views)
    assert not np.array_equal(first, second)
    assert first.shape == made.batches.targets["train"].truth.shape
    boxes = first[first[..., 0] >= 0][:, 1:5]
    assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_few_steps_of_a_new_head_are_warned_of(wanted):
    from kerastune.tasks.object_detection.task import describe
    from kerastune.training.plan import plan

    made = plan(wanted(phases=[{"unfreeze": "head", "epochs": 2}]))
    count = len(made.splits.train)
    (said,) = describe(made.recipe, made.task, made.splits)["warnings"]
    steps = 2 * -(-count // 8)
    assert said.startswith(f"{steps} optimizer steps are few") and f"{-(-300 // steps)} times as many" in said
    longer = made.recipe.model_copy(update={"phases": (made.recipe.phases[0].model_copy(update={"epochs": 40}),)})
    assert not describe(longer, made.task, made.splits)["warnings"]


@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_integers_are_refused_in_words(wanted, tmp_path, quantize):
    with pytest.raises(RecipeError, match="corners in steps"):
        fine_tune(wanted(exports=[{"target": "linux", "quantize": quantize}]), tmp_path / "run")


def test_a_backbone_without_feature_maps_is_refused(wanted, preset, tmp_path):
    with pytest.raises(RecipeError, match="cannot be the backbone of a detector"):
        fine_tune(wanted(preset=str(preset("vit"))), tmp_path / "run")


# --- planted faults ------------------------------------------------------------------------------------------


def broken(made, tmp_path, change):
    """Returns a copy of the run whose model was changed before it is exported again."""
    copy = tmp_path / "run"
    shutil.copytree(made.folder, copy, ignore=shutil.ignore_patterns("exports"))
    model = tasks.get("object_detection").building.load(str(copy), made.recipe, "float32")
    change(model)
    registered.save(model, copy)
    return copy


def by_a_pixel(model):
    """The shift of anchors of 16 pixels grows by a sixteenth."""
    bias = model.get_layer("box_deltas_last").bias
    bias.assign(bias + np.tile([1 / 16, 0, 0, 0], len(anchors.SHAPES)))


def swapped(model):
    for weight in model.get_layer("class_logits_last").weights:
        pairs = np.array(weight).reshape(*weight.shape[:-1], -1, 2)[..., ::-1]
        weight.assign(pairs.reshape(weight.shape))


@pytest.mark.parametrize("target", ["linux", "onnxruntime", "tf-serving"])
@pytest.mark.parametrize("fault", [by_a_pixel, swapped])
def test_a_planted_fault_is_caught_in_each_format(made, tmp_path, target, fault):
    with pytest.raises(VerificationError, match="largest error"):
        export(broken(made, tmp_path, fault), parse_export({"target": target}))


@pytest.mark.skipif(not browser.installed(), reason=f"no Chromium or no runtimes: {browser.INSTALL}")
def test_the_page_gives_keras_s_detections_and_draws_them(made, tmp_path):
    (of,) = export(made, parse_export({"target": "browser"}), tmp_path / "page")
    assert of.report.runtimes["browser"].passed
    best = of.golden.expected["detections"][:, :, 4].max(1)
    for i in (best.argmin(), best.argmax()):
        Image.fromarray(of.golden.examples[i]).save(tmp_path / "photo.png")
        assert (seen(of, tmp_path / "photo.png")["drawn"] > 0) == (best[i] >= 0.3)
    assert best.max() >= 0.3


@pytest.mark.slow
@pytest.mark.skipif(not runtimes.RUNTIMES["arm64"].version, reason="arm64 is not set up: bash export/linux/arm64.sh")
def test_arm64_gives_keras_s_detections(made):
    assert verify(made.exports / "linux", in_runtimes=["arm64"]).passed


def test_a_reader_that_resizes_scales_boxes_back():
    from kerastune.targets import images

    manifest = {
        "reading": {"resize": "outside", "height": 64, "width": 64},
        "outputs": [{"name": "detections", "role": "boxes"}],
    }
    found = images.restored({"detections": np.ones((1, 2, 6), np.float32)}, np.zeros((32, 128, 3), np.uint8), manifest)
    np.testing.assert_allclose(found["detections"][0, 0], [2, 0.5, 2, 0.5, 1, 1])

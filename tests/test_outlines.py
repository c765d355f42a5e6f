"""Segmentation: figures worked out by hand, masks that move with their pictures, and faults that files cannot hide."""

import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerastune import export, fine_tune, tasks, verify
from kerastune.data import masks, ragged
from kerastune.errors import RecipeError, VerificationError
from kerastune.predicting import inference
from kerastune.recipe import read
from kerastune.recipe.reading import parse_export
from kerastune.run import load
from kerastune.targets import images as reader
from kerastune.targets.browser import reader as browser
from kerastune.tasks import geometry, registered
from kerastune.tasks.image_segmentation import learning, task
from kerastune.tasks.learnt import masks as learnt
from kerastune.verifying import artifact, comparing, runtimes
from tests import drawn
from tests.test_browser import seen
from tests.test_mediapipe import ask

LABELS = ("ground", "square")
_, RED, BLUE = drawn.COLOURS


def truth(*several):
    return masks.joined([masks.packed(np.array(one, np.uint8)) for one in several])


def said(*several, width=2):
    """Predictions of these maps, with logits that say so."""
    maps = [np.array(one, np.uint8) for one in several]
    logits = np.stack([np.eye(width, dtype=np.float32)[one] * 4 for one in maps])
    return {"class_map": ragged.of_maps(maps, np.zeros(0, np.uint8)), "logits": logits}


# --- figures -------------------------------------------------------------------------------------------------


def test_miou_is_that_of_all_pixels_together_without_ignored_ones():
    known = truth([[0, 0, 1, 1], [0, 0, 1, 255]], [[1, 1, 1, 1], [0, 0, 0, 0]])
    found = said([[0, 1, 1, 1], [0, 0, 1, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]])
    # ground: 7 pixels are right, 9 are said and 8 are there; square: 5, 6 and 7
    figures = learnt.metrics(LABELS, known, found)
    assert figures["per_class"]["ground"]["iou"] == pytest.approx(7 / (9 + 8 - 7))
    assert figures["per_class"]["square"]["iou"] == pytest.approx(5 / (6 + 7 - 5))
    assert figures["miou"] == pytest.approx((7 / 10 + 5 / 8) / 2)
    assert figures["pixel_accuracy"] == pytest.approx(12 / 15)
    assert learnt.mean_overlap(learnt.per_example(known, found)) == pytest.approx(figures["miou"])


def test_a_class_that_is_neither_there_nor_said_does_not_count():
    figures = learnt.metrics((*LABELS, "disc"), truth([[0, 1]]), said([[0, 1]], width=3))
    assert figures["miou"] == 1.0
    assert figures["per_class"]["disc"] == {"iou": None, "boundary_f1": None, "pixels": 0}


def test_a_boundary_nearby_is_right_and_one_far_away_is_wrong():
    known, near, far = (np.zeros((100, 100), np.uint8) for _ in range(3))
    known[30:60, 30:60] = near[31:61, 30:60] = far[40:90, 50:90] = 1
    assert learnt.metrics(LABELS, truth(known), said(near))["per_class"]["square"]["boundary_f1"] == 1.0
    assert learnt.metrics(LABELS, truth(known), said(far))["per_class"]["square"]["boundary_f1"] < 0.3


def test_a_map_of_another_size_is_judged_at_the_size_of_the_picture():
    known = truth(np.kron([[0, 1], [1, 0]], np.ones((4, 4))))
    assert learnt.mean_overlap(learnt.per_example(known, said([[0, 1], [1, 0]]))) == 1.0


def test_always_the_commonest_class_is_the_guess():
    guess = learnt.MASK.guess(LABELS, truth([[1, 1, 0]], [[1, 255, 255]]), 2)
    assert guess.words == "always square"
    assert learnt.per_example(truth([[1, 1]], [[0, 0]]), guess.predictions).tolist() == [[0, 0, 0, 2], [0, 2, 0, 0]]


# --- two runtimes --------------------------------------------------------------------------------------------


@pytest.fixture
def outputs():
    """Keras's outputs for two pictures of 24 x 40 pixels."""
    logits = np.random.default_rng(0).normal(0, 3, (2, 6, 10, 3)).astype(np.float32)
    maps = [task.mapped(tf.constant(one[None]), tf.constant([[24, 40]]))[0].numpy() for one in logits]
    return {"class_map": ragged.of_maps(maps, np.zeros(0, np.uint8)), "logits": logits}


def changed(outputs, change):
    maps = [change(one.copy()) for one in outputs["class_map"]]
    return {**outputs, "class_map": ragged.of_maps(maps, np.zeros(0, np.uint8))}


def faults(ours, theirs):
    scale = learnt.MASK.comparison.scale(theirs)
    part = comparing.Part("pictures", (), theirs, tolerance=1e-4 * scale)
    return comparing.problems(learnt.MASK, part, ours, scale)


def test_equal_outputs_have_no_fault(outputs):
    assert faults(outputs, outputs) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.T,
        lambda one: one.T.reshape(one.shape),
        lambda one: one[:, ::-1],
        lambda one: np.roll(one, 1, axis=1),
        lambda one: np.array([1, 0, 2], np.uint8)[one],
    ],
    ids=["transposed", "transposed in its shape", "mirrored", "shifted by a pixel", "classes swapped"],
)
def test_a_changed_map_is_a_fault_though_its_logits_are_right(outputs, change):
    (problem,) = faults(changed(outputs, change), outputs)
    assert "largest error" in problem or "class_map has the size [40, 24] for example 1 instead of [24, 40]" in problem


def test_a_pixel_may_differ_where_two_classes_tie(outputs):
    logits = np.repeat(outputs["logits"][:, :, :, :1], 3, axis=-1)
    tied = {**outputs, "logits": logits}
    assert not learnt.MASK.comparison.distance(changed(tied, lambda one: (one + 1) % 3), tied).any()


def test_logits_between_cells_are_those_of_tensorflow(outputs):
    from kerastune.targets import answers

    (logits, _) = outputs["logits"]
    rows, columns = (axis.ravel() for axis in np.mgrid[:24, :40])
    found = answers.between(logits.astype(np.float64), rows, columns, (24, 40)).reshape(24, 40, 3)
    np.testing.assert_allclose(found, tf.image.resize(logits, (24, 40)).numpy(), atol=1e-5)


def test_pictures_of_several_sizes_in_a_batch_get_maps_padded_with_ignored_pixels(outputs):
    found = task.mapped(tf.constant(outputs["logits"]), tf.reshape(tf.constant([24, 40, 12, 20]), [-1, 2])).numpy()
    assert found.shape == (2, 24, 40)
    sized = tf.Variable([[24, 40], [12, 20]], shape=[None, 2])
    found = tf.function(task.mapped)(tf.constant(outputs["logits"]), sized).numpy()
    np.testing.assert_array_equal(found[0], outputs["class_map"][0])
    assert (found[1, 12:] == masks.IGNORED).all() and (found[1, :12, :20] < 3).all()


# --- training ------------------------------------------------------------------------------------------------


def test_masks_move_with_their_pictures_and_what_lies_outside_is_ignored():
    (pixels, mask), *_ = drawn.scenes(1)
    windows = tf.constant([[0.1, 0.9, 0.9, -0.3]])  # mirrored, and over the left border
    colours = np.array([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in drawn.COLOURS], np.float32)
    moved = task.moved_masks(tf.constant(mask[None]), windows).numpy()[0]
    seen = geometry.pictures(tf.constant(pixels[None], tf.float32), windows).numpy()[0]
    inside = moved != masks.IGNORED
    assert 0.5 < inside.mean() < 0.9 and set(np.unique(moved)) <= {0, 1, 2, masks.IGNORED}
    nearest = np.square(seen[:, :, None] - colours).sum(-1).argmin(-1)
    assert (nearest == moved)[inside].mean() > 0.93  # but for borders, which blend


def test_rarer_classes_weigh_more_and_a_pixel_weighs_one_on_average():
    counts = np.array([900, 90, 10, 0])
    found = learning.balanced(counts)
    assert found[0] < found[1] < found[2] and found[3] == 0
    assert (found * counts).sum() / counts.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, preset):
    folder = tmp_path_factory.mktemp("outlines")
    drawn.write(folder / "shapes", palette=drawn.COLOURS)
    for path in sorted((folder / "shapes").glob("*/*[13579].png")):  # pictures of two sizes
        Image.open(path).crop((0, 0, 64, 52)).save(path)
    return read(
        {
            "task": "image_segmentation",
            "preset": str(preset("resnet")),
            "data": {
                "source": "masks",
                "path": str(folder / "shapes"),
                "classes": list(drawn.CLASSES),
                "image_size": 64,
            },
            "segmenter": {"width": 16},
            "train": {"batch_size": 8, "xla": False, "precision": "float32"},
            "phases": [{"unfreeze": "head", "epochs": 8, "learning_rate": 0.01}],
            "exports": [{"target": "linux"}],
        }
    )


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    run = fine_tune(recipe, tmp_path_factory.mktemp("outlines") / "run")
    export(run)
    return run


def test_ignored_pixels_change_no_loss(recipe):
    random = np.random.default_rng(0)
    logits = tf.constant(random.normal(size=(2, 4, 4, 3)), tf.float32)
    mask = random.integers(0, 3, (2, 16, 16)).astype(np.uint8)
    weights, by_class = tf.ones(2), tf.ones((2, 3))
    loss = learning.loss(recipe)
    other = np.where(np.arange(16) < 8, mask, 255).astype(np.uint8)  # the last cell is not blended into the first half
    right = tf.concat([logits[:, :, :3], logits[:, :, 3:] * 0 + 9], axis=2)
    halves = [float(loss((tf.constant(other), by_class), one, weights)[0]) for one in (logits, right)]
    assert halves[0] == pytest.approx(halves[1], rel=1e-5)
    assert float(loss((tf.constant(mask), by_class), right, weights)[0]) != pytest.approx(halves[0], rel=1e-3)


def test_it_learns_and_its_file_gives_the_same(made):
    assert made.record.metrics["test"]["miou"] > 0.6
    assert verify(made.exports / "linux").validation.metric.verdict == "same"


@pytest.mark.parametrize("target", ["linux", "onnxruntime", "tf-serving"])
def test_swapped_classes_are_caught_in_each_format(made, tmp_path, target):
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy, ignore=shutil.ignore_patterns("exports"))
    model = tasks.get("image_segmentation").building.load(str(copy), made.recipe, "float32")
    for weight in model.get_layer("logits").weights:
        weight.assign(weight.numpy()[..., [0, 2, 1]])
    registered.save(model, copy)
    with pytest.raises(VerificationError, match="largest error"):
        export(copy, parse_export({"target": target}))


@pytest.mark.parametrize("target", ["linux", "onnxruntime", "tf-serving"])
def test_a_transposed_map_is_caught_in_each_format(made, tmp_path, target):
    (of,) = export(made, parse_export({"target": target}), tmp_path / "turned")
    turned = ragged.of_maps([one.T for one in of.golden.expected["class_map"]], np.zeros(0, np.uint8))
    proof = replace(of.golden, expected={**of.golden.expected, "class_map": turned})
    with pytest.raises(VerificationError, match=r"class_map has the size|largest error"):
        verify(artifact.write(of.folder, of.manifest, proof).folder)


@pytest.mark.skipif(not browser.installed(), reason=f"no Chromium or no runtimes: {browser.INSTALL}")
def test_the_page_gives_keras_s_maps_and_draws_them(made, tmp_path):
    (of,) = export(made, parse_export({"target": "browser"}), tmp_path / "page")
    assert of.report.runtimes["browser"].passed
    photo, expected = of.golden.examples[0], of.golden.expected["class_map"][0]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    said = seen(of, tmp_path / "photo.png")
    assert said["pixels"] == photo.shape[0] * photo.shape[1]
    assert abs(said["drawn"] - np.count_nonzero(expected)) <= expected.size / 1000


@pytest.mark.slow
@pytest.mark.skipif(not runtimes.RUNTIMES["arm64"].version, reason="arm64 is not set up: bash export/linux/arm64.sh")
def test_arm64_gives_keras_s_maps(made):
    assert verify(made.exports / "linux", in_runtimes=["arm64"]).passed


def test_an_android_file_gives_mediapipe_the_logits_and_its_reader_the_map(made):
    (file,) = export(made, parse_export({"target": "android", "quantize": "float16"}))
    assert [(one.name, one.role) for one in file.manifest.outputs] == [("logits", "cells")]
    content = (file.folder / file.manifest.model).read_bytes()
    assert b"SEGMENTER_METADATA" in content and b"segmentation_masks" in content
    assert verify(file.folder).validation.metric.verdict == "same"
    if find_spec("mediapipe"):
        picture = file.golden.examples[0]
        said = ask("ImageSegmenter", content, "segment", picture, output_category_mask=True)
        known = reader.enlarged(file.golden.found["logits"][0], *picture.shape[:2]).argmax(-1)
        assert (said.category_mask.numpy_view().squeeze() == known).mean() > 0.9  # it enlarges a little differently


def test_a_reader_enlarges_logits_as_the_graph_does():
    logits = np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)
    found = reader.enlarged(logits, 45, 70)
    known = task.at_pixels(tf.constant(logits[None]), tf.constant([[45, 70]]), probabilities=True)
    assert (found.argmax(-1) == known["class_map"][0].numpy()).mean() > 0.999  # but where two all but tie
    np.testing.assert_allclose(reader.softmax(found), known["probabilities"][0], atol=1e-5)


# --- probabilities -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probable(made, tmp_path_factory):
    """The same model, whose files also give probabilities."""
    copy = tmp_path_factory.mktemp("probable") / "run"
    shutil.copytree(made.folder, copy, ignore=shutil.ignore_patterns("exports"))
    text = (copy / "recipe.toml").read_text("utf-8")
    (copy / "recipe.toml").write_text(text.replace("probabilities = false", "probabilities = true"), "utf-8")
    return load(copy)


@pytest.mark.parametrize("target", ["linux", "onnxruntime", "tf-serving", "browser", "android"])
def test_a_file_gives_probabilities_of_the_picture_s_size_if_asked(probable, target, tmp_path):
    (of,) = export(probable, parse_export({"target": target, "quantize": "none"}), tmp_path / target)
    picture = np.kron(of.golden.examples[0], np.ones((1, 2, 1), np.uint8))[:-3]
    said, keras = (inference.outputs(one, [picture], {}) for one in (of, probable))
    for outputs in (said, keras):
        (map_,), (found,) = outputs["class_map"], outputs["probabilities"]
        assert found.shape == (*picture.shape[:2], len(drawn.CLASSES)) and map_.shape == picture.shape[:2]
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
        assert (found.argmax(-1) == map_).mean() > 0.999
    if of.manifest.inputs[0].shape[1] is None:  # it takes pictures as they are
        np.testing.assert_allclose(said["probabilities"][0], keras["probabilities"][0], atol=1e-4)


def test_changed_probabilities_are_a_fault_though_map_and_logits_are_right(outputs):
    found = tf.nn.softmax(tf.image.resize(outputs["logits"], (24, 40))).numpy()
    known = {**outputs, "probabilities": ragged.of_maps(list(found), np.zeros((0, 3), np.float32))}
    assert faults(known, known) == []
    for other in (found[..., ::-1], found[:, ::-1], found * 0.99):
        changed = {**known, "probabilities": ragged.of_maps(list(other), np.zeros((0, 3), np.float32))}
        assert any("largest error" in problem for problem in faults(changed, known))


def test_pictures_of_several_sizes_get_probabilities_of_0_outside(outputs):
    sized = tf.Variable([[24, 40], [12, 20]], shape=[None, 2])
    found = tf.function(task.at_pixels)(tf.constant(outputs["logits"]), sized, True)["probabilities"].numpy()
    assert found.shape == (2, 24, 40, 3) and not found[1, 12:].any() and not found[1, :, 20:].any()
    np.testing.assert_allclose(found[1, :12, :20].sum(-1), 1, atol=1e-6)


def test_an_answer_says_how_probable_a_class_is_and_the_drawing_is_paler_where_it_is_not():
    map_ = np.repeat([[0, 1]], 4, axis=0).repeat(4, axis=1)
    sure = np.where(np.arange(8) < 6, 0.9, 0.6)[None, :, None] * np.ones((4, 1, 1))
    probable = np.where(map_[..., None] == np.arange(2), sure, 1 - sure).astype(np.float32)
    found = said(map_) | {"probabilities": ragged.of_maps([probable], np.zeros((0, 2), np.float32))}
    answer = learnt.MASK.shown.answer(LABELS, found, 0, 2)
    assert answer.lines[1] == "50.0%  square, with a mean probability of 0.750"
    assert answer.document["mean_probabilities"] == pytest.approx({"ground": 0.9, "square": 0.75})
    picture = np.asarray(learnt.MASK.shown.drawn(LABELS, found, 0, np.full((4, 8, 3), 200, np.uint8))).astype(int)
    apart = np.abs(picture - 200).max(-1)[0]
    assert not apart[:4].any() and apart[4] > apart[7] > 0


def test_more_probabilities_than_a_proof_holds_are_refused(recipe):
    asked = recipe.model_dump() | {"segmenter": {"probabilities": True}}
    asked["data"] |= {"image_size": 4096}
    with pytest.raises(RecipeError, match="has 50,331,648 of 3 classes, and 16,777,216 are allowed"):
        read(asked)


# --- people --------------------------------------------------------------------------------------------------


def test_the_report_outlines_the_worst_pictures(made):
    from kerastune.reporting import report

    page = report.write(made).read_text("utf-8")
    assert "The worst pictures" in page and "What is there: " in page and "always ground" in page
    assert all(f'color: {colour}">■</span> <bdi>{name}' in page for colour, name in ((RED, "square"), (BLUE, "disc")))


def test_a_backbone_without_feature_maps_is_refused_in_words(recipe, preset):
    from kerastune.training import train

    with pytest.raises(RecipeError, match="has no feature maps P2 and P3 or P4"):
        own_size = recipe.data.model_copy(update={"image_size": 32})
        train.plan(recipe.model_copy(update={"preset": str(preset("vit")), "data": own_size}))


def test_a_picture_is_drawn_under_the_colours_of_its_classes():
    pixels = np.full((8, 8, 3), 200, np.uint8)
    map_ = np.zeros((8, 8), np.uint8)
    map_[:, 4:] = 1
    picture = np.asarray(learnt.MASK.shown.drawn(LABELS, said(map_), 0, pixels))
    assert (picture[:, :4] == 200).all() and (picture[:, 4:] != 200).any()


def test_maps_are_drawn_in_the_colours_of_the_data(made, tmp_path):
    of = artifact.load(made.exports / "linux")
    assert made.colors == of.manifest.colors == drawn.COLOURS
    Image.fromarray(of.golden.examples[0]).save(tmp_path / "scene.png")
    map_ = of.golden.expected["class_map"][0]
    for one in (made, of):
        inference.predict(one, tmp_path / "scene.png", draw=tmp_path / "drawn")
        picture = np.asarray(Image.open(tmp_path / "drawn" / "scene.png")).astype(int)
        added = (picture - 0.4 * of.golden.examples[0])[map_ == 2] / 0.6  # under six tenths of the colour
        np.testing.assert_allclose(added.mean(axis=0), [0x32, 0x5A, 0xDC], atol=2)

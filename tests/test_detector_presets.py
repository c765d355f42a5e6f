"""KerasHub's own detectors keep their values when the classes change, learn, and leave in every format."""

from pathlib import Path
from typing import Any

import drawing
import families
import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

from kerastune import export, fine_tune, verify
from kerastune.errors import RecipeError
from kerastune.recipe import parse
from kerastune.tasks import registered
from kerastune.tasks.object_detection import decoding, matching, presets
from kerastune.training import freezing

MADE = {"retinanet": families._retinanet, "dfine": families._dfine}


@pytest.fixture(scope="module", params=MADE)
def saved(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of a detector of four classes, with its image converter; its answers vary as a trained one's do."""
    folder = tmp_path_factory.mktemp("preset") / request.param
    made = MADE[request.param]()
    for norm in freezing.norms(made):
        norm.momentum = 0.5  # the statistics of a trained one, without which it would not see its pictures
    pixels = tf.constant(np.random.default_rng(0).random((8, 64, 64, 3)), tf.float32)
    pass_once = tf.function(lambda: made(pixels, training=True))
    for _ in range(12):
        pass_once()
    for name in ("box_head", "classification_head"):  # KerasHub's RetinaNet explodes, with a bias in the wrong head
        if head := getattr(made, name, None):
            kernel, bias = head.prediction_layer.weights
            bias.assign(tf.zeros_like(bias))
            found = made(pixels)["bbox_regression" if name == "box_head" else "cls_logits"]
            kernel.assign(kernel / float(np.std(found)))
    made.save_to_preset(str(folder))
    kind = {"retinanet": "RetinaNet", "dfine": "DFine"}[request.param]
    getattr(keras_hub.layers, f"{kind}ImageConverter")(image_size=(64, 64), scale=1 / 255).save_to_preset(str(folder))
    return folder


def test_values_are_kept_when_classes_and_size_change(saved: Path) -> None:
    old = keras_hub.models.ObjectDetector.from_preset(str(saved), preprocessor=None)
    new = presets.build(str(saved), 7, (96, 96), "float32")
    assert new.kept > 0.98
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(old.weights, new.detector.weights, strict=True)]
    same = [np.array_equal(a, b) for a, b in pairs if a.shape == b.shape]
    assert all(same) and len(same) == len(pairs) - (2 if "retinanet" in saved.name else 6)
    x = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    assert new(x)["class_logits"].shape[-1] == 7


def test_new_classes_begin_at_the_mean_of_the_old_ones(saved: Path) -> None:
    old = keras_hub.models.ObjectDetector.from_preset(str(saved), preprocessor=None)
    new, _ = presets.with_classes(old, 2, (64, 64))
    changed = [
        (np.asarray(a), np.asarray(b)) for a, b in zip(old.weights, new.weights, strict=True) if a.shape != b.shape
    ]
    for theirs, mine in changed:
        mean = theirs.reshape(*theirs.shape[:-1], -1, 4).mean(-1)
        for label in range(2):
            np.testing.assert_allclose(mine.reshape(*mine.shape[:-1], -1, 2)[..., label], mean, rtol=1e-6)


def test_boxes_are_those_that_kerashub_decodes(saved: Path) -> None:
    old = keras_hub.models.ObjectDetector.from_preset(str(saved), preprocessor=None)
    new = presets.build(str(saved), 4, (64, 64), "float32")
    x = np.random.default_rng(0).random((1, 64, 64, 3)).astype(np.float32)
    mine = decoding.decoded(new(x)["box_deltas"], tf.constant(new.anchors))
    if "dfine" in saved.name:
        centres, sides = np.split(np.asarray(old(x)["pred_boxes"]), 2, -1)
        theirs = np.concatenate([centres - sides / 2, centres + sides / 2], -1)
    else:
        kinds = {"encoded_format": "center_xywh", "anchor_format": "yxyx", "box_format": "rel_xyxy"}
        fixed = np.concatenate([np.asarray(one) for one in old.anchor_generator(x).values()])
        deltas = old(x)["bbox_regression"]
        theirs = keras.utils.bounding_boxes.decode_deltas_to_boxes(fixed, deltas, image_shape=(64, 64, 3), **kinds)
        usual = (np.abs(deltas) < 4).all(-1)  # an untrained head's are thousands, which are bounded here
        assert usual.mean() > 0.5
        mine, theirs = np.asarray(mine)[usual], np.asarray(theirs)[usual]
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_saved_detector_is_the_same_when_it_is_loaded(saved: Path, tmp_path: Path) -> None:
    made = presets.build(str(saved), 3, (64, 64), "float32")
    registered.save(made, tmp_path)
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    loaded = registered.load(tmp_path, "float32")
    for name, value in made(x, training=False).items():
        np.testing.assert_array_equal(value, loaded(x, training=False)[name])


# --- matching ------------------------------------------------------------------------------------------------


def answers(boxes: Any, labels: Any) -> dict[str, Any]:
    """The outputs of a model of queries that is sure of these boxes, in every answer."""
    boxes = np.asarray(boxes, np.float32)[None]
    logits = 8 * (2 * np.eye(3, dtype=np.float32)[np.asarray(labels)] - 1)[None]
    whole = np.broadcast_to(np.float32([0, 0, 1, 1]), boxes.shape)
    deltas = decoding.encoded(tf.constant(boxes), tf.constant(whole))
    return {
        "class_logits": tf.constant(logits),
        "box_deltas": deltas,
        "anchors": tf.constant(whole),
        "earlier_logits": tf.constant(logits[:, None]),
        "earlier_deltas": deltas[:, None],
    }


TRUTH = np.float32([[[2, 0.1, 0.1, 0.4, 0.5, 0], [0, 0.5, 0.5, 0.9, 0.8, 0], [-1] * 6]])


def test_a_right_answer_costs_less_than_any_wrong_one() -> None:
    right = [[0.5, 0.5, 0.9, 0.8], [0.0, 0.0, 0.2, 0.2], [0.1, 0.1, 0.4, 0.5]]
    moved = [[0.5, 0.5, 0.9, 0.8], [0.0, 0.0, 0.2, 0.2], [0.15, 0.1, 0.45, 0.5]]
    losses = [
        float(matching.set_loss(tf.constant(TRUTH), answers(boxes, labels), tf.ones(1))[0])
        for boxes, labels in ((right, [0, 1, 2]), (moved, [0, 1, 2]), (right, [1, 1, 2]), (right, [0, 1, 0]))
    ]
    assert losses[0] < min(losses[1:]) and np.isfinite(losses).all()


def test_each_box_gets_the_query_of_the_cheapest_assignment() -> None:
    random = np.random.default_rng(0)
    logits = tf.constant(random.normal(size=(1, 1, 5, 3)).astype(np.float32))
    boxes = np.sort(random.random((1, 1, 5, 2, 2)).astype(np.float32), -2).reshape(1, 1, 5, 4)
    query, is_box = matching.given(tf.constant(TRUTH), logits, tf.constant(boxes))
    cost = matching._cost(tf.constant(TRUTH), logits, tf.constant(boxes))[0, 0].numpy()[:, :2]
    rows, columns = linear_sum_assignment(cost)
    assert is_box.numpy().tolist() == [[[True, True, False]]]
    assert dict(zip(columns, rows, strict=True)) == dict(enumerate(query.numpy()[0, 0, :2]))


def test_a_picture_without_boxes_teaches_that_there_is_nothing() -> None:
    none = tf.constant(np.full((1, 2, 6), -1, np.float32))
    total, count = matching.set_loss(none, answers([[0.1, 0.1, 0.4, 0.5]], [2]), tf.ones(1))
    assert np.isfinite(float(total)) and float(total) > 0 and float(count) == 1


# --- the whole chain -----------------------------------------------------------------------------------------


def recipe(saved: Path, folder: Path, **changes: Any) -> Any:
    """A recipe on drawn shapes."""
    if not (folder / "shapes").exists():
        drawing.coco(folder / "shapes", 64)
    values = {
        "name": "shapes",
        "task": "object_detection",
        "preset": str(saved),
        "data": {"source": "coco", "path": str(folder / "shapes"), "image_size": 64},
        "train": {"batch_size": 8, "xla": False, "precision": "float32"},
        "phases": [{"unfreeze": "all", "epochs": 2, "learning_rate": 1e-4}],
        "exports": [{"target": "android", "quantize": "none"}, {"target": "onnxruntime"}],
    }
    return parse({**values, **changes}, "test")


def test_a_preset_learns_and_its_files_find_what_keras_finds(saved: Path, tmp_path: Path) -> None:
    run = fine_tune(recipe(saved, tmp_path), tmp_path / "run")
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    kept = next(one for one in run.record.decisions if one.key == "detector")
    assert "of its values are the preset's" in kept.why
    for made in export(run):
        assert verify(made).passed


def test_settings_of_a_new_head_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="with a head of its own"):
        fine_tune(recipe(saved, tmp_path, detector={"width": 16}), tmp_path / "run")
    if "dfine" in saved.name:
        with pytest.raises(RecipeError, match=r"phases\.0.unfreeze = 'head'.*no head to train alone"):
            fine_tune(recipe(saved, tmp_path, phases=[{"unfreeze": "head"}]), tmp_path / "run")

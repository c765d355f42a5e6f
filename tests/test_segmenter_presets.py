"""KerasHub's own segmenters keep their values when the classes change, learn, and leave in every format."""

from pathlib import Path
from typing import Any

import families
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from kerastune import export, fine_tune, verify
from kerastune.errors import RecipeError
from kerastune.recipe import parse
from kerastune.tasks import registered
from kerastune.tasks.image_segmentation import presets
from tests import drawn

RATES = {"DeepLabV3": 5e-3, "SegFormer": 0.02}


@pytest.fixture(scope="module", params=RATES)
def saved(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of a segmenter of four classes, with its image converter."""
    folder = tmp_path_factory.mktemp("preset") / request.param
    (made,) = (one.build() for one in families.FAMILIES if one.name == f"{request.param} segmenter")
    made.save_to_preset(str(folder))
    getattr(keras_hub.layers, f"{request.param}ImageConverter")(image_size=(64, 64), scale=1 / 255).save_to_preset(
        str(folder)
    )
    return folder


def pixels(size: int) -> Any:
    return np.random.default_rng(0).random((2, size, size, 3)).astype(np.float32)


def test_with_the_same_classes_the_enlarged_logits_are_kerashubs(saved: Path) -> None:
    old = keras_hub.models.ImageSegmenter.from_preset(str(saved), preprocessor=None)
    size = old.input_shape[1:3]
    new = presets.build(str(saved), 4, size, "float32")
    found = tf.image.resize(new(pixels(size[0]), training=False), size)
    np.testing.assert_allclose(found, old(pixels(size[0]), training=False), atol=1e-5)
    assert new.kept == 1.0


def test_values_are_kept_when_classes_and_size_change(saved: Path) -> None:
    old = keras_hub.models.ImageSegmenter.from_preset(str(saved), preprocessor=None)
    new = presets.build(str(saved), 3, (96, 96), "float32")
    for mine, theirs in zip(new.backbone.get_weights(), old.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    mean = getattr(old, presets._LAST[type(old.backbone).__name__]).kernel.numpy().mean(-1)
    np.testing.assert_allclose(new.get_layer("logits").kernel.numpy(), np.repeat(mean[..., None], 3, -1), rtol=1e-6)
    assert 0.9 < new.kept < 1 and new(pixels(96)).shape[-1] == 3


def test_a_saved_segmenter_is_the_same_when_it_is_loaded(saved: Path, tmp_path: Path) -> None:
    made = presets.build(str(saved), 3, (64, 64), "float32")
    registered.save(made, tmp_path)
    loaded = registered.load(tmp_path, "float32")
    np.testing.assert_array_equal(made(pixels(64), training=False), loaded(pixels(64), training=False))


def recipe(saved: Path, folder: Path, **changes: Any) -> Any:
    """A recipe on drawn shapes."""
    if not (folder / "shapes").exists():
        drawn.write(folder / "shapes")
    data = {"source": "masks", "path": str(folder / "shapes"), "classes": list(drawn.CLASSES), "image_size": 64}
    values = {
        "name": "shapes",
        "task": "image_segmentation",
        "preset": str(saved),
        "data": data,
        "train": {"batch_size": 8, "xla": False, "precision": "float32", "class_weights": "balanced"},
        "phases": [{"unfreeze": "all", "epochs": 20, "learning_rate": RATES[saved.name], "schedule": "cosine"}],
        "exports": [{"target": "linux"}, {"target": "onnxruntime"}],
    }
    return parse({**values, **changes}, "test")


@pytest.mark.filterwarnings(
    "ignore:Gradients do not exist:UserWarning"
)  # DeepLabV3 looks at P4, not at what follows it
def test_a_preset_learns_and_its_files_outline_what_keras_outlines(saved: Path, tmp_path: Path) -> None:
    run = fine_tune(recipe(saved, tmp_path), tmp_path / "run")
    assert run.record.metrics["test"]["baseline"]["beaten"]
    (kept,) = [one for one in run.record.decisions if one.key == "segmenter"]
    assert "of its values are the preset's" in kept.why
    for made in export(run):
        assert verify(made).passed


def test_the_width_of_a_new_head_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="with a head of its own"):
        fine_tune(recipe(saved, tmp_path, segmenter={"width": 16}), tmp_path / "run")

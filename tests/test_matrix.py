"""Every KerasHub family exports, or is refused with the reason; docs/export-matrix.md and formats.support agree."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES, model
from matrix import AXES, FLOAT, PAGE, QUANTIZED, problems, refusal
from measure import RUNTIMES, TOLERANCE, attempt, largest_error, measure, passed, path_of, replay
from trace_family import write_examples, write_graphs

from kerastune.formats import graphs, support, tflite
from kerastune.formats.conversion import Conversion

# The converter's own, where it measures ranges.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated:UserWarning")

# The widest for float32; what devices have for the rest.
CONVERSIONS = [
    *[(format, "none", "any") for format in RUNTIMES],
    *[("tflite", quantize, "one") for quantize in ("dynamic", "float16", "int8", "int4")],
    *[("onnx", quantize, "any") for quantize in ("dynamic", "int8")],
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A text classifier with three inputs, token ids among them: the family, its model, and the traced folder."""
    work = tmp_path_factory.mktemp("bert")
    (family,) = (one for one in FAMILIES if one.name == "Bert classifier")
    made = model(family)
    write_examples(made, family, work)
    write_graphs(made, family, work, "one", "any", "serving")
    return family, made, work


@pytest.fixture(scope="module")
def cells(traced):
    return attempt(traced[2], CONVERSIONS)


@pytest.mark.parametrize("conversion", CONVERSIONS, ids="-".join)
def test_a_text_classifier_exports_in_every_format_and_quantisation(cells, conversion):
    cell, (_, quantize, _) = cells[conversion], conversion
    assert cell["why"] is None
    assert passed(cell) if quantize == "none" else cell["error"] < 1


def test_an_onnx_file_says_the_same_in_openvino(cells, traced):
    path = path_of(traced[2], ("onnx", "none", "any"))
    assert passed(replay(traced[2], path, "openvino", "any"))


def test_a_weight_that_is_off_by_a_hundredth_fails_the_gate(traced, tmp_path):
    family, made, _ = traced
    write_examples(made, family, tmp_path)
    kernel = made.trainable_weights[-2]  # of the head
    kernel.assign(kernel + 0.01)
    write_graphs(made, family, tmp_path, "one")
    kernel.assign(kernel - 0.01)
    job = ("tflite", "none", "one")
    cell = attempt(tmp_path, [job])[job]
    assert not passed(cell) and TOLERANCE < cell["error"] < 1
    assert list(problems({"family": family.name, "cells": {"tflite none": cell}}))


def test_nan_fails_the_gate(traced, tmp_path):
    with np.load(traced[2] / "expected.npz") as stored:
        np.savez(tmp_path / "found.npz", **{key: stored[key] * np.float32(np.nan) for key in stored.files})
    with pytest.raises(ValueError, match="is NaN"):
        largest_error(traced[2] / "expected.npz", tmp_path / "found.npz", ("000",))


def test_the_debugger_gives_each_input_its_own_values(tmp_path):
    """TensorFlow orders a model's inputs as it likes; the wrong shape in one would be an error."""
    layers = {name: keras.layers.Dense(2) for name in "abcde"}
    shapes = {name: [n + 2] for n, name in enumerate(layers)}
    specs = [tf.TensorSpec([1, *shape], tf.float32, name=name) for name, shape in shapes.items()]

    def call(*values):
        return {"scores": sum(layer(value) for layer, value in zip(layers.values(), values, strict=True))}

    graphs.saved_model({"one": (call, specs)}, tmp_path / "one")
    graphs.frozen("one", (call, specs), tmp_path)
    random = np.random.default_rng(0)
    examples = {f"{n:03}/{name}": random.normal(size=shape) for n in range(8) for name, shape in shapes.items()}
    np.savez(tmp_path / "calibration.npz", **examples)
    assert len(tflite.layer_errors(tmp_path, Conversion("one", "int8"))) >= len(layers)


def test_the_debugger_takes_images_of_any_size(tmp_path):
    pooled = keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()])
    spec = tf.TensorSpec([1, None, None, 3], tf.float32, name="images")
    signature = (lambda images: {"scores": pooled(images)}, [spec])
    graphs.saved_model({"one": signature}, tmp_path / "one")
    graphs.frozen("one", signature, tmp_path)
    random = np.random.default_rng(0)
    examples = {f"{n:03}/images": random.normal(size=[4 + n, 9 - n, 3]) for n in range(5)}
    np.savez(tmp_path / "calibration.npz", **examples)
    assert tflite.layer_errors(tmp_path, Conversion("one", "int8"))


def test_onnx_wants_other_names_for_outputs_than_for_inputs(tmp_path):
    spec = tf.TensorSpec([1], tf.float32, name="masks")
    with pytest.raises(ValueError, match="another name for the output masks"):
        graphs.frozen("one", (lambda masks: {"masks": masks + 1}, [spec]), tmp_path)


# --- the table ---------------------------------------------------------------------------------------------


def table():
    """docs/export-matrix.md: (family, column) -> text of the cell."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells, titles = {}, []
    for first, *rest in lines:
        if first == "family":
            titles = rest
        elif first != "---":
            cells |= {(first, title): text for title, text in zip(titles, rest, strict=True)}
    return cells


@pytest.mark.parametrize("family", [one.name for one in FAMILIES])
def test_the_page_and_the_support_table_say_the_same(family):
    cells = table()
    for title, key in {**FLOAT, **QUANTIZED}.items():
        if key.split()[1] not in AXES:
            text = cells[family, title]
            error = None if text.startswith("✗") else float(text.split()[0])
            assert not list(problems({"family": family, "cells": {key: {"error": error, "why": text}}}))
            assert ("[" in text) == (error is None or bool(refusal(family, key)))


def test_texts_get_one_length_where_any_length_fails():
    """Sound is no text: Moonshine's classifier may leave its length open."""
    cells = table()
    for name in {name for name, _ in cells if "audio" not in name and not cells[name, "TFLite"].startswith("✗")}:
        assert support.fixed_length(name.split()[0]) == cells[name, "TFLite length"].startswith("✗"), name


def test_a_page_that_rots_is_noticed():
    failing, fine = {"error": None, "why": "a crash"}, {"error": 1e-6, "why": None}
    assert list(problems({"family": "ViT classifier", "cells": {"onnx none": failing}}))
    assert list(problems({"family": "FNet classifier", "cells": {"onnx none": fine}}))
    assert not list(problems({"family": "FNet classifier", "cells": {"onnx none": failing}}))


def test_only_mobilenet_v5_may_lack_grouped_convolutions_on_a_processor():
    cells = {"saved_model none": {"error": None, "why": "Fused conv does not support grouped convolutions."}}
    assert not list(problems({"family": "MobileNetV5 classifier", "cells": cells}))
    assert list(problems({"family": "MobileNet classifier", "cells": cells}))


def test_every_row_is_a_backbone_that_keras_hub_has():
    assert len(FAMILIES) == 34
    assert all(hasattr(keras_hub.models, f"{one.backbone}Backbone") for one in FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_family_is_as_the_support_table_says(family):
    assert not list(problems(measure(family)))

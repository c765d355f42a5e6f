"""Quantisations, targets and runtimes: each file computes what was trained, or is refused with a reason."""

import json
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from manifests import a_manifest

from kerastune import export, verify
from kerastune.errors import KerastuneError, RecipeError, VerificationError
from kerastune.formats import graphs, support, tflite
from kerastune.formats.conversion import Conversion
from kerastune.recipe import parse_export, target
from kerastune.targets import images as reader
from kerastune.training.plan import plan
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.comparing import LEAST_AGREEMENT
from kerastune.verifying.verifier import refuse_failed

SMALLER = {"float16": 0.55, "dynamic": 0.28, "int8": 0.28, "int16x8": 0.3, "int4": 0.2}
ELSEWHERE = ["android", "microcontroller", "onnxruntime-int8", "onnxruntime-dynamic", "linux-auto"]


@pytest.fixture(scope="module")
def made(trained, export_once):
    """A ResNet's run in every quantisation and for every place: name -> artifact, each verified as it was made."""
    wanted = [{"target": "linux", "quantize": quantize} for quantize in ("none", *SMALLER, "auto")]
    wanted += [{"target": name} for name in ("android", "microcontroller")]
    wanted += [{"target": "onnxruntime", "quantize": quantize} for quantize in ("dynamic", "int8")]
    return export_once(trained("resnet"), [parse_export({**one, "max_accuracy_drop": 0.1}) for one in wanted])


@pytest.mark.parametrize("quantize", SMALLER)
def test_quantised_files_are_smaller_and_say_nearly_the_same_in_every_runtime(made, quantize):
    of = made[f"linux-{quantize}"]
    assert of.size_bytes < SMALLER[quantize] * made["linux"].size_bytes
    assert {"litert", "litert-reference", "openvino"} == set(of.report.runtimes)
    ran = [each for each in of.report.runtimes.values() if each.passed is not None]
    assert len(ran) >= 2  # OpenVINO does not read int4
    assert all(each.passed and each.golden.agreement >= LEAST_AGREEMENT for each in ran)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_place_gets_a_file_that_is_proved(made, name):
    report = made[name].report
    assert report.passed and report.validation.metric.drop <= 0.1
    assert report.validation.outputs.agreement >= 0.9


def test_tensorflow_lite_micro_has_the_numbers_of_the_reference_kernels(made):
    of = made["microcontroller"]
    micro, reference = (runtimes.ask(of, name, of.golden.examples).outputs for name in ("tflm", "litert-reference"))
    np.testing.assert_array_equal(micro["scores"], reference["scores"])


def test_a_microcontrollers_int8_input_is_the_pixels_byte_minus_128(made):
    from ai_edge_litert.interpreter import Interpreter

    of = made["microcontroller"]
    (image,) = Interpreter(str(of.folder / "model.tflite")).get_input_details()
    assert image["dtype"] is np.int8 and image["quantization"] == (1.0, -128)
    assert of.manifest.inputs[0].shape == (1, 32, 32, 3)


def test_auto_takes_the_smallest_that_keeps_the_limits_and_says_what_it_tried(made):
    (rung,) = made["linux-auto"].report.ladder
    assert rung.passed and rung.quantize == made["linux-auto"].manifest.quantize == "int8"


def test_auto_goes_on_after_a_file_whose_outputs_are_nan(trained, tmp_path, monkeypatch):
    real = runtimes.ask

    def ask(of, *arguments):
        said = real(of, *arguments)
        bad = np.nan if of.manifest.quantize == "int8" else 1.0
        return replace(said, outputs={name: rows * np.float32(bad) for name, rows in said.outputs.items()})

    monkeypatch.setattr(runtimes, "ask", ask)
    wanted = parse_export({"target": "onnxruntime", "quantize": "auto", "max_accuracy_drop": 0.1})
    (of,) = export(trained("resnet"), wanted, tmp_path / "auto")
    first, *_, kept = of.report.ladder
    assert first.quantize == "int8" and not first.passed and "NaN or infinite outputs" in first.problems[0]
    assert kept.passed and of.manifest.quantize == kept.quantize != "int8"


@pytest.mark.slow
def test_where_no_quantisation_keeps_the_limits_all_are_named(trained, tmp_path):
    wanted = parse_export({"target": "linux", "quantize": "auto", "max_size_mb": 0.001})
    with pytest.raises(
        VerificationError, match=r"(?s)int8: .*max_size_mb.*int8: .*int8: .*float16: .*none: .*Raise --max-size-mb\."
    ):
        export(trained("resnet"), wanted, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_file_over_its_limit_is_refused(trained, tmp_path):
    wanted = parse_export({"target": "onnxruntime", "max_size_mb": 0.01})
    with pytest.raises(VerificationError, match=r"it has .* MB, but max_size_mb is 0.01"):
        export(trained("resnet"), wanted, tmp_path / "large")


def test_another_runtime_that_says_something_else_fails_the_file(made, copied):
    of = copied(made["linux-int8"])
    turned = {"scores": of.golden.expected["scores"][::-1]}
    of = artifact.write(of.folder, of.manifest, replace(of.golden, found=turned))
    with pytest.raises(VerificationError, match="from those of litert at export"):
        verify(of, in_runtimes=["litert-reference"])


# --- single layers -----------------------------------------------------------------------------------------


def traced(work, *layers):
    """A toy model on 4 x 4 images, traced as "toy", with 8 calibration images."""
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    spec = tf.TensorSpec([1, 4, 4, 3], name="images")
    signature = (lambda images: {"scores": model(images, training=False)}, [spec])
    graphs.saved_model({"toy": signature}, work / "toy")
    graphs.frozen("toy", signature, work)
    images = np.random.default_rng(0).uniform(0, 1, (8, 4, 4, 3)).astype("float32")
    np.savez(work / "calibration.npz", **{f"{i:03}/images": image for i, image in enumerate(images)})
    return model


def test_float16_is_refused_where_activations_would_overflow(tmp_path):
    model = traced(tmp_path, keras.layers.Conv2D(2, 3), keras.layers.Conv2D(2, 1))
    tflite.write(tmp_path, tmp_path / "fits.tflite", Conversion("toy", "float16"))
    first = model.layers[0]
    first.kernel.assign(first.kernel * 1e6)
    traced(tmp_path, *model.layers)
    with pytest.raises(RuntimeError, match="float16 holds numbers up to 65504"):
        tflite.write(tmp_path, tmp_path / "overflows.tflite", Conversion("toy", "float16"))


# --- what is refused at once -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "format", "quantize", "why"),
    [
        ("FNet", "tflite", "none", "complex numbers"),
        ("FNet", "onnx", "none", "complex numbers"),
        ("DFine", "tflite", "int8", "crashes"),
        ("Llama", "tflite", "int8", "lose accuracy"),
        ("ViT", "tflite", "int16x8", "layer normalisation"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(family, format, quantize, why):
    assert why in support.refusal(family, format, quantize)
    assert support.refusal("EfficientNet", format, quantize) is None


def test_a_transformer_is_refused_int16_before_anything_is_traced(trained, tmp_path):
    with pytest.raises(KerastuneError, match="ViT cannot be exported as tflite with quantize = 'int16x8'"):
        export(trained("vit"), parse_export({"target": "linux", "quantize": "int16x8"}), tmp_path / "vit")


def test_a_recipe_is_refused_before_it_is_trained(recipe):
    exports = [{"target": "linux", "quantize": "int16x8"}, {"target": "linux"}]
    with pytest.raises(RecipeError, match="ViT cannot be exported as tflite with quantize = 'int16x8': LiteRT has no"):
        plan(recipe("vit", exports=exports))


def test_a_place_without_floating_point_takes_no_floats():
    with pytest.raises(RecipeError, match="'microcontroller' computes in int8 only"):
        parse_export({"target": "microcontroller", "quantize": "float16"})


@pytest.mark.parametrize(
    ("name", "runtime", "why"),
    [
        ("linux", "onnxruntime", "it runs onnx, but this is tflite"),
        ("linux", "tflm", "it needs images of one size"),
        ("android", "openvino", "it reads float32 outputs, but this gives uint8"),
        ("linux", "litter", "there is no runtime 'litter'"),
    ],
)
def test_a_runtime_that_cannot_run_a_file_is_refused(made, name, runtime, why):
    with pytest.raises(KerastuneError, match=why):
        verify(made[name], in_runtimes=[runtime])


def test_every_target_can_be_read_and_names_runtimes_of_its_format():
    for where in map(target.load, target.names()):
        formats = {where.format, *where.other_formats}
        assert where.format in runtimes.RUNTIMES[where.runtimes[0]].formats, where
        assert all(formats & set(runtimes.RUNTIMES[name].formats) for name in where.runtimes), where
        assert target.readme(where.name).startswith(f"# {where.name}")


# --- resizing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 36), (31, 97), (64, 64), (7, 9)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("fitting", ["crop", "pad", "stretch"])
def test_devices_resize_as_keras_does(shape, interpolation, fitting):
    """To a whole pixel value, and a half where TensorFlow's table of cubic weights rounds."""
    settings = {f"{kind}_to_aspect_ratio": kind == fitting for kind in ("crop", "pad")}
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    outside = {"resize": "outside", "height": 32, "width": 24, "interpolation": interpolation, **settings}
    expected = keras.layers.Resizing(32, 24, interpolation, **settings)(image.astype("float32")[None])[0]
    np.testing.assert_allclose(reader.fit(image, outside), np.clip(expected, 0, 255), atol=1)


def test_the_report_of_an_artifact_is_json(made):
    document = made["android"].report.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document and document["schema"] == 1


LOSS, SIZE = "it loses 0.1 of validation accuracy, but max_accuracy_drop is 0.02", "it has 2 MB, but max_size_mb is 1"
OTHER = "litert: validation pictures: 3 of 20 decisions differ from Keras's"


@pytest.mark.parametrize(
    ("quantize", "problems", "hint"),
    [
        ("int8", (LOSS,), "Raise --max-accuracy-drop, or find the smallest file within the limits: --quantize auto."),
        ("none", (SIZE,), "Raise --max-size-mb, or find the smallest file within the limits: --quantize auto."),
        ("int8", (SIZE, LOSS), "Raise --max-accuracy-drop and --max-size-mb, or find"),
        ("int8", (OTHER, LOSS), "No limit allows other answers than Keras's. --quantize auto finds"),
        ("none", (OTHER,), "Please report this with the recipe"),
    ],
)
def test_a_hint_names_only_what_helps(quantize, problems, hint):
    of = SimpleNamespace(manifest=a_manifest(quantize=quantize))
    with pytest.raises(VerificationError) as caught:
        refuse_failed(of, SimpleNamespace(passed=False, problems=problems))
    assert caught.value.hint.startswith(hint)

"""A model with several outputs: each runtime gives all of them by name, as integers with a scale of their own, too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tensorflow as tf
from manifests import a_manifest, tensor
from onnx import helper

from kerastune.data.ragged import Ragged
from kerastune.formats import FORMATS, graphs
from kerastune.formats.conversion import Conversion
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.artifact import Artifact, Golden

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")

RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(4)]
WEIGHTS = RANDOM.normal(size=(3, 5)).astype(np.float32)
OUTPUTS = (tensor("alpha", (1, 5)), tensor("mid", (1, 4, 4)), tensor("zeta", (1, 3)))


def expected(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    means = image.reshape(-1, 3).mean(0) / 255
    return {"zeta": means, "alpha": 100 * means @ WEIGHTS, "mid": image[..., 0] / 255}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The function, traced in a single example's shape and in that of batches."""

    def function(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(images, tf.float32) / 255
        means = tf.reduce_mean(pixels, [1, 2])
        return {"zeta": means, "alpha": 100 * means @ tf.constant(WEIGHTS), "mid": pixels[..., 0]}

    folder = tmp_path_factory.mktemp("work")
    one = tf.TensorSpec([1, 4, 4, 3], tf.float32, name="images")
    many = tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="images")
    graphs.saved_model({"fixed": (function, [one])}, folder / "fixed")
    graphs.write_dtypes("fixed", (function, [one]), folder)
    graphs.saved_model({"serving_default": (function, [many])}, folder / "serving")
    graphs.frozen("graph", (function, [many]), folder)
    np.savez(folder / "calibration.npz", **{f"{i:03}/images": image for i, image in enumerate(IMAGES)})
    return folder


MADE = {
    "tflite": ("fixed", "none", OUTPUTS),
    "tflite-int8": ("fixed", "int8", tuple(replace(one, dtype="int8") for one in OUTPUTS)),
    "onnx": ("graph", "none", OUTPUTS),
    "saved_model": ("serving", "none", OUTPUTS),
}


@pytest.fixture(scope="module")
def made(work: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    found = {}
    for name, (signature, quantize, outputs) in MADE.items():
        folder, format = tmp_path_factory.mktemp(name), name.partition("-")[0]
        path = folder / FORMATS[format].model
        path.parent.mkdir(parents=True, exist_ok=True)
        conversion = Conversion(signature, quantize, "int8" if quantize == "int8" else "float32")
        FORMATS[format].converter.write(work, path, conversion)
        shape = (1 if format == "tflite" else None, 4, 4, 3)
        dtype = "uint8" if format != "tflite" else "int8" if quantize == "int8" else "float32"
        manifest = a_manifest(
            name=name,
            format=format,
            quantize=quantize,
            model=FORMATS[format].model,
            inputs=(tensor("images", shape, dtype),),
            outputs=outputs,
        )
        found[name] = artifact.write(folder, manifest, Golden(IMAGES, {"zeta": np.ones((4, 3))}))
    return found


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("runtime", [name for name, row in runtimes.RUNTIMES.items() if not row.script])
def test_every_runtime_gives_every_output_by_name(made: dict[str, Artifact], name: str, runtime: str) -> None:
    of, row = made[name], runtimes.RUNTIMES[runtime]
    if runtimes.refusal(runtime, of.manifest) or not row.version or runtime == "mediapipe":
        pytest.skip(f"{runtime} does not run it here")
    found = runtimes.ask(of, runtime, IMAGES).outputs
    assert set(found) == {"alpha", "mid", "zeta"}
    for output, rows in found.items():
        said = np.stack([expected(image)[output] for image in IMAGES])
        step = np.ptp(said) / 256 if name == "tflite-int8" else 0
        np.testing.assert_allclose(rows, said, atol=1e-4 + 4 * step, err_msg=output)


def test_an_output_with_any_number_of_rows_has_those_of_each_example(tmp_path: Path) -> None:
    """The places of the pixels that are not black."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["images"], ["bright"], axes=[3], keepdims=0),
            helper.make_node("Cast", ["bright"], ["floats"], to=onnx.TensorProto.FLOAT),
            helper.make_node("NonZero", ["floats"], ["columns"]),
            helper.make_node("Transpose", ["columns"], ["rows"]),
            helper.make_node("Unsqueeze", ["rows", "first"], ["places"]),
        ],
        "places",
        [value("images", onnx.TensorProto.UINT8, [1, None, None, 3])],
        [value("places", onnx.TensorProto.INT64, [1, None, 3])],
        [helper.make_tensor("first", onnx.TensorProto.INT64, [1], [0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "model.onnx")
    manifest = a_manifest(
        format="onnx",
        model="model.onnx",
        inputs=(tensor("images", (1, None, None, 3), "uint8"),),
        outputs=(tensor("places", (1, None, 3), "int64"),),
    )
    images = [np.zeros((3, 3, 3), np.uint8) for _ in range(3)]
    images[0][1, 2], images[2][0], images[2][2, 0] = 255, 9, 1
    of = artifact.write(tmp_path, manifest, Golden(images, {"places": np.zeros((3, 1))}))
    found = runtimes.ask(of, "onnxruntime", images).outputs["places"]
    assert isinstance(found, Ragged)
    assert [rows[:, 1:].tolist() for rows in found] == [[[1, 2]], [], [[0, 0], [0, 1], [0, 2], [2, 0]]]

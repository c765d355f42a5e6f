"""Artifacts of tiny models, one of each format, made without a run: two images of 2 x 2 pixels in, three scores out."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from manifests import a_manifest

from kerastune.verifying import artifact
from kerastune.verifying.artifact import Artifact, Golden

IMAGES = [np.full((2, 2, 3), value, np.uint8) for value in (10, 200)]
SCORES = np.array([image.mean((0, 1)) / 255 for image in IMAGES], np.float32)
GOLDEN = Golden(IMAGES, {"scores": SCORES})
CHATS = [np.array([["user", said], ["assistant", "a"]]) for said in ("a", "b")]


def sealed(folder: Path, format: str, model: str, runtime: str, golden: Golden = GOLDEN, **changes: Any) -> Artifact:
    manifest = a_manifest(name=folder.name, format=format, model=model, runtime=runtime, **changes)
    return artifact.write(folder, manifest, golden)


def onnx(folder: Path) -> Artifact:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["scores"]),
        ],
        "tiny",
        [value("images", TensorProto.UINT8, [1, 2, 2, 3])],
        [value("scores", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [3, 3], np.eye(3).ravel() / 255)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "model.onnx")
    return sealed(folder, "onnx", "model.onnx", "onnxruntime")


def _module() -> tuple[Any, Any]:
    import tensorflow as tf

    class Tiny(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(np.eye(3, dtype=np.float32))

        @tf.function(input_signature=[tf.TensorSpec([1, 2, 2, 3], tf.uint8, "images")])  # type: ignore[untyped-decorator]
        def score(self, images: Any) -> Any:
            means = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) / 255
            return {"scores": tf.matmul(means, self.weights)}

    return (made := Tiny()), made.score.get_concrete_function()


def saved_model(folder: Path) -> Artifact:
    import tensorflow as tf

    module, score = _module()
    tf.saved_model.save(module, str(folder / "model/1"), {"serving_default": score})
    return sealed(folder, "saved_model", "model/1", "saved-model")


def tflite(folder: Path) -> Artifact:
    import tensorflow as tf

    module, score = _module()
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(module, saved, {"serving_default": score})
        content = tf.lite.TFLiteConverter.from_saved_model(saved, ["serving_default"]).convert()
    (folder / "model.tflite").write_bytes(content)
    return sealed(folder, "tflite", "model.tflite", "litert")


def transformers(folder: Path) -> Artifact:
    from safetensors.numpy import save_file

    config = {"model_type": "gpt2", "vocab_size": 3, "n_embd": 3, "n_layer": 1, "n_head": 1}
    pieces = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}
    for name, value in (("config.json", config), ("tokenizer.json", pieces), ("generation_config.json", {})):
        (folder / name).write_text(json.dumps(value))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    save_file({"wte.weight": np.eye(3, dtype=np.float32)}, folder / "model.safetensors")
    golden = Golden(CHATS, {"logits": SCORES})
    kind = {"modality": "conversation", "learnt": "text"}
    return sealed(folder, "transformers", "model.safetensors", "transformers", golden, **kind)


FORMATS = {"onnx": onnx, "transformers": transformers, "saved_model": saved_model, "tflite": tflite}


def make(format: str, folder: Path) -> Artifact:
    """Makes the artifact of a format in a new folder, with one of its readers beside the model."""
    folder.mkdir(parents=True)
    (folder / "reader.py").write_text("import artifact\n")
    return FORMATS[format](folder)

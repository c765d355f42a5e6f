"""Text classifiers leave as SavedModel, TFLite and ONNX, and are proved in runtimes that tokenise by themselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kerastune import export, fine_tune, verify
from kerastune.errors import KerastuneError, VerificationError
from kerastune.formats import graphs
from kerastune.predicting import inference
from kerastune.progress import Progress
from kerastune.recipe import Export
from kerastune.tasks.text_classification import task as text_classification

LONG = [{"unfreeze": "all", "epochs": 8, "learning_rate": 2e-2}]
WANTED = [
    Export(target="linux"),
    Export(target="linux", quantize="dynamic", max_accuracy_drop=0.2),
    Export(target="onnxruntime", quantize="dynamic", max_accuracy_drop=0.2),
    Export(target="onnxruntime"),
    Export(target="tf-serving"),
]


@pytest.fixture(scope="module")
def made(text_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run, and its artifacts by name."""
    run = fine_tune(text_recipe(phases=LONG), tmp_path_factory.mktemp("runs") / "run")
    return {"run": run, **{a.manifest.name: a for a in export(run, WANTED)}}


@pytest.mark.parametrize("name", ["linux", "onnxruntime", "tf-serving"])
def test_a_float_file_says_what_keras_says_of_every_text(made: dict[str, Any], name: str) -> None:
    """Within 1e-4, on the whole validation split, with tokens that the reader made itself."""
    report = made[name].report
    assert report.passed and report.validation.outputs.max_error <= 1e-4
    assert report.validation.outputs.examples == len(made["run"].predictions("validation")[0])


@pytest.mark.parametrize("name", ["linux-dynamic", "onnxruntime-dynamic"])
def test_a_quantised_file_labels_nearly_as_keras_does(made: dict[str, Any], name: str) -> None:
    assert made[name].report.validation.outputs.agreement >= 0.8


def test_raw_texts_are_answered_by_a_saved_model_of_their_own(made: dict[str, Any]) -> None:
    report = verify(made["tf-serving"], in_runtimes=["saved-model-text"])
    assert report.passed and report.validation.outputs.max_error <= 1e-4
    assert made["tf-serving"].manifest.reading["raw"] == "serving_text/1"


def test_byte_pairs_are_in_a_saved_model_of_raw_texts(text_recipe: Callable[..., Any], tmp_path: Path) -> None:
    """RoBERTa's tokenizer has tables, and loops that AutoGraph must read; within 1e-5 of Keras."""
    recipe = text_recipe("Roberta")
    task = text_classification.build(recipe, recipe.preset, 2, "float32")
    random = np.random.default_rng(0)
    for weight in task.weights:
        weight.assign(weight.numpy() + 0.1 * random.normal(size=weight.shape))
    raw = {"serving_default": text_classification.signatures(recipe, task)["serve_texts"]}
    graphs.saved_model(raw, tmp_path / "model", task.preprocessor.tokenizer)
    model = tf.saved_model.load(str(tmp_path / "model"))
    texts = ["the cat is old", "the bus"]
    found = model.signatures["serving_default"](texts=tf.constant(texts))["scores"].numpy()
    expected = text_classification.reference(recipe, task, [[text] for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4


def test_the_manifest_says_how_texts_become_inputs(made: dict[str, Any]) -> None:
    manifest = made["linux"].manifest
    assert [one.name for one in manifest.inputs] == ["padding_mask", "segment_ids", "token_ids"]
    assert manifest.inputs[0].shape == (1, None) and manifest.modality == "text"
    assert made["onnxruntime"].manifest.inputs[0].shape == (None, None)


def test_the_reader_runs_alone_without_tensorflow(made: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "reader.py", ".", "the cat is old", "--top", "1", "--check"]
    done = subprocess.run(command, cwd=made["linux"].folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ok: 16 golden texts" in done.stdout and "animal" in done.stdout


@pytest.mark.parametrize("which", ["run", "linux", "onnxruntime"])
def test_predict_labels_texts_in_keras_and_in_files(made: dict[str, Any], which: str) -> None:
    of = made[which]
    (cat, bus) = inference.predict(of, ["the cat is big old", "the bus is red fast"])
    assert [one.document["labels"][0]["label"] for one in (cat, bus)] == ["animal", "vehicle"]
    with pytest.raises(KerastuneError, match="Text 2 is empty"):
        inference.predict(of, ["the cat", " "])


@pytest.mark.parametrize("name", ["linux", "onnxruntime"])
def test_another_tokenizer_is_caught(made: dict[str, Any], copied: Callable[[Any], Any], name: str) -> None:
    """Two words trade places in the vocabulary; the hash is written anew, so that it is not what notices."""
    of = copied(made[name])
    path = of.folder / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    words = vocabulary["model"]["vocab"]
    words["cat"], words["bus"] = words["bus"], words["cat"]
    path.write_text(json.dumps(vocabulary))
    from kerastune.verifying import artifact

    with pytest.raises(VerificationError, match="largest error"):
        verify(artifact.write(of.folder, of.manifest, of.golden), made["run"].folder)


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.slow
def test_a_backbone_that_lacks_operators_at_any_length_leaves_with_one_length(
    text_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """DeBERTa in TFLite: texts shorter than the file's 20 tokens say what Keras says, within 1e-4."""
    phases = [{"unfreeze": "all", "epochs": 20, "learning_rate": 5e-3}]
    train = {"batch_size": 8, "xla": False}
    told, run = Told(), fine_tune(text_recipe("DebertaV3", phases=phases, train=train), tmp_path / "run")
    wanted = [Export(target="linux"), Export(target="linux", quantize="float16"), Export(target="onnxruntime")]
    linux, half, onnx = export(run, wanted, progress=told)
    for of in (linux, half):
        assert of.manifest.reading["length"] == 20 and of.manifest.inputs[0].shape == (1, 20)
    assert linux.report.passed and linux.report.validation.outputs.max_error <= 1e-4
    assert any("linux takes texts of one length" in line for line in told.lines)
    assert "length" not in onnx.manifest.reading and onnx.manifest.inputs[0].shape == (None, None)
    asked = [sys.executable, "reader.py", ".", "the cat is old", "--top", "1", "--check"]
    done = subprocess.run(asked, cwd=linux.folder, capture_output=True, text=True)
    assert done.returncode == 0 and "animal" in done.stdout, done.stderr


def test_metadata_of_texts_name_no_pixels(made: dict[str, Any]) -> None:
    content = (made["linux"].folder / "model.tflite").read_bytes()
    assert b"Text classification, fine-tuned from" in content and b"RGB pixels" not in content


def test_what_texts_cannot_leave_as_is_refused(made: dict[str, Any]) -> None:
    with pytest.raises(KerastuneError, match="android is for images"):
        export(made["run"], Export(target="android"))
    with pytest.raises(KerastuneError, match="the mask of padding is so large"):
        export(made["run"], Export(target="linux", quantize="int8"))


@pytest.mark.parametrize("data", [{"pair_column": "pair"}, {"label_column": "rating", "regression": True}])
def test_pairs_and_numbers_leave_too(text_recipe: Callable[..., Any], tmp_path: Path, data: dict[str, Any]) -> None:
    run = fine_tune(text_recipe(data=data, phases=LONG), tmp_path / "run")
    for of in export(run, [Export(target="onnxruntime")]):
        assert of.report.passed and of.report.validation.outputs.max_error <= 1e-3
    asked = ["the cat is big", "a cat 3"] if "pair_column" in data else ["the cat is big"]
    assert np.isfinite(inference.predict(of, asked)[0].document["labels"][0]["probability"])

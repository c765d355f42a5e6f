"""Every file that leaves computes what was trained, and one that does not is caught."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kerastune import export, fine_tune, predict, verify
from kerastune.data import TRUTHS, spread
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.recipe import Export
from kerastune.tasks.learnt.contract import ROUNDING
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.runtimes import ask

FAMILIES = ["efficientnet", "mobilenet", "resnet", "vit"]
FLOAT = ["saved_model", "tflite", "onnx"]
QUANTIZED = ["tflite-dynamic", "tflite-int8"]


@pytest.mark.parametrize("name", FLOAT)
@pytest.mark.parametrize("family", FAMILIES)
def test_float_artifacts_agree_with_keras_to_1e_4_on_every_validation_image(exported, family, name):
    report = exported(family)[name].report
    assert report.own.golden.max_error <= ROUNDING
    assert report.validation.outputs.max_error <= ROUNDING
    assert report.validation.outputs.agreement == 1


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_artifacts_keep_the_accuracy(exported, family, name):
    assert exported(family)[name].report.validation.metric.drop <= 0.1


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantised_artifacts_are_a_third_of_the_size(exported, name):
    made = exported("resnet")  # the others are too tiny for weights to count
    assert made[name].size_bytes < made["tflite"].size_bytes / 3


def test_the_saved_model_holds_its_weights_once(exported, trained):
    weights = trained("resnet").record.parameters * 4
    stored = exported("resnet")["saved_model"].folder / "model" / "1" / "variables" / "variables.data-00000-of-00001"
    assert weights <= stored.stat().st_size < 1.1 * weights


def test_the_manifest_is_the_contract(exported):
    manifest = exported("efficientnet")["tflite-int8"].manifest
    assert manifest.schema == 1 and (manifest.modality, manifest.learnt) == ("image", "label")
    assert (manifest.inputs[0].shape, manifest.inputs[0].dtype) == ((1, None, None, 3), "uint8")
    assert (manifest.outputs[0].name, manifest.outputs[0].shape) == ("scores", (1, 3))
    assert manifest.labels == ("blue", "green", "red")
    assert manifest.calibration.examples > 0
    assert len(manifest.calibration.sha256) == 64


def test_golden_images_are_spread_over_the_labels(exported, trained):
    golden = exported("efficientnet")["onnx"].golden
    assert len(golden.examples) >= 8
    assert len({image.shape for image in golden.examples}) > 1
    assert len(set(golden.expected["scores"].argmax(-1).tolist())) == 3


def test_spread_takes_from_each_class_in_turn():
    class Labels:
        labels, truth = np.array([0, 0, 0, 0, 1, 2, 2]), TRUTHS["label"]

        def __len__(self):
            return 7

    assert spread(Labels(), 5) == [0, 4, 5, 1, 6]


def test_the_saved_model_takes_encoded_files_and_puts_transparency_on_white(exported, tmp_path):
    from PIL import Image

    made = exported("efficientnet")["saved_model"]
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    encoded = np.frombuffer((tmp_path / "clear.png").read_bytes(), np.uint8)
    white = np.full((40, 40, 3), 255, np.uint8)
    scores = ask(made, "saved-model", [encoded, white]).outputs["scores"]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


@pytest.mark.parametrize("name", ["saved_model", "tflite", "onnx"])
def test_readers_run_inside_the_artifact_folder_without_kerastune(exported, name):
    folder = exported("efficientnet")[name].folder
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "reader.py", ".", "--check"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok:")


def test_a_reader_in_the_repository_labels_an_image_file(exported, pictures):
    reader = Path(__file__).parents[1] / "export" / "onnxruntime" / "reader.py"
    command = [sys.executable, reader, exported("efficientnet")["onnx"].folder, pictures / "red" / "00.png"]
    done = subprocess.run([*command, "--top", "1"], capture_output=True, text=True)
    assert done.stdout.splitlines()[1].endswith("red"), done.stderr


def test_artifacts_and_the_run_predict_the_same(exported, trained, pictures):
    photos = [pictures / label / "05.png" for label in ("blue", "green", "red")]
    for of in [
        trained("efficientnet"),
        *(exported("efficientnet")[name] for name in ("saved_model", "tflite-int8", "onnx")),
    ]:
        found = predict(of, photos, top=1)
        assert [one.document["labels"][0]["label"] for one in found] == ["blue", "green", "red"]
        assert all(one.lines[0].endswith(f"  {one.document['labels'][0]['label']}") for one in found)


# --- what must be caught -----------------------------------------------------------------------------------


def damage(made, forget=True):
    """Flips the sign of half of the weights; with `forget`, the manifest is made to fit again."""
    path = made.folder / made.manifest.model
    content = bytearray(path.read_bytes())
    weights = np.frombuffer(content, np.uint8)[len(content) // 4 : 3 * len(content) // 4]
    weights ^= 0x80
    path.write_bytes(content)
    return artifact.write(made.folder, made.manifest, made.golden) if forget else artifact.load(made.folder)


@pytest.mark.parametrize("name", ["tflite", "tflite-int8", "onnx"])
def test_a_model_with_other_weights_fails_on_its_golden_images(exported, copied, name):
    with pytest.raises((VerificationError, ConverterError)):
        verify(damage(copied(exported("resnet")[name])))


def test_a_changed_byte_is_named(exported, copied):
    with pytest.raises(VerificationError, match=r"model\.onnx has changed"):
        verify(damage(copied(exported("resnet")["onnx"]), forget=False))


def test_a_quantised_artifact_verifies_again_after_export(exported):
    assert verify(exported("resnet")["tflite-int8"]).validation.metric.examples > 0


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors have other int8 sums")
def test_int8_sums_that_overflow_in_openvino_are_said_and_refused_only_where_openvino_was_asked_for(
    exported, copied, monkeypatch
):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # no VNNI; here the largest error of a score is then 0.13
    monkeypatch.setattr(runtimes, "_has_vnni", lambda: False)
    made = copied(exported("resnet")["tflite-int8"])
    report = verify(made, exported("resnet")["onnx"].folder.parents[1])
    assert report.passed
    assert report.runtimes["openvino"].passed is None
    assert "overflow" in report.runtimes["openvino"].problems[-1]
    with pytest.raises(VerificationError, match=r"from those of litert.*overflow"):
        verify(made, in_runtimes=["openvino"])


@pytest.mark.parametrize("key", ["labels", "tolerance", "licence", "files", "versions"])
def test_a_manifest_that_says_something_else_is_refused(exported, copied, key):
    made = copied(exported("resnet")["onnx"])
    said = json.loads((made.folder / "manifest.json").read_text("utf-8"))
    other = {"labels": said["labels"][::-1], "tolerance": {**said["tolerance"], "golden_error": 1.0}, "licence": "none"}
    (made.folder / "manifest.json").write_text(json.dumps({**said, key: other.get(key, {})}))
    with pytest.raises(VerificationError, match=r"manifest\.json is damaged: its sha256 does not match its content"):
        verify(made.folder)
    done = subprocess.run([sys.executable, made.folder / "reader.py", made.folder, "--check"], capture_output=True)
    assert (done.returncode, done.stderr.decode().strip()) == (3, "FAILED: changed since the export: manifest.json")


def test_predict_and_the_reader_refuse_a_changed_byte_too(exported, copied, pictures):
    made = damage(copied(exported("resnet")["onnx"]), forget=False)
    with pytest.raises(VerificationError, match=r"model\.onnx has changed"):
        predict(made, pictures / "red" / "00.png")
    done = subprocess.run([sys.executable, made.folder / "reader.py", made.folder, "--check"], capture_output=True)
    assert done.returncode == 3
    assert b"FAILED: changed since the export: model.onnx" in done.stderr


def test_a_missing_file_is_named(exported, copied):
    made = copied(exported("resnet")["tflite"])
    (made.folder / "golden.npz").unlink()
    with pytest.raises(VerificationError, match=r"golden\.npz is missing"):
        verify(made)


def rewrite_golden(made, change):
    expected = {"scores": change(made.golden.expected["scores"])}
    return artifact.write(made.folder, made.manifest, replace(made.golden, expected=expected))


def test_a_reference_that_does_not_vary_is_refused(exported, copied):
    made = rewrite_golden(copied(exported("resnet")["onnx"]), lambda s: np.repeat(s[:1], len(s), axis=0))
    with pytest.raises(VerificationError, match="hardly vary"):
        verify(made)


def test_an_error_of_3e_4_fails_and_of_3e_5_passes(exported, copied):
    made = copied(exported("resnet")["onnx"])
    rewrite_golden(made, lambda s: s + np.float32(3e-5))
    assert verify(made.folder).passed
    with pytest.raises(VerificationError, match="largest error"):
        verify(rewrite_golden(made, lambda s: s + np.float32(3e-4)))


def test_nan_fails(exported, copied):
    made = rewrite_golden(copied(exported("resnet")["onnx"]), lambda s: s * np.float32(np.nan))
    with pytest.raises(VerificationError):
        verify(made)


def test_code_in_an_artifact_is_not_run_by_verify(exported, copied, tmp_path):
    made = copied(exported("resnet")["onnx"])
    (made.folder / "reader.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    verify(artifact.write(made.folder, made.manifest, made.golden))
    assert not (tmp_path / "ran").exists()


def test_an_accuracy_drop_beyond_what_is_allowed_leaves_no_artifact(recipe, tmp_path):
    weak = fine_tune(recipe("resnet", phases=[{"unfreeze": "head", "learning_rate": 1e-9}]), tmp_path / "weak")
    with np.load(weak.folder / "predictions.npz") as stored:
        perfect = {**stored, "validation/predictions/scores": np.eye(3, dtype=np.float32)[stored["validation/truth"]]}
    np.savez(weak.folder / "predictions.npz", **perfect)  # as if Keras had been right about every image
    with pytest.raises(VerificationError, match=r"max_accuracy_drop is 0\.02"):
        export(weak, Export(format="tflite", quantize="dynamic"))
    assert os.listdir(weak.exports) == ["tflite-dynamic.failed.json"]


def test_an_interrupted_run_is_not_exported_before_it_has_scores(trained, copied_run):
    made = copied_run(trained("resnet"))
    (made.folder / "predictions.npz").unlink()
    with pytest.raises(KerastuneError, match="no scores of its model yet"):
        export(made, Export(format="onnx"))


def test_a_folder_in_use_is_refused(exported, trained):
    with pytest.raises(KerastuneError, match="already exists"):
        export(trained("resnet"), Export(format="onnx"), exported("resnet")["onnx"].folder)


def test_an_artifact_away_from_its_run_replays_its_golden_images_only(exported, copied):
    report = verify(copied(exported("resnet")["tflite"]))
    assert report.passed
    assert report.validation is None


def test_an_artifact_of_another_run_is_refused(exported, trained):
    with pytest.raises(KerastuneError, match="was not exported from"):
        verify(exported("resnet")["onnx"], trained("vit").folder)

"""Runtimes run in children with limits, and a row of RUNTIMES says what each one takes."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from manifests import a_manifest, tensor
from onnx import helper
from test_artifact import Told

from kerastune import child, verify
from kerastune.errors import ConverterError
from kerastune.verifying import artifact, runtimes, verifier
from kerastune.verifying.artifact import Golden
from kerastune.verifying.benchmark import benchmark
from kerastune.verifying.manifest import Manifest

IMAGE = np.zeros((2, 2, 3), np.uint8)


def rounds(count: int, folder: Path) -> artifact.Artifact:
    """An ONNX artifact that goes round a loop `count` times before it gives the sum of its pixels."""
    value, node = helper.make_tensor_value_info, helper.make_node
    int64, bool_, float_ = onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    body = helper.make_graph(
        [node("Identity", ["was"], ["more"]), node("Neg", ["x"], ["y"])],
        "round",
        [value("i", int64, []), value("was", bool_, []), value("x", float_, [1, 3])],
        [value("more", bool_, []), value("y", float_, [1, 3])],
    )
    graph = helper.make_graph(
        [
            node("Cast", ["images"], ["floats"], to=float_),
            node("ReduceSum", ["floats", "axes"], ["sums"], keepdims=0),
            node("Loop", ["count", "go", "sums"], ["scores"], body=body),
        ],
        "rounds",
        [value("images", onnx.TensorProto.UINT8, [1, None, None, 3])],
        [value("scores", float_, [1, 3])],
        [
            helper.make_tensor("count", int64, [], [count]),
            helper.make_tensor("go", bool_, [], [True]),
            helper.make_tensor("axes", int64, [2], [1, 2]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "model.onnx")
    manifest = a_manifest(name="round", format="onnx", model="model.onnx", runtime="onnxruntime")
    scores = np.array([[0, 0, 0], [-4, -4, -4]], np.float32)
    return artifact.write(folder, manifest, Golden([IMAGE, IMAGE + 1], {"scores": scores}))


def test_a_runtime_that_hangs_is_ended_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtimes.ask(rounds(3, tmp_path), "onnxruntime", [IMAGE]).outputs["scores"].tolist() == [[0, 0, 0]]
    monkeypatch.setattr(runtimes, "SECONDS", 5.0)
    with pytest.raises(ConverterError, match=r"onnxruntime, running round, took more than 0\.0833333 minutes"):
        runtimes.ask(rounds(2**62, tmp_path), "onnxruntime", [IMAGE])


@pytest.mark.parametrize("use", [verify, lambda of, **more: benchmark([of], **more)])
def test_what_runs_a_file_that_hangs_ends_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[..., object]
) -> None:
    monkeypatch.setattr(runtimes, "SECONDS", 5.0)
    with pytest.raises(ConverterError, match="onnxruntime, running round, took more than"):
        use(rounds(2**62, tmp_path), in_runtimes=["onnxruntime"])


def test_a_runtime_that_fails_is_left_out_of_a_benchmark_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "SECONDS", 5.0)
    monkeypatch.setattr(runtimes, "choose", lambda manifest, asked: ["onnxruntime"])
    told = Told()
    assert benchmark([rounds(2**62, tmp_path)], progress=told) == []
    assert "onnxruntime is left out: onnxruntime, running round, took more than" in told.said[-1]


def test_a_runtime_that_hangs_takes_no_more_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds, so that whoever writes waits, too."""
    monkeypatch.setattr(runtimes, "SECONDS", 5.0)
    many = [np.zeros((500, 500, 3), np.uint8)] * 3
    with pytest.raises(ConverterError, match="took more than"):
        runtimes.ask(rounds(2**62, tmp_path), "onnxruntime", many)


def test_a_slow_child_that_shows_signs_of_life_is_left_alone() -> None:
    slow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3)"])
    assert child.watch(slow, 1.0, time.monotonic)[0] is None
    slow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert "took more than" in str(child.watch(slow, 1.0)[0])
    child.end(slow)
    slow.wait()


def test_what_a_child_started_ends_with_it() -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    grandchild = Path("/proc", parent.stdout.readline().strip())
    child.end(parent)
    deadline = time.monotonic() + 10
    while grandchild.exists() and "Z" not in (grandchild / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.communicate()


IMAGES = a_manifest()
TEXTS = a_manifest(modality="text", signatures=("any_length",), inputs=(tensor("token_ids", (1, None), "int32"),))
CHATS = replace(TEXTS, modality="conversation", learnt="text", signatures=("prefill", "decode"))


@pytest.mark.parametrize(
    ("runtime", "manifest", "why"),
    [
        ("litert", IMAGES, None),
        ("onnxruntime", IMAGES, "it runs onnx, but this is tflite"),
        ("tflm", TEXTS, "it takes images, but this takes texts"),
        ("saved-model-text", IMAGES, "it takes texts or conversations, but this takes images"),
        ("saved-model-text", replace(TEXTS, format="saved_model", model="model/1"), "no model of raw texts"),
        ("litert-reference", CHATS, "seconds per token"),
        (
            "tflm",
            replace(IMAGES, inputs=(tensor("images", (1, None, None, 3)),)),
            "as targets android, browser and microcontroller have",
        ),
        ("tflm", replace(IMAGES, quantize="dynamic"), 'no kernels for quantize = "dynamic"'),
        (
            "mediapipe",
            replace(IMAGES, inputs=(tensor("images", (1, 2, 2, 3), "int8"),)),
            "it takes float32 or uint8 images, not int8",
        ),
        ("mediapipe", replace(IMAGES, learnt="number"), "it has no task for what this was trained on: number"),
        ("openvino", replace(IMAGES, learnt="boxes"), "mixes the rows that a TFLite file gathers"),
        ("openvino", CHATS, "it reads one signature of a file, but this has prefill and decode"),
        (
            "browser",
            replace(IMAGES, outputs=(tensor("boxes"), tensor("scores", (1, 3), "int8"))),
            "float32 outputs, but this gives int8",
        ),
    ],
)
def test_a_runtime_is_refused_by_what_its_row_says(runtime: str, manifest: Manifest, why: str | None) -> None:
    found = runtimes.refusal(runtime, manifest)
    assert why in str(found) if why else found is None


def test_consecutive_examples_of_one_size_are_asked_as_batches_no_larger_than_the_golden_one() -> None:
    examples = [np.full(shape, n, np.uint8) for n, shape in enumerate([(2, 2, 3)] * 4 + [(4, 2, 3)] + [(2, 2, 3)] * 2)]
    batches = list(verifier._batches(examples, most=3 * examples[0].nbytes))
    assert [batch.shape for batch in batches] == [(3, 2, 2, 3), (1, 2, 2, 3), (1, 4, 2, 3), (2, 2, 2, 3)]
    assert [int(row.max()) for batch in batches for row in batch] == list(range(7))

"""A SavedModel that could do more than compute is refused before it is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from attack import made
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from kerastune import predict, verify
from kerastune.errors import VerificationError
from kerastune.modalities.image import IMAGE
from kerastune.serving.stand_in import serve
from kerastune.targets import operators
from kerastune.verifying.artifact import Artifact
from kerastune.verifying.benchmark import benchmark

raw = tf.raw_ops
IMAGES = tf.TensorSpec([1, 2, 2, 3], tf.uint8, "images")


def saved(function: Callable[[Any], Any], folder: Path) -> Path:
    """Saves a model that computes scores and, before that, calls a function of them."""
    module = tf.Module()
    module.weights = tf.Variable(np.eye(3, dtype=np.float32))
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)

    @tf.function(input_signature=[IMAGES])  # type: ignore[untyped-decorator]
    def score(images: Any) -> Any:
        scores = tf.matmul(tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) / 255, module.weights)
        while tf.reduce_sum(scores) > 10:
            scores /= 2
        with tf.control_dependencies([function(scores)]):
            return {"scores": scores + 0 * tf.cast(module.table.lookup(tf.constant("b")), tf.float32)}

    module.score = score
    tf.saved_model.save(module, str(folder), {"serving_default": score})
    return folder


def written(scores: Any) -> Any:
    return tf.io.write_file("/tmp/kerastune-was-here", "x")


def through_a_branch(scores: Any) -> Any:
    return tf.cond(scores[0, 0] > 5, lambda: tf.io.read_file("/etc/passwd"), lambda: tf.constant("x"))


def through_a_function(scores: Any) -> Any:
    @tf.function  # type: ignore[untyped-decorator]
    def inner(scores: Any) -> Any:
        with tf.control_dependencies([written(scores)]):
            return tf.identity(scores)

    return inner(scores)


def lines(scores: Any) -> Any:
    return tf.data.TextLineDataset("/etc/passwd").reduce(tf.constant(0), lambda count, line: count + 1)


BEYOND: dict[str, tuple[Callable[[Any], Any], str]] = {
    "writes": (written, "WriteFile"),
    "reads": (lambda scores: tf.io.read_file("/etc/passwd"), "ReadFile"),
    "lists": (lambda scores: tf.io.matching_files("/*"), "MatchingFiles"),
    "reads in a branch": (through_a_branch, "ReadFile"),
    "writes in a function": (through_a_function, "WriteFile"),
    "calls NumPy": (lambda scores: tf.numpy_function(lambda x: x, [scores], tf.float32), "PyFunc"),
    "calls Python": (lambda scores: tf.py_function(lambda x: x, [scores], tf.float32), "EagerPyFunc"),
    "prints to a file": (lambda scores: tf.print(scores, output_stream="file:///tmp/kerastune-was-here"), "PrintV2"),
    "iterates over a file": (lines, "TextLineDataset"),
    "saves": (
        lambda scores: raw.SaveV2(prefix="/tmp/x", tensor_names=["x"], shape_and_slices=[""], tensors=[scores]),
        "SaveV2",
    ),
    "restores": (
        lambda scores: raw.RestoreV2(prefix="/tmp/x", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[
            0
        ],
        "RestoreV2",
    ),
    "merges": (
        lambda scores: raw.MergeV2Checkpoints(checkpoint_prefixes=["/tmp/x"], destination_prefix="/tmp/y"),
        "MergeV2Checkpoints",
    ),
    "debugs": (lambda scores: raw.DebugIdentityV3(input=scores, debug_urls=["file:///tmp/x"]), "DebugIdentityV3"),
    "logs": (lambda scores: raw.SummaryWriter(), "SummaryWriter"),
    "a table of a file": (
        lambda scores: raw.InitializeTableFromTextFileV2(
            table_handle=raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64),
            filename="/etc/passwd",
            key_index=-2,
            value_index=-1,
        ),
        "InitializeTableFromTextFileV2",
    ),
}


def test_variables_tables_loops_and_random_numbers_only_compute(tmp_path: Path) -> None:
    assert operators.beyond(saved(lambda scores: tf.random.uniform([3]), tmp_path)) == []


@pytest.mark.parametrize("kind", BEYOND)
def test_an_operator_that_does_more_is_named(tmp_path: Path, kind: str) -> None:
    function, name = BEYOND[kind]
    assert name in operators.beyond(saved(function, tmp_path))


def test_a_graph_that_runs_when_it_is_loaded_is_refused(tmp_path: Path) -> None:
    path = saved(tf.identity, tmp_path) / "saved_model.pb"
    content = SavedModel.FromString(path.read_bytes())
    content.meta_graphs[0].ClearField("object_graph_def")
    path.write_bytes(content.SerializeToString())
    assert "TensorFlow 1 graph" in operators.beyond(tmp_path)[0]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """An artifact whose model writes a file, and that file."""
    folder = tmp_path_factory.mktemp("hostile")
    saved(lambda scores: tf.io.write_file(str(folder / "was-here"), "x"), folder / "toy/model/1")
    return made.sealed(folder / "toy", "saved_model", "model/1", "saved-model"), folder / "was-here"


USES: dict[str, Callable[[Artifact], object]] = {
    "verify": lambda of: verify(of.folder),
    "benchmark": lambda of: benchmark([of]),
    "serve": lambda of: serve(of, port=0, grpc_port=0),
}


@pytest.mark.parametrize("use", USES)
def test_whoever_opens_such_a_model_refuses_it_and_does_not_run_it(hostile: tuple[Artifact, Path], use: str) -> None:
    of, trace = hostile
    with pytest.raises(VerificationError, match="could do more than compute: WriteFile"):
        USES[use](of)
    assert not trace.exists()


def test_predict_refuses_it(hostile: tuple[Artifact, Path], tmp_path: Path) -> None:
    of, trace = hostile
    assert IMAGE.encode
    (tmp_path / "x.png").write_bytes(IMAGE.encode(made.IMAGES[0]))
    with pytest.raises(VerificationError, match="could do more than compute: WriteFile"):
        predict(of, tmp_path / "x.png")
    assert not trace.exists()

"""What conversion to ONNX stores."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kerastune.formats import onnx as format

WORDS, WIDTH = 300, 256


def tied(head: Any) -> Any:
    """A model that looks up a word and scores all words by their likeness to it: ids [1] -> scores [1, words]."""
    table = np.random.default_rng(0).normal(size=(WORDS, WIDTH)).astype(np.float32)
    stored = {"table": table, "head": head(table)}
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "head"], ["scores"])]
    ends = (("ids", TensorProto.INT64, [1]), ("scores", TensorProto.FLOAT, [1, WORDS]))
    takes, gives = (helper.make_tensor_value_info(*one) for one in ends)
    constants = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "tied", [takes], [gives], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", format.OPSET)], ir_version=8)


def scores(model: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.array([7])})[0]


def test_an_embedding_that_is_also_the_head_is_stored_once() -> None:
    model = tied(lambda table: np.ascontiguousarray(table.T))
    before = scores(model)
    format._share_transposed(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.initializer) == 1
    np.testing.assert_array_equal(scores(model), before)


@pytest.mark.parametrize("change", [lambda one: one.T + np.eye(*one.T.shape, dtype=np.float32), lambda one: -one.T])
def test_a_head_of_its_own_stays(change: Any) -> None:
    model = tied(lambda table: np.ascontiguousarray(change(table)))
    format._share_transposed(model.graph)
    assert len(model.graph.initializer) == 2

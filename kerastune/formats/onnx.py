"""ONNX, opset 17, from frozen graphs: float32, int8 weights, or int8 with QDQ nodes.

A file holds one signature. Of "ONE+OTHER", ONE becomes the model and OTHER the file OTHER.onnx beside it.
"""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.formats import graphs
from kerastune.formats.contract import Converter, Traced
from kerastune.formats.conversion import Conversion, calibration

OPSET = 17  # tf2onnx 1.17 writes 11 to 18
_LARGE = 2**16  # numbers of a matrix; looking for the twins of smaller ones gains nothing
# Ops to quantise: those with weights, and those between two of them. Resize runs first and stays in float.
_INT8 = ["Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "AveragePool", "GlobalAveragePool", "MaxPool", "Concat"]


def trace(traced: Traced, name: str) -> None:
    """Writes a signature's graph with its weights as constants."""
    for one in name.split("+"):
        graphs.frozen(one, traced.signatures[one], traced.work)
    graphs.write_dtypes(name, traced.signatures[name.partition("+")[0]], traced.work)


def write(work: Path, path: Path, conversion: Conversion) -> None:
    """Converts and quantises, and runs ONNX's own checker on each file."""
    first, *others = conversion.signature.split("+")
    _write(work, path, replace(conversion, signature=first))
    for other in others:
        _write(work, path.with_name(f"{other}.onnx"), replace(conversion, signature=other))


def _write(work: Path, path: Path, conversion: Conversion) -> None:
    import onnx

    model = _convert(work, conversion.signature)
    # The converter reports success even if operators are left that no runtime has.
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    if conversion.quantize != "none":
        _quantise(work, path, conversion)


def _convert(work: Path, signature: str) -> Any:
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """Used by the exact GELU and unknown to tf2onnx 1.17: erfc(x) = 1 - erf(x)."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            erf = ctx.insert_new_node_on_input(node, "Erf", node.input[0])
            one = ctx.make_const(f"{node.name}_one", np.array(1, np.float32))
            node.type = "Sub"
            ctx.replace_inputs(node, [one.output[0], erf.output[0]])

    @tf_op("XlaDynamicUpdateSlice")
    class XlaDynamicUpdateSlice:
        """Writes into a language model's cache; unknown to tf2onnx 1.17.

        Scatters into the flattened cache, so that each axis may start anywhere. Only the cache has a static shape.
        """

        @classmethod
        def version_11(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            def made(op: str, *inputs: str, **attributes: Any) -> str:
                return str(ctx.make_node(op, list(inputs), attr=attributes).output[0])

            def constant(value: Any) -> str:
                return str(ctx.make_const(utils.make_name(node.name), np.array(value, np.int64)).output[0])

            operand, update, start = node.input
            sizes, row = ctx.get_shape(operand), constant([-1])
            starts, lengths = made("Cast", start, to=onnx.TensorProto.INT64), made("Shape", update)
            places = constant(0)
            for axis in range(len(sizes)):
                at = constant(axis)
                along = made("Range", constant(0), made("Gather", lengths, at), constant(1))  # [length of the axis]
                along = made("Add", along, made("Gather", starts, at))
                along = made("Mul", along, constant(math.prod(sizes[axis + 1 :])))
                shape = constant([-1 if other == axis else 1 for other in range(len(sizes))])
                places = made("Add", places, made("Reshape", along, shape))
            numbers = [made("Reshape", tensor, row) for tensor in (operand, places, update)]
            written = made("ScatterElements", *numbers, axis=0)
            dtype = ctx.get_dtype(node.output[0])
            ctx.remove_node(node.name)
            ctx.make_node(
                "Reshape",
                [written, constant(sizes)],
                outputs=node.output,
                name=node.name,
                shapes=[sizes],
                dtypes=[dtype],
            )

    graph = tf.compat.v1.GraphDef.FromString((work / f"{signature}.pb").read_bytes())
    ends = json.loads((work / f"{signature}.json").read_text())
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        name="kerastune",
        input_names=list(ends["inputs"]),
        output_names=list(ends["outputs"]),
        opset=OPSET,
        tensors_to_rename={**ends["inputs"], **ends["outputs"]},
    )
    _share_transposed(model.graph)
    return model


def _share_transposed(graph: Any) -> None:
    """Stores a matrix once that is there in both orders, as the embedding that is also a decoder's head.

    tf2onnx folds the transposition into a second constant. ONNX Runtime folds it again when it loads the file.
    """
    from onnx import helper, numpy_helper

    stored: dict[Any, str] = {}  # digest -> name
    for one in [one for one in graph.initializer if len(one.dims) == 2 and math.prod(one.dims) >= _LARGE]:
        name, values = one.name, numpy_helper.to_array(one)
        if twin := stored.get(_digest(values.T)):
            graph.node.insert(0, helper.make_node("Transpose", [twin], [name], f"{name}_from_{twin}", perm=[1, 0]))
            graph.initializer.remove(one)
        else:
            stored[_digest(values)] = name


def _digest(matrix: Any) -> Any:
    return matrix.dtype, matrix.shape, hashlib.sha256(matrix.tobytes()).digest()


def _quantise(work: Path, path: Path, conversion: Conversion) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = calibration(work, conversion)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    if conversion.quantize == "dynamic":
        quantize_dynamic(prepared, path)
    else:
        quantize_static(prepared, path, Calibration(), QuantFormat.QDQ, op_types_to_quantize=_INT8, per_channel=True)
    prepared.unlink()
    model = onnx.load(path)
    _drop_zeros(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _drop_zeros(graph: Any) -> None:
    """Removes the zero points of weights and biases: they are 0, which is the default, and take 5 bytes a channel."""
    from onnx import numpy_helper

    stored = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[0] in stored:
            zero = numpy_helper.to_array(stored[node.input[2]])
            if zero.dtype != np.uint8 and not zero.any():
                del node.input[2]
    used = {name for node in graph.node for name in node.input}
    for unused in [one for name, one in stored.items() if name not in used]:
        graph.initializer.remove(unused)


def inspect(path: Path) -> tuple[list[str], list[str]]:
    """Returns problems (operators that ONNX does not have), and the names of the inputs, of all files in a folder."""
    found, takes = list[str](), set[str]()
    for one in sorted(path.parent.glob("*.onnx")):
        problems, names = _inspect(one)
        found += problems
        takes |= set(names)
    return found, sorted(takes)


def _inspect(path: Path) -> tuple[list[str], list[str]]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    foreign = sorted(
        {node.op_type for node in graph.node if node.domain not in ("", "ai.onnx") or node.op_type not in known}
    )
    stored = {constant.name for constant in graph.initializer}
    takes = [value.name for value in graph.input if value.name not in stored]
    found = [f"operators that ONNX lacks: {', '.join(foreign)}"] if foreign else []
    return found, takes


CONVERTER = Converter(trace, write, inspect)

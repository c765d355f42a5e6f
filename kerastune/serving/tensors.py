"""Converts arrays from and to JSON and protobufs, in TF Serving's formats.

g3doc/api_rest.md, util/json_tensor.cc and servables/tensorflow/predict_util.cc in github.com/tensorflow/serving.
"""

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from kerastune.errors import shortened
from kerastune.serving.signatures import Array, Arrays, Refused, Specs, pixels

MAX_BYTES = 64 * 2**20
"""The limit of a REST body or a gRPC message. gRPC's own default is 4 MiB; TF Serving's limit is 2 GiB."""

MAX_PIXELS = 2**27
"""Maximum pixels in all encoded images of a request: 1.6 GB as floats in RGB."""

MAX_ROWS = 512
"""Maximum examples in a request: a tiny one can take as much memory as a large one."""


def from_rows(rows: Any, inputs: Specs) -> Arrays:
    """Reads the row format: a list of objects with a value for each input, or of values of the only input."""
    if not isinstance(rows, list) or not rows:
        raise Refused("'instances' must be a list with at least one value")
    if not any(map(_is_object, rows)):
        return from_columns(rows, inputs)
    for i, row in enumerate(rows):
        if not _is_object(row) or set(row) != set(inputs):
            raise Refused(f"Failed to process element: {i} of 'instances' list. Keys must be: {', '.join(inputs)}")
    return from_columns({name: [row[name] for row in rows] for name in inputs}, inputs)


def from_columns(value: Any, inputs: Specs) -> Arrays:
    """Reads the column format: an object with a tensor for each input, or the tensor of the only input."""
    if not _is_object(value):
        if len(inputs) != 1:
            raise Refused(f"An object is expected, with the inputs {', '.join(inputs)}")
        value = dict.fromkeys(inputs, value)
    _check_names(value, inputs)
    return {name: _checked(name, spec, _from_lists(name, value[name], spec.dtype)) for name, spec in inputs.items()}


def _is_object(value: Any) -> bool:  # with names; {"b64": …} is bytes
    return isinstance(value, dict) and set(value) != {"b64"}


def _check_names(sent: Mapping[str, Any], inputs: Specs) -> None:
    if set(sent) != set(inputs):
        missing, extra = sorted(set(inputs) - set(sent)), shortened(",".join(sorted(set(sent) - set(inputs))))
        raise Refused(
            f"inputs do not match the signature. Missing but required: {{{','.join(missing)}}}. "
            f"Sent extra: {{{extra}}}."
        )


def _checked(name: str, spec: Any, array: Array) -> Array:
    if not spec.shape.is_compatible_with(array.shape):
        raise Refused(f"input {name} has shape {list(array.shape)}, but {list(spec.shape)} is expected")
    if array.ndim and len(array) > MAX_ROWS:
        raise Refused(f"input {name} has {len(array):,} rows; a request can have at most {MAX_ROWS}")
    if pixels(name, array) > MAX_PIXELS:
        raise Refused(f"input {name} has images of more than the {MAX_PIXELS:,} pixels that are safe to open")
    return array


def _from_lists(name: str, value: Any, dtype: Any) -> Array:
    array: Array = np.array(value, object)  # numpy keeps lists of different lengths as objects
    kinds = set(map(type, array.ravel()))
    if list in kinds:
        raise Refused(f"input {name} is ragged: its lists differ in length or depth at level {array.ndim}")
    if dtype == tf.string:
        return np.array([_string(name, leaf) for leaf in array.ravel()], object).reshape(array.shape)
    if foreign := kinds - ({bool} if dtype.is_bool else {int} if dtype.is_integer else {int, float}):
        got = ", ".join(sorted(kind.__name__ for kind in foreign))
        raise Refused(f"input {name} holds values of type {got}, but {dtype.name} is expected")
    return array.astype(dtype.as_numpy_dtype)


def _string(name: str, leaf: Any) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if not isinstance(leaf, dict) or not isinstance(leaf.get("b64"), str):
        raise Refused(f'input {name} holds {type(leaf).__name__}, but a string or {{"b64": …}} is expected')
    text = "".join(leaf["b64"].split())
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # padding is optional to TF Serving


def to_rows(outputs: Arrays, count: int) -> Any:
    """Writes the row format: an object with a value of each output for each instance, or the only output's values.

    Raises:
        Refused: an output has no row for each of the `count` instances.
    """
    for name, array in outputs.items():
        if array.shape[:1] != (count,):
            raise Refused(f"output {name} has shape {list(array.shape)} for {count} instances; ask with 'inputs'")
    columns = to_columns(outputs)
    if len(outputs) == 1:
        return columns
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def to_columns(outputs: Arrays) -> Any:
    """Writes the column format: an object with all outputs, or the only one."""
    columns = {name: _to_lists(name, array) for name, array in outputs.items()}
    return columns if len(columns) > 1 else columns.popitem()[1]


def _to_lists(name: str, array: Array) -> Any:
    if array.dtype == object:  # strings; TF Serving recognises binary ones by name
        binary = name.endswith("_bytes")
        texts = [{"b64": base64.b64encode(v).decode()} if binary else v.decode(errors="replace") for v in array.flat]
        return np.array(texts, object).reshape(array.shape).tolist()
    if array.dtype == np.float32:
        return array.astype(str).astype(np.float64).tolist()  # 0.2 instead of 0.20000000298, the same float32
    return array.tolist()


def from_protos(protos: Mapping[str, Any], inputs: Specs) -> Arrays:
    """Reads TensorProtos."""
    _check_names(protos, inputs)
    return {name: _checked(name, spec, _from_proto(name, protos[name], spec.dtype)) for name, spec in inputs.items()}


def _from_proto(name: str, proto: Any, dtype: Any) -> Array:
    if proto.dtype != dtype.as_datatype_enum:
        got = tf.as_dtype(proto.dtype).name if proto.dtype else "nothing"
        raise Refused(f"input {name} is {got}, but {dtype.name} is expected")
    shape = [axis.size for axis in proto.tensor_shape.dim][:20]
    size = math.prod(shape)  # a tensor can repeat its last value to fill its shape
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or size * dtype.size > MAX_BYTES:
        raise Refused(f"input {name} has a shape that no request can fill: {shape}")
    if dtype == tf.string and len(proto.string_val) != size:
        raise Refused(f"input {name} has {len(proto.string_val)} strings, but its shape is {shape}")
    array: Array = tf.make_ndarray(proto)
    return array


# TF Serving fills these fields, and clients in other languages read them instead of tensor_content.
_FIELDS = {tf.float32: "float_val", tf.float64: "double_val", tf.int64: "int64_val", tf.bool: "bool_val"}
_FIELDS |= {tf.string: "string_val", **dict.fromkeys((tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32), "int_val")}


def to_proto(array: Array) -> Any:
    """Writes a TensorProto."""
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _FIELDS:
        return tf.make_tensor_proto(array)
    proto = TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=tf.TensorShape(array.shape).as_proto())
    getattr(proto, _FIELDS[dtype]).extend(array.ravel().tolist())
    return proto

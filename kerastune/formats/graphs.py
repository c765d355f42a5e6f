"""Keras functions as graphs: a SavedModel with signatures, or a graph with its weights as constants."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

Signature: TypeAlias = "tuple[Callable[..., dict[str, Any]], list[Any]]"
"""A function from tensors to named tensors, and the named `tf.TensorSpec`s of its inputs."""


def saved_model(signatures: Mapping[str, Signature], path: Path, tokenizer: Any = None) -> None:
    """Writes a SavedModel with these signatures.

    Args:
        tokenizer: KerasHub's tokenizer, if they use it: its tables are stored too. AutoGraph must read its functions,
            so nothing is inlined.
    """
    import keras

    # No archive.track(task): endpoints track their variables by themselves, and Keras 3.15 would store them twice.
    archive = keras.export.ExportArchive()
    if tokenizer is not None:
        tokenizer.built = True  # it has no weights, and Keras asks
        archive.track(tokenizer)
    with _inlined() if tokenizer is None else nullcontext():
        for name, (function, specs) in signatures.items():
            archive.add_endpoint(name, function, input_signature=specs)
        archive.write_out(str(path), verbose=False)


def frozen(name: str, signature: Signature, work: Path) -> None:
    """Writes a signature's graph with its weights as constants, NAME.pb; NAME.json names its inputs and outputs."""
    function, specs = signature
    graph, outputs = freeze(function, *specs)
    if shared := {spec.name for spec in specs} & set(outputs):
        raise ValueError(f"ONNX wants another name for the output {', '.join(sorted(shared))}: an input has it")
    ends = {
        "inputs": {tensor.name: spec.name for tensor, spec in zip(graph.inputs, specs, strict=True)},
        "outputs": {tensor.name: key for tensor, key in zip(graph.outputs, sorted(outputs), strict=True)},
    }
    (work / f"{name}.pb").write_bytes(graph.graph.as_graph_def().SerializeToString())
    (work / f"{name}.json").write_text(json.dumps(ends))
    write_dtypes(name, signature, work)


def write_dtypes(name: str, signature: Signature, work: Path) -> None:
    (work / f"{name}.dtypes.json").write_text(json.dumps({spec.name: spec.dtype.name for spec in signature[1]}))


def freeze(function: Callable[..., Any], *specs: Any) -> tuple[Any, Any]:
    """Traces a function with its weights as constants. Returns the graph and the structured outputs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    with _inlined():
        traced = tf.function(function).get_concrete_function(*specs)
        graph = convert_variables_to_constants_v2(traced, lower_control_flow=False, aggressive_inlining=True)
    return graph, traced.structured_outputs


@contextmanager
def _inlined() -> Iterator[None]:
    """Inlines the XLA-compiled functions around some of Keras's convolutions: no converter can read those."""
    import tensorflow as tf

    was = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # global; writing the model needs it as well
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(was)

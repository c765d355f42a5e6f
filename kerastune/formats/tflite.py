"""TFLite / LiteRT with builtin operators only, in float32, float16, int8, int16 or int4."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.formats import graphs, metadata
from kerastune.formats.contract import Converter, Traced
from kerastune.formats.conversion import Conversion, calibration
from kerastune.formats.metadata import About

_OVERFLOW = 65520.0  # float16's maximum is 65504; smaller numbers than this round to it


def trace(traced: Traced, name: str) -> None:
    """Writes a SavedModel with a signature, or with those of "ONE+OTHER"."""
    several = {one: traced.signatures[one] for one in name.split("+")}
    graphs.saved_model(several, traced.work / name)
    graphs.write_dtypes(name, next(iter(several.values())), traced.work)


def write(work: Path, path: Path, conversion: Conversion) -> None:
    """Converts one signature.

    "float16", "dynamic" (int8) and "int4" store weights in that type and compute in float32 ("dynamic" in int8 where it
    can). "int8" and "int16x8" (int16 activations, int8 weights) are calibrated and compute in those types throughout.
    """
    import tensorflow as tf

    converter, about = _converter(work, conversion), metadata.read(work)
    if conversion.keep_float:
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=list(conversion.keep_float))
        content = _debugger(converter, work, conversion, options).get_nondebug_quantized_model()
    else:
        content = converter.convert()
    content = _packed(content, about)
    if conversion.quantize == "int4":
        content = _int4(content)
    path.write_bytes(metadata.with_labels(content, about) if about and about.labels else content)
    if conversion.quantize == "float16":
        _refuse_overflow(path, work, conversion)


def _converter(work: Path, conversion: Conversion) -> Any:
    import tensorflow as tf

    # Only from_saved_model: from_concrete_functions leaves Keras 3's weights out and reports success.
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(work / conversion.signature), signature_keys=conversion.signature.split("+")
    )
    # SELECT_TF_OPS stays off: with it, operators that no device runtime has become part of the file.
    sets, quantize = tf.lite.OpsSet, conversion.quantize
    if quantize not in ("none", "int4"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize in ("int8", "int16x8"):
        converter.representative_dataset = lambda: calibration(work, conversion)
        converter.target_spec.supported_ops = [
            sets.TFLITE_BUILTINS_INT8
            if quantize == "int8"
            else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        if conversion.keep_float or quantize == "int16x8":  # int16 kernels lack CAST, which takes uint8 pixels
            converter.target_spec.supported_ops.append(sets.TFLITE_BUILTINS)
        if conversion.io != "float32":
            converter.inference_input_type = converter.inference_output_type = tf.as_dtype(conversion.io)
    return converter


def _int4(content: bytes) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    worker = quantizer.Quantizer(content)
    worker.load_quantization_recipe(recipe.weight_only_wi4_afp32())
    return bytes(worker.quantize().quantized_model)


def _packed(content: bytes, about: About | None) -> bytes:
    """Adds the metadata to a model, and stores equal vectors once.

    Each channel's zero point takes 8 bytes, a tenth of an int8 file. Models of more than 2 GB are returned unchanged.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Sharing(flatbuffers.Builder):  # type: ignore[misc]
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.shared: dict[tuple[str, bytes], int] = {}

        def StartVector(self, size: int, count: int, alignment: int) -> int:
            # Weights are byte vectors, and kernels need them aligned to 16 bytes.
            return int(super().StartVector(size, count, 16 if size == 1 else alignment))

        def CreateNumpyVector(self, x: Any) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.shared:
                self.shared[key] = super().CreateNumpyVector(x)
            return self.shared[key]

    found = schema.Model.GetRootAs(content, 0)
    if any(found.Buffers(i).Offset() > 1 for i in range(found.BuffersLength())):
        return content  # weights are stored after the flatbuffer, out of its reach
    model = schema.ModelT.InitFromObj(found)
    _order_outputs(model)
    if about:
        metadata.add(model, about)
    builder = Sharing(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _order_outputs(model: Any) -> None:
    """Puts the outputs of each signature in the order of their names, which not every runtime can read."""
    for signature in model.signatureDefs or ():
        ordered = sorted(signature.outputs, key=lambda output: bytes(output.name))
        model.subgraphs[signature.subgraphIndex].outputs = [output.tensorIndex for output in ordered]


def _debugger(converter: Any, work: Path, conversion: Conversion, options: Any) -> Any:
    import tensorflow as tf

    def examples() -> Iterator[list[Any]]:
        # The debugger takes lists, in the model's own order of inputs, and makes room only for the first one's shapes.
        interpreter = debugger._quant_interpreter
        for inputs in calibration(work, conversion):
            named = {f"{conversion.signature}_{name}:0": value for name, value in inputs.items()}
            takes = interpreter.get_input_details()
            for one in takes:
                interpreter.resize_tensor_input(one["index"], named[one["name"]].shape)
            interpreter.allocate_tensors()
            yield [named[one["name"]] for one in takes]

    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=examples, debug_options=options
    )
    return debugger


def layer_errors(work: Path, conversion: Conversion) -> list[dict[str, Any]]:
    """Compares each layer of the int8 model with float32 on the calibration data.

    Returns:
        A list of {"layer", "op", "error"}, worst first: the root mean square error in units of the layer's int8 step.
        Rounding alone makes 1 / sqrt(12) = 0.29; a layer far above that does not fit in int8. From TensorFlow Lite's
        quantization debugger; `Conversion.keep_float` takes its `layer` names.
    """
    import csv
    import io

    import tensorflow as tf

    debugger = _debugger(
        _converter(work, conversion), work, conversion, tf.lite.experimental.QuantizationDebugOptions()
    )
    debugger.run()
    table = io.StringIO()
    debugger.layer_statistics_dump(table)
    found = [
        {
            "layer": row["tensor_name"],
            "op": row["op_name"],
            "error": float(np.sqrt(float(row["mean_squared_error"])) / float(row["scale"])),
        }
        for row in csv.DictReader(io.StringIO(table.getvalue()))
        if float(row["scale"]) > 0
    ]
    return sorted(found, key=lambda row: -row["error"])


def _refuse_overflow(path: Path, work: Path, conversion: Conversion) -> None:
    """Raises RuntimeError if activations overflow float16: GPUs and NPUs compute in it, the CPU here does not."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Unread tensors may hold anything: kernels' own buffers, and results of a loop.
    first = conversion.signature.partition("+")[0]
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0)).subgraphs[0]
    read = {int(index) for used in (graph.outputs, *(op.inputs for op in graph.operators)) for index in used}
    # XNNPACK would hide the activations.
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kernels, experimental_preserve_all_tensors=True)
    run = interpreter.get_signature_runner(first)
    largest: dict[str, float] = {}
    for inputs in calibration(work, conversion):
        run(**inputs)
        for tensor in interpreter.get_tensor_details():
            if tensor["dtype"] == np.float32 and tensor["index"] in read:
                try:
                    reached = float(np.abs(interpreter.get_tensor(tensor["index"])).max(initial=0))
                except ValueError:
                    continue  # it has no data of its own
                largest[tensor["name"]] = max(reached, largest.get(tensor["name"], 0.0))
    if over := {name: value for name, value in largest.items() if not value < _OVERFLOW}:
        worst = max(over, key=lambda name: over[name])
        raise RuntimeError(
            f"float16 holds numbers up to 65504; {len(over)} activations are larger, {worst} reaches {over[worst]:.3g}"
        )


def inspect(path: Path) -> tuple[list[str], list[str]]:
    """Returns problems (operators that LiteRT's builtins lack), and the names of the inputs."""
    from ai_edge_litert.interpreter import Interpreter

    content = path.read_bytes()
    flex = sorted(set(re.findall(rb"Flex[A-Z]\w+", content)))
    found = [f"it needs TensorFlow operators: {b', '.join(flex).decode()}"] if flex else []
    signatures = Interpreter(str(path)).get_signature_list().values()
    takes = sorted({name for signature in signatures for name in signature["inputs"]})
    return found, takes


CONVERTER = Converter(trace, write, inspect, layer_errors)

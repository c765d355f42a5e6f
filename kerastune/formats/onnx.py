"""ONNX, opset 17, from the frozen graph of one signature."""

import json
from pathlib import Path
from typing import Any

OPSET = 17  # tf2onnx 1.17 writes 11 to 18


def write(work: Path, path: Path, signature: str, quantize: str) -> None:
    """Converts, and has the file checked by ONNX's own checker."""
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """Exact GELU, which tf2onnx 1.17 does not know: erfc(x) = 1 - erf(x)."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            import numpy as np

            erf = ctx.insert_new_node_on_input(node, "Erf", node.input[0])
            one = ctx.make_const(f"{node.name}_one", np.array(1, np.float32))
            node.type = "Sub"
            ctx.replace_inputs(node, [one.output[0], erf.output[0]])

    graph = tf.compat.v1.GraphDef.FromString((work / f"{signature}.pb").read_bytes())
    names = json.loads((work / f"{signature}.json").read_text())  # its input's, then its output's
    input_tensor, output_tensor = names
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        name="kerastune",
        input_names=[input_tensor],
        output_names=[output_tensor],
        opset=OPSET,
        tensors_to_rename=names,
    )
    # The converter reports success with operators left over that no runtime has.
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)

"""SavedModel: the traced model, with the signatures that TF Serving answers to."""

import shutil
from pathlib import Path

from kerastune.formats import graphs
from kerastune.formats.contract import Converter, Traced
from kerastune.formats.conversion import Conversion


def trace(traced: Traced, name: str) -> None:
    """Writes the signatures that a server answers to, and those of raw texts into a second model."""
    graphs.saved_model({key: traced.signatures[key] for key in traced.serving}, traced.work / name)
    if traced.raw:
        graphs.saved_model(traced.raw, traced.work / f"{name}_text", traced.tokenizer)


def write(work: Path, path: Path, conversion: Conversion) -> None:
    """Copies the traced SavedModel."""
    shutil.copytree(work / conversion.signature, path, dirs_exist_ok=True)
    # Keras's own record of the export; TF Serving does not use it.
    (path / "fingerprint.pb").unlink(missing_ok=True)


def inspect(path: Path) -> tuple[list[str], list[str]]:
    """Returns problems (operators outside TensorFlow's core, which servers lack), and the names of the inputs."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.framework import op_def_registry

    graph = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
    nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
    functions = {f.signature.name for f in graph.graph_def.library.function}
    foreign = sorted({n.op for n in nodes if n.op not in functions and op_def_registry.get(n.op) is None})
    takes = list(graph.signature_def["serving_default"].inputs)
    found = [f"operators that TensorFlow's core lacks: {', '.join(foreign)}"] if foreign else []
    return found, takes


CONVERTER = Converter(trace, write, inspect)

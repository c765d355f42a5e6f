"""Finds operators in a SavedModel that do more than compute. A TensorFlow graph can also read and write any file, start
Python functions and connect to other machines, so a model of unknown origin is checked before it is loaded."""

import re

from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

# Operators without state only compute, with these exceptions: files, Python functions, tf.data, debuggers.
_BEYOND = re.compile(r"ReadFile|MatchingFiles|PyFunc|Dataset|Snapshot|^Reader|FromTextFile|^Debug|^Queue|^Lookup|^_")
# Of those with state, variables, tables in memory, control flow, random numbers and arrays only compute.
_INSIDE = re.compile(
    r"VarHandleOp|VarIsInitializedOp|VariableShape|ReadVariableOp|Assign(Add|Sub)?VariableOp|DisableCopyOnRead"
    r"|DestroyResourceOp|Resource(Gather(Nd)?|Scatter\w+|StridedSliceAssign)|If|While|Case|StatefulPartitionedCall"
    r"|(Mutable(Dense)?)?HashTableV2|InitializeTableV2|LookupTable(Export|Find|Import|Insert|Remove|Size)V2"
    r"|Random(Crop|Gamma|Poisson(V2)?|Shuffle|StandardNormal|Uniform(Int)?)|Multinomial|(Parameterized)?TruncatedNormal"
    r"|Stateful(RandomBinomial|StandardNormal|TruncatedNormal|Uniform)\w*|RngReadAndSkip|RngSkip"
    r"|StatelessRandomGetAlg|NonDeterministicInts|TensorArray\w*V3|Empty|Assert|CheckNumerics(V2)?"
    r"|Sentencepiece\w+Op|SentencepieceOp"
)
# Each SavedModel can store its variables: from the graph's top level, which loading and calling a model do not run.
_SAVING = {"SaveV2", "RestoreV2", "MergeV2Checkpoints"}


def beyond(folder):
    """Returns what a SavedModel could do besides computing, in words, or an empty list."""
    graphs = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs
    if len(graphs) != 1 or not graphs[0].HasField("object_graph_def"):
        return ["a TensorFlow 1 graph, which may run anything when it is loaded"]
    graph, functions = graphs[0].graph_def, graphs[0].graph_def.library.function
    ours = {function.signature.name for function in functions}
    found = {node.op for node in graph.node if not (node.op in _SAVING or _computes(node.op, ours))}
    called = set(graphs[0].object_graph_def.concrete_functions)
    called |= {name for function in functions for node in function.node_def for name in _functions(node)}
    for function in functions:
        name = function.signature.name
        saves = name not in called and "api_implements" not in function.attr
        found |= {
            node.op for node in function.node_def if not ((saves and node.op in _SAVING) or _computes(node.op, ours))
        }
    return sorted(found)


def _computes(op, ours):
    known = op_def_registry.get(op)
    if op in ours or known is None:  # unknown ones cannot run, or are tensorflow_text's
        return True
    return bool(_INSIDE.fullmatch(op)) if known.is_stateful else not _BEYOND.search(op)


def _functions(node):
    """Yields the names of the functions that a node may call."""
    yield node.op
    for value in node.attr.values():
        yield value.func.name
        yield from (one.name for one in value.list.func)

"""Splits a model into a frozen prefix, run once per example, and a tail, and proves that together they are the model.

In a phase, everything before the first trainable layer is a function of the input alone. `cut` finds the largest such
prefix of any functional Keras model: it flattens nested layers into one graph, and cuts where the fewest bytes cross.

Random layers of the backbone before the first trainable layer run in inference mode, as in Keras's transfer-learning
guide (`base_model(x, training=False)`), whether features are cached or not. The head's stay active.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import tree
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from kerastune import keras_private
from kerastune.keras_private import Node, Symbol
from kerastune.training.prefix import graph
from kerastune.training.prefix.cache import Spec
from kerastune.training.prefix.graph import Tensor, by_id


@dataclass(frozen=True)
class Cut:
    """A model split in two: `tail(prefix(x), training)` is `task(x)`, and only the tail trains.

    Attributes:
        after: names of the layers whose outputs cross, "layer.Operation" for other operations, or input names.
        specs: specs of the crossing tensors, in the same order. A Keras mask crosses as a separate tensor.
        prefix_weights: the prefix's weights, all frozen.
        tail_weights: the trainable weights.
        share: fraction of the backbone's parameters in the prefix.
        still: calls after the cut that depend on the input alone, and also run in inference mode.
    """

    task: keras.Model
    inputs: tuple[Symbol, ...]
    outputs: Any
    crossing: tuple[Symbol, ...]
    front: tuple[Node, ...]
    rest: tuple[Node, ...]
    after: tuple[str, ...]
    specs: tuple[Spec, ...]
    prefix_weights: tuple[keras.Variable, ...]
    tail_weights: tuple[keras.Variable, ...]
    share: float
    still: frozenset[Node]

    @property
    def bytes_per_example(self) -> int:
        return sum(spec.nbytes for spec in self.specs)

    def prefix(self, x: Any) -> tuple[Tensor, ...]:
        """Maps model inputs to the crossing tensors, in inference mode, eagerly or in a tf.function."""
        values = by_id(self.inputs, keras_private.standardized(self.task, x))
        with keras_private.autocast(self.task):
            graph.run(self.front, values)
        return tuple(values[id(symbol)] for symbol in self.crossing)

    def tail(self, tensors: Sequence[Any], training: bool) -> Any:
        """Maps the crossing tensors to the model's outputs."""
        values = by_id(self.crossing, map(tf.convert_to_tensor, tensors))
        with keras_private.autocast(self.task):
            graph.run(self.rest, values, training, self.still)
        outputs = tree.map_structure(lambda symbol: values[id(symbol)], self.outputs)
        return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs

    def fingerprint(self) -> str:
        """Returns a sha256 of the prefix: its operations with settings and wiring, and its weights."""
        numbers = {id(symbol): i for i, symbol in enumerate(self.inputs)}
        found = hashlib.sha256()
        for node in self.front:
            arguments = tree.flatten_with_path((node.arguments.args, node.arguments.kwargs))
            wiring = [(path, _argument(x, numbers)) for path, x in arguments]
            found.update(json.dumps([_settings(node.operation), wiring], sort_keys=True).encode())
            numbers |= {id(symbol): len(numbers) + i for i, symbol in enumerate(node.outputs)}
        found.update(str([numbers[id(symbol)] for symbol in self.crossing]).encode())
        for weight in self.prefix_weights:
            found.update(f"{weight.shape} {weight.dtype}".encode())
            found.update(np.ascontiguousarray(weight.numpy()).tobytes())
        return found.hexdigest()


def cut(task: keras.Model, example: Any, free: bool = False) -> tuple[Cut | None, str]:
    """Cuts a model where a phase, as set by `freezing.freeze`, starts to train.

    The prefix holds every possible frozen deterministic layer with kernels or tables, and those cheap layers (pooling,
    activations, frozen normalisation) that do not increase the crossing bytes. Where outputs would have no fixed size,
    it need only hold the layers whose own have one.

    Args:
        example: a batch of the model's inputs. All batches have its shape, except for the first dimension.
        free: whether other dimensions vary as well, so that tensors that depend on them cannot cross.

    Returns:
        The cut and its place, or None and the reason.
    """
    if not keras_private.is_functional(task):
        return None, f"{task.name} ({type(task).__name__}) is not a functional model"
    with keras_private.without_new_calls(task), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras already warned about these layers when they were built
        inputs = [
            keras.KerasTensor((None,) * len(x.shape) if free else (None, *x.shape[1:]), x.dtype.name)
            for x in keras_private.standardized(task, example)
        ]
        try:
            structure = keras_private.input_structure(task)
            outputs = graph.expanded(task, (tree.pack_sequence_as(structure, inputs),), {})
            nodes = graph.between(inputs, tree.flatten(outputs))
        except Exception as error:  # a model that cannot be inspected can still be trained as a whole
            return None, f"the graph of {task.name} cannot be inspected: {error}"
    reached = _unique(weight for node in nodes for weight in graph.weights(node) if weight.trainable)
    if {id(w) for w in reached} != {id(w) for w in task.trainable_variables}:
        return None, f"the graph of {task.name} does not show all trainable weights"
    frozen, first = _frozen(task, nodes)
    required = {i for i in frozen if any(len(weight.shape) > 1 for weight in graph.weights(nodes[i]))}
    if not required:
        return None, f"{first or 'no layer'} comes first, so there is no frozen prefix"
    front = _smallest(nodes, inputs, tree.flatten(outputs), frozen, required)
    if front is None:  # such as a decoder's embedding of tokens, which is frozen beside an encoder
        fixed = {i for i in required if all(_can_cross(symbol) for symbol in nodes[i].outputs)}
        front = _smallest(nodes, inputs, tree.flatten(outputs), frozen, fixed) if fixed else None
    if front is None:
        return None, "the prefix's outputs have no fixed size per example"
    made = _cut_at(front, frozen, task, nodes, inputs, outputs)
    return made, f"cut after {', '.join(made.after)}" + (f"; {first} comes next" if first else "")


def prove(made: Cut, x: Any) -> str | None:
    """Compares the split model with the whole one on a real batch (relative 1e-5). Returns what differs, or None."""
    if {id(w) for w in made.tail_weights} != {id(w) for w in made.task.trainable_variables}:
        return "the trainable weights are not those after the cut"
    before = made.fingerprint()
    split, whole = made.tail(made.prefix(x), training=False), made.task(x, training=False)
    if not (found := difference(tree.flatten(whole), tree.flatten(split))) <= 1e-5:
        return f"the split model's outputs differ by {found:.2g} of their largest value"
    return None if made.fingerprint() == before else "a weight of the prefix changed when it was used"


def difference(expected: Sequence[npt.NDArray[Any]], found: Sequence[npt.NDArray[Any]]) -> float:
    """Returns the largest difference over all arrays, each relative to its largest value; NaN if not finite."""
    differences = [0.0]
    for one, other in zip(expected, found, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.size and not np.array_equal(one, other):
            differences.append(float(np.abs(one - other).max() / max(np.abs(one).max(), np.finfo(np.float64).tiny)))
    return float(np.max(differences))


# --- where to cut --------------------------------------------------------------------------------------------


def _frozen(task: keras.Model, nodes: Sequence[Node]) -> tuple[set[int], str]:
    """Returns the indices of calls that depend only on the input, and the first other layer, with the reason."""
    in_backbone = {id(layer) for layer in keras_private.layers(task.backbone)}
    live: set[int] = set()  # symbols that change from step to step
    frozen: set[int] = set()
    first = ""
    for i, node in enumerate(nodes):
        reason = _liveliness(node, id(node.operation) in in_backbone)
        if reason or any(id(symbol) in live for symbol in graph.reads(node)):
            live |= {id(symbol) for symbol in node.outputs}
            first = first or f"{node.operation.name} ({reason})"
        else:
            frozen.add(i)
    return frozen, first


def _liveliness(node: Node, in_backbone: bool) -> str:
    """Returns why a call's output changes from step to step; empty if it does not."""
    layers = keras_private.layers(node.operation) if isinstance(node.operation, keras.Layer) else []
    if any(weight.trainable for weight in graph.weights(node)):
        return "trains"
    if any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in layers):
        return "updates its statistics"
    if not in_backbone and any(_is_random(layer) for layer in layers):
        return "is random"
    return ""


def _is_random(layer: keras.Layer) -> bool:
    # Dropout of rate 0 may hold a seed generator that it never uses.
    rates = [getattr(layer, name) for name in ("rate", "drop_prob", "stddev") if hasattr(layer, name)]
    return bool(keras_private.random_generators(layer)) and (not rates or any(rates))


def _smallest(
    nodes: Sequence[Node], inputs: Sequence[Symbol], outputs: Sequence[Symbol], allowed: set[int], required: set[int]
) -> set[int] | None:
    """Returns the prefix with the fewest crossing bytes, the largest among equals; None if all are unbounded.

    Computes an exact minimum cut between calls that must be in the prefix (source) and calls that must not (sink). A
    tensor is a vertex after the call that makes it, so that it counts once however many calls read it.
    """
    source, sink, never = 0, 1, 2**30  # int32 capacities: scipy's limit
    makers = {id(symbol): source for symbol in inputs}
    makers |= {id(symbol): 2 + i for i, node in enumerate(nodes) for symbol in node.outputs}
    vertices = {each: 2 + len(nodes) + i for i, each in enumerate(makers)}
    symbols = {id(symbol): symbol for symbol in (*inputs, *(symbol for node in nodes for symbol in node.outputs))}
    edges = {
        (makers[i], vertices[i]): min(_spec(symbol).nbytes, never) if _can_cross(symbol) else never
        for i, symbol in symbols.items()
    }
    edges |= {(vertices[id(symbol)], sink): never for symbol in outputs}
    for i, node in enumerate(nodes):
        for symbol in graph.reads(node):
            edges[vertices[id(symbol)], 2 + i] = never  # it crosses if a call after the cut reads it
            edges[2 + i, makers[id(symbol)]] = never  # the prefix holds everything that leads there
    edges |= {(source, 2 + i): never for i in required}
    edges |= {(2 + i, sink): never for i in range(len(nodes)) if i not in allowed}
    edges = {(a, b): capacity for (a, b), capacity in edges.items() if b != source}
    rows, columns = np.array(list(edges), np.int32).T
    size = 2 + len(nodes) + len(vertices)
    capacities = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), (size, size))
    flow = maximum_flow(capacities, source, sink)
    if flow.flow_value >= never:
        return None
    residual = csr_array(capacities - flow.flow)
    residual.eliminate_zeros()
    behind = set(breadth_first_order(csr_array(residual.T), sink, return_predecessors=False).tolist())
    return {i for i in range(len(nodes)) if 2 + i not in behind}


def _cut_at(
    front: set[int], frozen: set[int], task: keras.Model, nodes: Sequence[Node], inputs: Sequence[Symbol], outputs: Any
) -> Cut:
    ahead = [node for i, node in enumerate(nodes) if i in front]
    rest = [node for i, node in enumerate(nodes) if i not in front]
    wanted = {id(symbol) for symbol in (*tree.flatten(outputs), *(x for node in rest for x in graph.reads(node)))}
    named = [(symbol, f"input {i}") for i, symbol in enumerate(inputs)]
    if isinstance(keras_private.input_structure(task), dict):
        named = [(symbol, of.name) for symbol, of in zip(inputs, task.inputs, strict=True)]
    names = {id(symbol): name for symbol, name in named}
    for node in ahead:
        name = node.operation.name
        if isinstance(node.operation, keras_private.ConvertToTensor):  # a model's conversion of its inputs
            name = names[id(node.input_tensors[0])]
        elif not isinstance(node.operation, keras.Layer):  # its own name depends on the process
            name = f"{names[id(node.input_tensors[0])]}.{type(node.operation).__name__}"
        named += [(symbol, name) for symbol in node.outputs]
        names |= {id(symbol): name for symbol in node.outputs}
    crossing = [(symbol, name) for symbol, name in named if id(symbol) in wanted]
    prefix_weights = _unique(weight for node in ahead for weight in graph.weights(node))
    held = {id(weight) for weight in prefix_weights}
    sizes = [(math.prod(weight.shape), id(weight) in held) for weight in task.backbone.weights]
    return Cut(
        task=task,
        inputs=tuple(inputs),
        outputs=outputs,
        crossing=tuple(symbol for symbol, _ in crossing),
        front=tuple(ahead),
        rest=tuple(rest),
        after=tuple(name for _, name in crossing),
        specs=tuple(_spec(symbol) for symbol, _ in crossing),
        prefix_weights=prefix_weights,
        tail_weights=_unique(weight for node in rest for weight in graph.weights(node) if weight.trainable),
        share=sum(size for size, inside in sizes if inside) / max(sum(size for size, _ in sizes), 1),
        still=frozenset(nodes[i] for i in frozen - front),
    )


def _spec(symbol: Symbol) -> Spec:
    return Spec(tuple(symbol.shape[1:]), symbol.dtype)


def _can_cross(symbol: Symbol) -> bool:
    """Returns whether it is one row of known size per example."""
    return symbol.shape[:1] == (None,) and None not in symbol.shape[1:] and symbol.dtype != "string"


def _settings(operation: Any) -> list[Any]:
    """Returns the classes and plain settings of an operation and its parts (some layers' `get_config` fails)."""
    layers = keras_private.layers(operation) if isinstance(operation, keras.Layer) else [operation]
    no_settings = {*vars(keras.Layer()), "built", "seed", "_build_shapes_dict"}  # names and state of every layer
    found = []
    for layer in layers:
        own = {k: v for k, v in vars(layer).items() if k not in no_settings and not k.startswith("_self_")}
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        policy = getattr(layer, "dtype_policy", None)
        said = {k: _described(v) for k, v in own.items()}
        found.append([kind, policy and policy.name, {k: v for k, v in said.items() if v is not _FOREIGN}])
    return found


def _code(function: FunctionType) -> list[Any]:
    code = function.__code__
    return [function.__qualname__, code.co_code.hex(), _described(code.co_consts)]


_FOREIGN = "…"  # an object of another kind, most of them layers, which have their own row


def _described(value: Any) -> Any:
    """A setting as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, FunctionType):
        return _code(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_described(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, np.ndarray | np.generic):
        return [value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    return _FOREIGN


def _argument(x: Any, numbers: Mapping[int, int]) -> Any:
    if isinstance(x, keras.KerasTensor):
        return ["tensor", numbers[id(x)]]
    if isinstance(x, keras.Variable):
        return "variable"
    return np.asarray(x).tolist() if tf.is_tensor(x) or isinstance(x, np.ndarray) else repr(x)


def _unique(weights: Iterable[keras.Variable]) -> tuple[keras.Variable, ...]:
    return tuple({id(weight): weight for weight in weights}.values())

"""The part of a model that a phase leaves alone: cut off in front, run once per example, proved to be the same model.

In a phase, all that comes before the first trainable layer is a function of the input alone. `cut` finds the largest
such prefix of any Functional Keras model: it lays the layers in layers out as one graph, and cuts where the fewest
bytes cross.

Random layers of the backbone in front of the first trainable layer run in inference mode, as in Keras's guide to
transfer learning (`base_model(x, training=False)`), whether features are kept or not. The head's stay active.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from types import FunctionType
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras.src import tree
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common.global_state import set_global_attribute
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional
from keras.src.ops.core import ConvertToTensor
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from kerastune.training.phases import BLOCK
from kerastune.training.prefix.cache import Spec

Tensor = Any  # a tf.Tensor; TensorFlow has no types
Symbol = Any  # a keras.KerasTensor
Node = Any  # a keras.src.ops.node.Node: one call of an operation


@dataclass(frozen=True)
class Cut:
    """A model in two parts: `tail(prefix(x), training)` is `task(x)`, and only the tail trains.

    Attributes:
        after: whose outputs cross: layer names, "layer.Operation" for operations that are no layers, input names.
        specs: what crosses, in the same order. The Keras mask of one that has a mask crosses as one of its own.
        prefix_weights: frozen, all of them.
        tail_weights: the trainable ones.
        share: fraction of the backbone's parameters that lie in the prefix.
        still: calls behind the cut that depend on the input alone; they run in inference mode too.
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
        """Model inputs -> what crosses; in inference mode, eagerly or in a tf.function."""
        values = _by_id(self.inputs, self.task._standardize_inputs(x))
        _run(self.front, values)
        return tuple(values[id(symbol)] for symbol in self.crossing)

    def tail(self, tensors: Sequence[Any], training: bool) -> Any:
        """What crosses -> the model's outputs."""
        values = _by_id(self.crossing, map(tf.convert_to_tensor, tensors))
        _run(self.rest, values, training, self.still)
        outputs = tree.map_structure(lambda symbol: values[id(symbol)], self.outputs)
        return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs

    def fingerprint(self) -> str:
        """sha256 of what the prefix computes: its operations with their settings and wiring, and its weights."""
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
    """Cuts a model where a phase, as `phases.freeze` set it, starts to train.

    The prefix holds every frozen deterministic layer with kernels or tables that can be run in front, and of the
    cheap rest (pooling, activations, frozen normalisation) what makes the bytes that cross fewer, or leaves them.

    Args:
        example: a batch of the model's inputs. Its shapes, but for the first dimension, are those of all batches.
        free: the other dimensions differ from batch to batch, too, so that what depends on them cannot cross.

    Returns:
        The cut and where it is, or None and why there is none.
    """
    if not isinstance(task, Functional):
        return None, f"{task.name} ({type(task).__name__}) is no Functional model"
    with _left_alone(task), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras has to say about these layers it said when they were built
        inputs = [
            keras.KerasTensor((None,) * len(x.shape) if free else (None, *x.shape[1:]), x.dtype.name)
            for x in task._standardize_inputs(example)
        ]
        try:
            outputs = _expanded(task, (tree.pack_sequence_as(task._inputs_struct, inputs),), {})
            nodes = _between(inputs, tree.flatten(outputs))
        except Exception as error:  # a model that cannot be looked into can still be trained whole
            return None, f"the graph of {task.name} cannot be looked into: {error}"
    reached = _unique(weight for node in nodes for weight in _weights(node) if weight.trainable)
    if {id(w) for w in reached} != {id(w) for w in task.trainable_variables}:
        return None, f"the graph of {task.name} does not show all the weights that train"
    frozen, first = _frozen(task, nodes)
    required = {i for i in frozen if any(len(weight.shape) > 1 for weight in _weights(nodes[i]))}
    if not required:
        return None, f"{first or 'no layer'} comes first, so there is nothing to run in advance"
    front = _smallest(nodes, inputs, tree.flatten(outputs), frozen, required)
    if front is None:
        return None, "what crosses has no fixed size per example"
    made = _cut_at(front, frozen, task, nodes, inputs, outputs)
    return made, f"cut after {', '.join(made.after)}" + (f"; {first} comes next" if first else "")


def prove(made: Cut, x: Any) -> str | None:
    """What differs between the split model and the whole one on a real batch (relative 1e-5); None if nothing."""
    if {id(w) for w in made.tail_weights} != {id(w) for w in made.task.trainable_variables}:
        return "the weights that train are not those behind the cut"
    before = made.fingerprint()
    split, whole = made.tail(made.prefix(x), training=False), made.task(x, training=False)
    if not (found := difference(tree.flatten(whole), tree.flatten(split))) <= 1e-5:
        return f"the split model's outputs differ by {found:.2g} of their largest value"
    return None if made.fingerprint() == before else "a weight in front of the cut changed when it was used"


def difference(expected: Sequence[npt.NDArray[Any]], found: Sequence[npt.NDArray[Any]]) -> float:
    """The largest difference over all arrays, each relative to its largest value; nan for what is not finite."""
    differences = [0.0]
    for one, other in zip(expected, found, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.size and not np.array_equal(one, other):
            differences.append(float(np.abs(one - other).max() / max(np.abs(one).max(), np.finfo(np.float64).tiny)))
    return float(np.max(differences))


# --- from layers in layers to one graph ---------------------------------------------------------------------


def _expanded(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls what is inside an operation on symbols and returns its outputs; None if it is to be called as it is."""
    symbols = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    if any(get_keras_mask(x) is not None for x in symbols):
        return None  # layers treat the masks of their inputs each in its own way
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    # A class with a `call` of its own does more than its graph says.
    if isinstance(operation, Functional) and type(operation).call is Functional.call:
        values = _by_id(operation.inputs, operation._standardize_inputs(args[0]))
        _replay(_between(operation.inputs, operation.outputs), values)
        return tree.map_structure(lambda symbol: values[id(symbol)], operation._outputs_struct)
    return _opened(operation, args, kwargs) if _is_mixed_container(operation) else None


def _is_mixed_container(operation: Any) -> bool:
    """Whether some layers inside train and others do not, and it is more than one block."""
    if not isinstance(operation, keras.Layer) or BLOCK.search(operation.name):
        return False
    inner = [layer for layer in operation._flatten_layers(include_self=False) if layer.weights]
    return bool(operation.trainable_variables) and any(not layer.trainable for layer in inner)


def _opened(container: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Replays the calls that a container makes; None where they do not tell all that it does.

    They tell all if the container calls the same layers in training and inference, handing on the mode as it is,
    and if nothing was computed from weights alone: that is a constant in the graph, and would stay as it is.
    """
    kwargs = {name: value for name, value in kwargs.items() if name != "training"}

    def fresh(x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x

    args, kwargs = tree.map_structure(
        lambda x: container.dtype_policy.convert_input(x, container.autocast, container.input_dtype), (args, kwargs)
    )
    inner_args, inner_kwargs = tree.map_structure(fresh, (args, kwargs))
    symbols = [x for x in tree.flatten((inner_args, inner_kwargs)) if isinstance(x, keras.KerasTensor)]
    traces = []
    for training in (True, False):
        mode = {"training": training} if container._call_has_training_arg else {}
        try:
            with _called_by(container, training):
                outputs = container.call(*inner_args, **inner_kwargs, **mode)
            nodes = _between(symbols, tree.flatten(outputs))
        except Exception:  # other people's code; whatever it does not like about symbols, it then runs as it is
            return None
        if any(node.arguments.kwargs.get("training") not in (None, training) for node in nodes):
            return None
        traces.append([(type(node.operation), getattr(node.operation, "path", "")) for node in nodes])
    constants = [x for node in nodes for x in tree.flatten((node.arguments.args, node.arguments.kwargs))]
    raw = [x for x in constants if isinstance(x, keras.Variable)]
    shown = {id(weight) for node in nodes for weight in _weights(node)}
    if (
        traces[0] != traces[1]
        or any(tf.is_tensor(x) and x.dtype.is_floating for x in constants)
        or not shown >= {id(weight) for weight in container.weights}
        or (raw and container.compute_dtype != container.variable_dtype)  # they would be cast inside the container
    ):
        return None
    flat = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    values = _by_id(symbols, flat)
    _replay(nodes, values)
    return tree.map_structure(lambda symbol: values[id(symbol)], outputs)


@contextmanager
def _called_by(container: keras.Layer, training: bool) -> Iterator[None]:
    """What `Layer.__call__` does around `call`: layers inside that are not told the mode look it up."""
    context = CallContext(entry_layer=container)
    context.set_value("training", training)
    set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        set_global_attribute("current_call_ctx", None)


def _replay(nodes: Sequence[Node], values: dict[int, Any]) -> None:
    for node in nodes:
        args, kwargs = node.arguments.fill_in(values)
        outputs = _expanded(node.operation, args, kwargs)
        if outputs is None:
            outputs = node.operation(*args, **kwargs)
        values |= _by_id(node.outputs, tree.flatten(outputs))


def _between(inputs: Sequence[Symbol], outputs: Sequence[Symbol]) -> list[Node]:
    """The calls that lead from inputs to outputs, those that make masks included, each after those it needs."""
    known = {id(symbol) for symbol in inputs}
    parents: dict[Node, list[Node]] = {}
    waiting = [_source(symbol) for symbol in outputs if id(symbol) not in known]
    while waiting:
        node = waiting.pop()
        if node not in parents:
            parents[node] = [_source(symbol) for symbol in _reads(node) if id(symbol) not in known]
            waiting += parents[node]
    return list(TopologicalSorter(parents).static_order())


def _source(symbol: Symbol) -> Node:
    made_by = symbol._keras_history
    if made_by.operation is None or isinstance(made_by.operation, keras.layers.InputLayer):
        raise ValueError(f"{symbol} comes from outside")
    return made_by.operation._inbound_nodes[made_by.node_index]


def _reads(node: Node) -> list[Symbol]:
    """The tensors that a call needs, with the masks that Keras hands on beside them."""
    read = list(node.input_tensors)
    if node.arguments.kwargs.get("mask") is None:
        read += [mask for x in node.input_tensors if (mask := get_keras_mask(x)) is not None]
    return read


@contextmanager
def _left_alone(task: keras.Model) -> Iterator[None]:
    """Symbolic calls leave nodes at every layer: these go again."""
    layers = task._flatten_layers()
    operations = [*layers, *(o for layer in layers if isinstance(layer, Functional) for o in layer.operations)]
    before = [(o, len(o._inbound_nodes), len(o._outbound_nodes)) for o in operations]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            del operation._inbound_nodes[inbound:]
            del operation._outbound_nodes[outbound:]


def _run(
    nodes: Sequence[Node], values: dict[int, Tensor], training: bool = False, still: frozenset[Node] = frozenset()
) -> None:
    for node in nodes:
        for symbol in node.input_tensors:
            mask = get_keras_mask(symbol)
            if mask is not None and id(mask) in values:
                set_keras_mask(values[id(symbol)], values[id(mask)])
        args, kwargs = node.arguments.fill_in(values)
        if isinstance(node.operation, keras.Layer):
            # A layer that does not know the argument hands it to those inside.
            kwargs = {**kwargs, "training": training and node not in still}
        values |= _by_id(node.outputs, tree.flatten(node.operation(*args, **kwargs)))


# --- where to cut --------------------------------------------------------------------------------------------


def _frozen(task: keras.Model, nodes: Sequence[Node]) -> tuple[set[int], str]:
    """The calls that depend on the input alone, as indices, and the first layer that does not, with the reason."""
    in_backbone = {id(layer) for layer in task.backbone._flatten_layers()}
    live: set[int] = set()  # symbols that change from step to step
    frozen: set[int] = set()
    first = ""
    for i, node in enumerate(nodes):
        reason = _liveliness(node, id(node.operation) in in_backbone)
        if reason or any(id(symbol) in live for symbol in _reads(node)):
            live |= {id(symbol) for symbol in node.outputs}
            first = first or f"{node.operation.name} ({reason})"
        else:
            frozen.add(i)
    return frozen, first


def _liveliness(node: Node, in_backbone: bool) -> str:
    """Why a call's output changes from step to step; empty if it does not."""
    layers = node.operation._flatten_layers() if isinstance(node.operation, keras.Layer) else []
    if any(weight.trainable for weight in _weights(node)):
        return "trains"
    if any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in layers):
        return "moves its statistics"
    if not in_backbone and any(_is_random(layer) for layer in layers):
        return "is random"
    return ""


def _is_random(layer: keras.Layer) -> bool:
    # Dropout of rate 0 may hold a seed generator that it never asks.
    rates = [getattr(layer, name) for name in ("rate", "drop_prob", "stddev") if hasattr(layer, name)]
    return bool(layer._seed_generators) and (not rates or any(rates))


def _smallest(
    nodes: Sequence[Node], inputs: Sequence[Symbol], outputs: Sequence[Symbol], allowed: set[int], required: set[int]
) -> set[int] | None:
    """The prefix with the fewest bytes crossing, the largest of equals; None if every one has unbounded bytes.

    An exact minimum cut between what must lie in front (source) and what must not (sink). A tensor is a vertex of
    its own behind the call that makes it, so that it is paid for once however many calls behind the cut read it.
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
        for symbol in _reads(node):
            edges[vertices[id(symbol)], 2 + i] = never  # who reads it behind the cut makes it cross
            edges[2 + i, makers[id(symbol)]] = never  # in front of the cut is all that leads there
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
    wanted = {id(symbol) for symbol in (*tree.flatten(outputs), *(x for node in rest for x in _reads(node)))}
    named = [(symbol, f"input {i}") for i, symbol in enumerate(inputs)]
    if isinstance(task._inputs_struct, dict):
        named = [(symbol, of.name) for symbol, of in zip(inputs, task.inputs, strict=True)]
    names = {id(symbol): name for symbol, name in named}
    for node in ahead:
        name = node.operation.name
        if isinstance(node.operation, ConvertToTensor):  # how a model receives its inputs
            name = names[id(node.input_tensors[0])]
        elif not isinstance(node.operation, keras.Layer):  # its own name counts up from process to process
            name = f"{names[id(node.input_tensors[0])]}.{type(node.operation).__name__}"
        named += [(symbol, name) for symbol in node.outputs]
        names |= {id(symbol): name for symbol in node.outputs}
    crossing = [(symbol, name) for symbol, name in named if id(symbol) in wanted]
    prefix_weights = _unique(weight for node in ahead for weight in _weights(node))
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
        tail_weights=_unique(weight for node in rest for weight in _weights(node) if weight.trainable),
        share=sum(size for size, inside in sizes if inside) / max(sum(size for size, _ in sizes), 1),
        still=frozenset(nodes[i] for i in frozen - front),
    )


def _spec(symbol: Symbol) -> Spec:
    return Spec(tuple(symbol.shape[1:]), symbol.dtype)


def _can_cross(symbol: Symbol) -> bool:
    """Whether it is one row of known size per example."""
    return symbol.shape[:1] == (None,) and None not in symbol.shape[1:] and symbol.dtype != "string"


def _weights(node: Node) -> list[keras.Variable]:
    """A layer's weights, and variables that an operation is called with."""
    own = list(node.operation.weights) if isinstance(node.operation, keras.Layer) else []
    arguments = tree.flatten((node.arguments.args, node.arguments.kwargs))
    return own + [x for x in arguments if isinstance(x, keras.Variable)]


def _settings(operation: Any) -> list[Any]:
    """The classes and plain settings of an operation and of all inside (some layers' `get_config` fails)."""
    layers = operation._flatten_layers() if isinstance(operation, keras.Layer) else [operation]
    no_settings = {*vars(keras.Layer()), "built", "seed"}  # names and state, which every layer has
    found = []
    for layer in layers:
        own = {k: v for k, v in vars(layer).items() if k not in no_settings and not k.startswith("_self_")}
        plain = {k: _code(v) if isinstance(v, FunctionType) else v for k, v in own.items()}
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        policy = getattr(layer, "dtype_policy", None)
        found.append([kind, policy and policy.name, {k: v for k, v in plain.items() if _is_plain(v)}])
    return found


def _code(function: FunctionType) -> list[Any]:
    code = function.__code__
    return [function.__qualname__, code.co_code.hex(), [x for x in code.co_consts if _is_plain(x)]]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _argument(x: Any, numbers: Mapping[int, int]) -> Any:
    if isinstance(x, keras.KerasTensor):
        return ["tensor", numbers[id(x)]]
    if isinstance(x, keras.Variable):
        return "variable"
    return np.asarray(x).tolist() if tf.is_tensor(x) or isinstance(x, np.ndarray) else repr(x)


def _by_id(symbols: Iterable[Symbol], values: Iterable[Any]) -> dict[int, Any]:
    return {id(symbol): value for symbol, value in zip(symbols, values, strict=True)}


def _unique(weights: Iterable[keras.Variable]) -> tuple[keras.Variable, ...]:
    return tuple({id(weight): weight for weight in weights}.values())

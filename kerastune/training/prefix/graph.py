"""Flattens a functional Keras model, including nested layers, into one graph of calls, and runs parts of it."""

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from kerastune import keras_private
from kerastune.keras_private import Node, Symbol
from kerastune.training.units import BLOCK

Tensor = Any  # a tf.Tensor; TensorFlow has no types


def expanded(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls the parts of an operation on symbols and returns the outputs; None if it must be called as a whole."""
    symbols = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    if any(keras_private.mask_of(x) is not None for x in symbols):
        return None  # each layer treats the masks of its inputs differently
    if isinstance(operation, keras.Sequential):
        operation = keras_private.graph_of(operation)
    # A class with its own `call` may do more than its graph.
    if keras_private.runs_as_its_graph(operation):
        values = by_id(operation.inputs, keras_private.standardized(operation, args[0]))
        _replay(between(operation.inputs, operation.outputs), values)
        return tree.map_structure(lambda symbol: values[id(symbol)], keras_private.output_structure(operation))
    return _opened(operation, args, kwargs) if _is_mixed_container(operation) else None


def _is_mixed_container(operation: Any) -> bool:
    """Returns whether some layers inside train and others do not, and it is more than one block."""
    if not isinstance(operation, keras.Layer) or BLOCK.search(operation.name):
        return False
    inner = [layer for layer in keras_private.layers(operation, include_self=False) if layer.weights]
    return bool(operation.trainable_variables) and any(not layer.trainable for layer in inner)


def _opened(container: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Replays the calls of a container; None if they do not describe it completely.

    They do if the container calls the same layers in training and inference and passes on the mode, and if nothing is
    computed from weights alone, which would be frozen as a constant in the graph.
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
        mode = {"training": training} if keras_private.takes_training(container) else {}
        try:
            with keras_private.called_by(container, training):
                outputs = container.call(*inner_args, **inner_kwargs, **mode)
            nodes = between(symbols, tree.flatten(outputs))
        except Exception:  # third-party code that cannot take symbols runs as a whole
            return None
        if any(node.arguments.kwargs.get("training") not in (None, training) for node in nodes):
            return None
        traces.append([(type(node.operation), getattr(node.operation, "path", "")) for node in nodes])
    constants = [x for node in nodes for x in tree.flatten((node.arguments.args, node.arguments.kwargs))]
    raw = [x for x in constants if isinstance(x, keras.Variable)]
    shown = {id(weight) for node in nodes for weight in weights(node)}
    if (
        traces[0] != traces[1]
        or any(tf.is_tensor(x) and x.dtype.is_floating for x in constants)
        or not shown >= {id(weight) for weight in container.weights}
        or (raw and container.compute_dtype != container.variable_dtype)  # the container would cast them
    ):
        return None
    flat = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    values = by_id(symbols, flat)
    _replay(nodes, values)
    return tree.map_structure(lambda symbol: values[id(symbol)], outputs)


def _replay(nodes: Sequence[Node], values: dict[int, Any]) -> None:
    for node in nodes:
        args, kwargs = node.arguments.fill_in(values)
        outputs = expanded(node.operation, args, kwargs)
        if outputs is None:
            outputs = node.operation(*args, **kwargs)
        values |= by_id(node.outputs, tree.flatten(outputs))


def between(inputs: Sequence[Symbol], outputs: Sequence[Symbol]) -> list[Node]:
    """Returns the calls that lead from inputs to outputs, including those that make masks, in topological order."""
    known = {id(symbol) for symbol in inputs}
    parents: dict[Node, list[Node]] = {}
    waiting = [_source(symbol) for symbol in outputs if id(symbol) not in known]
    while waiting:
        node = waiting.pop()
        if node not in parents:
            parents[node] = [_source(symbol) for symbol in reads(node) if id(symbol) not in known]
            waiting += parents[node]
    return list(TopologicalSorter(parents).static_order())


def _source(symbol: Symbol) -> Node:
    operation, call, _ = keras_private.made_by(symbol)
    if operation is None or isinstance(operation, keras.layers.InputLayer):
        raise ValueError(f"{symbol} comes from outside")
    return call


def reads(node: Node) -> list[Symbol]:
    """Returns the tensors that a call needs, with the masks that Keras attaches."""
    read = list(node.input_tensors)
    if node.arguments.kwargs.get("mask") is None:
        read += [mask for x in node.input_tensors if (mask := keras_private.mask_of(x)) is not None]
    return read


def run(
    nodes: Sequence[Node], values: dict[int, Tensor], training: bool = False, still: frozenset[Node] = frozenset()
) -> None:
    """Runs calls on tensors, and adds their outputs to `values`, which holds tensors by the `id` of their symbol.

    Args:
        still: calls that run in inference mode whatever `training` is.
    """
    for node in nodes:
        for symbol in node.input_tensors:
            mask = keras_private.mask_of(symbol)
            if mask is not None and id(mask) in values:
                keras_private.set_mask(values[id(symbol)], values[id(mask)])
        args, kwargs = node.arguments.fill_in(values)
        if isinstance(node.operation, keras.Layer):
            # A layer without the argument passes it to inner layers.
            kwargs = {**kwargs, "training": training and node not in still}
        values |= by_id(node.outputs, tree.flatten(node.operation(*args, **kwargs)))


def weights(node: Node) -> list[keras.Variable]:
    """Returns a layer's weights, or the variables that an operation is called with."""
    own = list(node.operation.weights) if isinstance(node.operation, keras.Layer) else []
    arguments = tree.flatten((node.arguments.args, node.arguments.kwargs))
    return own + [x for x in arguments if isinstance(x, keras.Variable)]


def by_id(symbols: Iterable[Symbol], values: Iterable[Any]) -> dict[int, Any]:
    """Returns values by the `id` of their symbol."""
    return {id(symbol): value for symbol, value in zip(symbols, values, strict=True)}

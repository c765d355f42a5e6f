"""Graphs of a model that are traced once, although adapters come and go."""

from collections.abc import Callable, Sequence
from typing import Any

Kept = dict[Any, tuple[list[Any], Any]]
"""Graphs by name, with the weights that they were traced with."""


def kept(graphs: Kept, name: Any, weights: Sequence[Any], trace: Callable[[], Any]) -> Any:
    """Returns the graph of a name, traced anew where the weights are others than those it was traced with."""
    known, graph = graphs.get(name, ([], None))
    if list(map(id, known)) != list(map(id, weights)):
        graphs[name] = list(weights), (graph := trace())
    return graph

"""The truth of cached views. A change that moves an image moves its boxes, so each view has its own truth."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerastune.tasks.contract import Targets, Tensors

_FILE = "truth.npz"


class Gathered:
    """Collects the truth of batches in any order."""

    def __init__(self, own: Targets) -> None:
        self._own, self._parts = own, list[tuple[list[Any], Any, Any]]()

    def add(self, truth: Tensors, weights: Any, indices: Any) -> None:
        """Adds a batch's truth, weights and indices into the split."""
        self._parts.append((tf.nest.flatten(truth), np.asarray(weights), np.asarray(indices)))

    @functools.cached_property
    def targets(self) -> Targets:
        """The truth in the order of the split, once all batches are in; the split's own if nothing has moved."""
        if not self._parts:
            return self._own
        leaves, weights, indices = zip(*self._parts, strict=True)
        order = np.argsort(np.concatenate(indices))
        moved = [tf.gather(tf.concat(parts, 0), order) for parts in zip(*leaves, strict=True)]
        truth = tf.nest.pack_sequence_as(self._own.truth, [_stored(leaf) for leaf in moved])
        found = Targets(truth, np.concatenate(weights)[order])
        return self._own if digest(found) == digest(self._own) else found

    def save(self, folder: Path) -> None:
        """Writes the truth next to the features, if it has moved."""
        if self.targets is not self._own:
            np.savez(folder / _FILE, allow_pickle=False, **_arrays(self.targets))


def digest(targets: Targets) -> str:
    """Returns the sha256 of truth and weights."""
    found = hashlib.sha256()
    for name, array in _arrays(targets).items():
        found.update(f"{name} {array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def load(folder: Path, own: Targets) -> Targets:
    """Returns the truth stored with a view's features; the split's own if there is none."""
    if not (folder / _FILE).is_file():
        return own
    with np.load(folder / _FILE, allow_pickle=False) as stored:
        leaves = [_read(stored, f"{n}", leaf) for n, leaf in enumerate(tf.nest.flatten(own.truth))]
        return Targets(tf.nest.pack_sequence_as(own.truth, leaves), stored["weights"])


def _stored(leaf: Any) -> Any:
    return leaf if isinstance(leaf, tf.RaggedTensor) else leaf.numpy()


def _arrays(targets: Targets) -> dict[str, Any]:
    found = {"weights": np.asarray(targets.weights)}
    for n, leaf in enumerate(tf.nest.flatten(targets.truth)):
        if isinstance(leaf, tf.RaggedTensor):
            found[f"{n}"] = leaf.flat_values.numpy()
            found |= {f"{n}/{rank}": splits.numpy() for rank, splits in enumerate(leaf.nested_row_splits)}
        else:
            found[f"{n}"] = np.asarray(leaf)
    return found


def _read(stored: Any, name: str, like: Any) -> Any:
    if not isinstance(like, tf.RaggedTensor):
        return stored[name]
    splits = [stored[f"{name}/{rank}"] for rank in range(like.ragged_rank)]
    return tf.RaggedTensor.from_nested_row_splits(stored[name], splits)

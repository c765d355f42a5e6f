"""Turns texts into model inputs: tokens from the preset's own preprocessor, in batches of similar length.

A split is tokenised once, by the graph path of KerasHub's preprocessors (the one of tf.data and SavedModel), and kept
without padding. Batches are gathered from that, no longer than the longest text in their bucket.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Order, Split
from kerastune.data.contents import Contents
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.pipeline import ahead

Preprocessor: TypeAlias = Any  # a keras_hub.models.Preprocessor; KerasHub has no types
Ints = npt.NDArray[np.int32]

_BUCKETS = 12  # maximum number of lengths that batches are padded to; XLA compiles for each
_CHUNK = 1024  # texts tokenised at a time


class Packed:
    """Rows of ints by name of the model's input, kept without their padding: while they are few, in memory.

    Args:
        names: those of the inputs.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._contents = Contents()  # a row's ints, those of a token in the order of the names
        self._padding = np.zeros(0, np.int32)  # by name, once some was seen

    def append(self, rows: Mapping[str, Ints], lengths: npt.NDArray[np.int64]) -> None:
        """Adds rows, int32 [n, L] by name; behind the length of a row, int64 [n], is padding."""
        stacked = np.stack([rows[name] for name in self.names], axis=-1)
        padding = stacked[np.arange(stacked.shape[1]) >= lengths[:, None]]
        if len(padding):
            self._padding = self._padding if len(self._padding) else padding[0]
            assert (padding == self._padding).all(), "padding of two kinds"
        for row, length in zip(stacked, lengths, strict=True):
            self._contents.append(row[:length].tobytes())

    def __call__(self, index: npt.NDArray[np.int64], width: int) -> dict[str, Ints]:
        """Returns rows, cut or padded to a width: int32 [b, width] by name."""
        starts, data = self._contents.all()
        begin, end = (np.asarray(starts[at] // (4 * len(self.names)), np.int64) for at in (index, index + 1))
        place = begin[:, None] + np.arange(width)
        values = np.frombuffer(data, np.int32).reshape(-1, len(self.names))
        found = values[np.minimum(place, len(values) - 1)]
        if len(self._padding):
            found[place >= end[:, None]] = self._padding
        return {name: np.ascontiguousarray(found[..., k]) for k, name in enumerate(self.names)}


@dataclass(frozen=True)
class Tokens:
    """A split's texts as rows of ints.

    Attributes:
        rows: the model's inputs.
        lengths: number of tokens of each text, including special ones, int64 [n].
        truncated: number of texts that were longer than the model's maximum.
        buckets: lengths that batches are padded to, ascending.
    """

    rows: Packed
    lengths: npt.NDArray[np.int64]
    truncated: int
    buckets: tuple[int, ...]

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """Returns each text's bucket, int64 [n]."""
        return np.searchsorted(self.buckets, self.lengths)


_known: "WeakKeyDictionary[Split, dict[str, Tokens]]" = WeakKeyDictionary()


def tokens(task: Any, split: Split) -> Tokens:
    """Returns the split's tokens; tokenises it on first use."""
    known, key = _known.setdefault(split, {}), preprocessing(task)
    if key not in known:
        known[key] = tokenised(task.preprocessor, (split.example(i).tolist() for i in range(len(split))))
    return known[key]


def ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of texts by a preset's tokenizer, which takes as long for one text as for a hundred."""
    found = tokenizer(list(texts))
    return found.to_list() if hasattr(found, "to_list") else [np.asarray(row).tolist() for row in found]


def tokenised(preprocessor: Preprocessor, texts: Iterable[Sequence[str]]) -> Tokens:
    """Tokenises rows of one or two texts, as the preprocessor packs them."""
    length, left, found = preprocessor.sequence_length, iter(texts), Packed(())
    lengths: list[npt.NDArray[np.int64]] = []
    truncated, has_mask = 0, True
    while some := list(itertools.islice(left, _CHUNK)):
        rows = packed(preprocessor, some, length)
        found = found if lengths else Packed(rows)
        mask = rows.get("padding_mask")
        if mask is None:  # the model sees the padding, so the length must be that of its training
            lengths.append(np.full(len(some), length))
            has_mask = False
        else:
            lengths.append(mask.shape[1] - np.argmax(mask[:, ::-1] != 0, axis=1))
            if full := [some[i] for i in np.flatnonzero(lengths[-1] == length)]:
                truncated += int((packed(preprocessor, full, length + 1)["padding_mask"].sum(1) > length).sum())
        found.append(rows, lengths[-1])
    preprocessor.sequence_length = length
    all_lengths = np.concatenate(lengths)
    return Tokens(found, all_lengths, truncated, buckets(all_lengths) if has_mask else (length,))


def packed(preprocessor: Preprocessor, texts: Sequence[Sequence[str]], length: int) -> dict[str, Ints]:
    """Packs rows of one or two texts, int32 [n, length] by name of the model's input."""
    preprocessor.sequence_length = length
    pack = _packer(preprocessor, length, len(texts[0]))
    return {
        name: row.numpy().astype(np.int32) for name, row in pack(*map(tf.constant, zip(*texts, strict=True))).items()
    }


@functools.lru_cache(maxsize=4)
def _packer(preprocessor: Preprocessor, length: int, count: int) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns the graph that packs `count` texts a row to a length. Tracing it takes longer than hundreds of texts."""

    def pack(*texts: tf.Tensor) -> dict[str, tf.Tensor]:
        # With a dummy target: the preprocessor would take a bare pair for a text and its target.
        x, _ = preprocessor(texts if count > 1 else texts[0], tf.zeros(tf.shape(texts[0])))
        return x if isinstance(x, dict) else {"token_ids": x}

    graph: Callable[..., dict[str, tf.Tensor]] = tf.function(
        pack, input_signature=[tf.TensorSpec([None], tf.string)] * count
    )
    return graph


def buckets(lengths: npt.NDArray[np.int64], most: int = _BUCKETS) -> tuple[int, ...]:
    """Returns the lengths to pad to: at most `most`, chosen for the least padding.

    Exact, by dynamic programming over the lengths that occur.
    """
    ends, counts = np.unique(lengths, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])  # texts in the first j lengths
    # cost[j]: fewest tokens for the first j lengths with the buckets so far; the last bucket ends at ends[j - 1]
    cost = np.concatenate([[0.0], before[1:] * ends])
    chosen = [np.zeros(len(ends) + 1, np.int64)]
    for _ in range(most - 1):
        padded = (before[None, 1:] - before[:, None]) * ends[None].astype(float)  # [i, j]: one bucket for lengths i..j
        padded[np.arange(len(before))[:, None] > np.arange(len(ends))[None]] = np.inf
        total = cost[:, None] + padded
        chosen.append(np.concatenate([[0], total.argmin(0)]))
        cost = np.concatenate([[0.0], total.min(0)])
    found, j = [], len(ends)
    for starts in reversed(chosen):
        if j == 0:
            break
        found.append(int(ends[j - 1]))
        j = int(starts[j])
    return tuple(sorted(found))


def order(
    task: Any, split: Split, batch_size: int, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0
) -> Order:
    """Returns the batches of a split, each with texts of similar length."""
    return Order(len(split), batch_size, epochs, seed, start, tokens(task, split).groups)


def batches(
    task: Any, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """Yields batches of (model inputs by name, int32 [B, length of the bucket]; indices into the split int64 [B]).

    The other arguments are for tasks that augment their examples; texts never change.
    """
    return cut(tokens(task, split), order)


def cut(found: Tokens, order: Order) -> tf.data.Dataset:
    """Returns the batches of an order, each as long as the bucket of its longest text."""
    return fed(found, lambda: ((rows(found, indices), indices) for indices in order))


def rows(found: Tokens, index: npt.NDArray[np.int64]) -> dict[str, Ints]:
    """Returns the tokens of texts, cut after the bucket of the longest."""
    return found.rows(index, found.buckets[int(np.searchsorted(found.buckets, found.lengths[index].max()))])


def fed(found: Tokens, made: Callable[[], Iterator[Any]]) -> tf.data.Dataset:
    """Turns a generator's batches of (`rows`, indices into the split int64 [B]) into a pipeline."""
    inputs = {name: tf.TensorSpec([None, None], tf.int32) for name in found.rows.names}
    return ahead(tf.data.Dataset.from_generator(made, output_signature=(inputs, tf.TensorSpec([None], tf.int64))))


def example(task: Any, split: Split, batch_size: int) -> dict[str, tf.Tensor]:
    """Returns the model inputs of the longest texts: the largest batch."""
    return longest(tokens(task, split), batch_size)


def longest(found: Tokens, batch_size: int) -> dict[str, tf.Tensor]:
    indices = np.argsort(-found.lengths, kind="stable")[:batch_size]
    return {name: tf.constant(row) for name, row in rows(found, indices).items()}


def preprocessing(task: Any, augment: Augment | None = None) -> str:
    """Returns a sha256 of everything that determines the inputs made from given texts, for cache keys."""
    settings = json.dumps(task.preprocessor.get_config(), sort_keys=True, default=str)
    vocabulary = "\n".join(map(str, task.preprocessor.tokenizer.get_vocabulary()))
    return hashlib.sha256(f"{settings}\n{vocabulary}".encode("utf-8", "surrogatepass")).hexdigest()


def mixing(augment: Augment, seed: int) -> None:
    """Returns None: texts are not mixed."""
    return None

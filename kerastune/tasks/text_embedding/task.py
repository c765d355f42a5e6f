"""Text embedding: vectors of texts, from any KerasHub backbone with a TextEmbedder, learnt by contrast.

An example has one text or several, its sides. Of a batch of B examples the model sees all first sides, then all second
ones, and so on: [sides * B, L] in, [sides * B, D] out.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets
from kerastune.data import Order, Split, Splits
from kerastune.errors import RecipeError
from kerastune.recipe import Recipe
from kerastune.tasks import scoring
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.labels import count as count
from kerastune.tasks.labels import truth as truth
from kerastune.tasks.text_classification import task as text_classification
from kerastune.tasks.text_classification.task import SERVING as SERVING
from kerastune.tasks.text_classification.task import Signature, input_names, set_length, signed
from kerastune.tasks.tokens import Ints, Tokens, fed, rows, tokenised
from kerastune.tasks.tokens import mixing as mixing
from kerastune.tasks.tokens import preprocessing as preprocessing

Task: TypeAlias = Any  # a keras_hub.models.TextEmbedder; KerasHub has no types
Vectors = npt.NDArray[np.float32]

GENERATES = False

FREE = True
"""Batches differ in length: all axes but the first."""

BEFORE = True
"""A preset that embeds can do so before it is tuned: its metrics then are recorded, too."""

TEMPERATURE = 0.05
"""Cosines are divided by it in the losses; the default of Sentence Transformers, as a scale of 20."""


def build(recipe: Recipe, preset: str, num_outputs: int, precision: str) -> Task:
    """The preset as a text embedder, with the pooling and normalisation that it says; the mean where it says none.

    Args:
        preset: what `recipe.preset` resolves to.
        num_outputs: not used: vectors are as wide as the preset makes them.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset holds no text embedder, cannot take texts of that length, or has no head to train.
    """
    keras.config.set_dtype_policy(precision)
    try:
        with assets.reaching(preset):
            task = keras_hub.models.TextEmbedder.from_preset(preset, dtype=precision)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a text embedder: {error}",
            "Use a preset that KerasHub has a TextEmbedder for: BERT, XLM-RoBERTa, Gemma 3 or Qwen 3.",
        ) from error
    set_length(recipe, task)
    owned = {id(weight) for weight in task.backbone.weights}
    if all(id(weight) in owned for weight in task.weights):
        for number, phase in enumerate(recipe.phases):
            if phase.unfreeze in ("head", "gradual"):
                raise RecipeError(
                    f"phases.{number}.unfreeze = {phase.unfreeze!r}: this embedder pools what its backbone says, and "
                    "has no head to train.",
                    'Use "all", "top:N" or "match:REGEX".',
                )
    return task


def prepare(recipe: Recipe, task: Task, splits: Splits) -> None:
    """A pretrained embedder needs nothing."""


def describe(task: Task, splits: Splits) -> dict[str, Any]:
    """What run.json says of the inputs and the vectors."""
    parts = {name: sides(task, getattr(splits, name)).tokens for name in ("train", "validation", "test")}
    return {
        "sequence_length": task.preprocessor.sequence_length,
        "buckets": list(parts["train"].buckets),
        "truncated": {name: part.truncated for name, part in parts.items()},
        "dimensions": int(task.output_shape[-1]),
        "pooling": task.pooling_mode,
        "normalized": bool(task.normalize),
    }


def load(folder: str, precision: str = "float32") -> Task:
    """A tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    return keras_hub.models.TextEmbedder.from_preset(folder, dtype=precision)


# --- feeding -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """A split's texts, each distinct one tokenised once.

    Attributes:
        tokens: of the distinct texts.
        index: which of them each side of each example is, int64 [n, sides].
        peers: of groups, the examples of each example's label; else nothing.
    """

    tokens: Tokens
    index: npt.NDArray[np.int64]
    peers: tuple[npt.NDArray[np.int64], ...]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example's longest side, int64 [n]."""
        return np.asarray(self.tokens.lengths[self.index].max(-1))

    def partners(self, examples: npt.NDArray[np.int64], seed: tuple[int, ...] | None) -> npt.NDArray[np.int64]:
        """Of groups, another example of each one's label; itself where there is none. int64 [B].

        Args:
            seed: what they are drawn from; None: the next one, always.
        """
        random = None if seed is None else np.random.default_rng(seed)
        found = []
        for i in examples:
            peers = self.peers[i]
            at = int(np.searchsorted(peers, i))
            step = 1 if random is None or len(peers) == 1 else int(random.integers(1, len(peers)))
            found.append(peers[(at + step) % len(peers)])
        return np.array(found, np.int64)


_known: "WeakKeyDictionary[Split, dict[str, Sides]]" = WeakKeyDictionary()


def sides(task: Task, split: Split) -> Sides:
    """The split's texts; tokenised when they are first asked for."""
    known, key = _known.setdefault(split, {}), preprocessing(task)
    if key not in known:
        number: dict[str, int] = {}
        index = np.array([[number.setdefault(t, len(number)) for t in split.texts(i)] for i in range(len(split))])
        peers: tuple[npt.NDArray[np.int64], ...] = ()
        if split.labels.ndim == 1:
            of_label = [np.flatnonzero(split.labels == label) for label in range(int(split.labels.max()) + 1)]
            peers = tuple(of_label[label] for label in split.labels)
        known[key] = Sides(tokenised(task.preprocessor, [[text] for text in number]), index, peers)
    return known[key]


def order(
    task: Task, split: Split, batch_size: int, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0
) -> Order:
    """The batches of a split, each of examples whose longest sides are about as long."""
    found = sides(task, split)
    return Order(len(split), batch_size, epochs, seed, start, np.searchsorted(found.tokens.buckets, found.lengths))


def batches(
    task: Task, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """Batches of (model inputs by name, int32 [sides * B, length of the bucket]; indices into the split int64 [B]).

    A text of a group has another of its label as its second side: in an order that is shuffled one that is drawn from
    `seed` and the batch's number, so that a batch is the same whenever it is made; else always the same one.

    Args:
        augment, view: those of tasks that change their examples; texts are never changed.
    """
    found = sides(task, split)

    def cut() -> Any:
        for number, examples in enumerate(order, order.start):
            index = found.index[examples]  # [B, sides]
            if found.peers:
                drawn = None if order.seed is None else (*order.seed, seed, number)
                index = np.concatenate([index, found.index[found.partners(examples, drawn)]], axis=1)
            yield rows(found.tokens, index.T.reshape(-1)), examples

    return fed(found.tokens, cut)


def example(task: Task, split: Split, batch_size: int) -> dict[str, tf.Tensor]:
    """Model inputs of the longest texts: the largest batch there is."""
    found = sides(task, split)
    longest = np.argsort(-found.lengths, kind="stable")[:batch_size]
    index = found.index[longest]
    if found.peers:
        index = np.concatenate([index, index], axis=1)
    return {name: tf.constant(row) for name, row in rows(found.tokens, index.T.reshape(-1)).items()}


# --- learning ----------------------------------------------------------------------------------------------


def targets(
    target: str, num_classes: int, truth: npt.NDArray[Any], smoothing: float = 0.0, balanced: bool = False
) -> tuple[Vectors, Vectors]:
    """What vectors are compared by, float32 [n, K], and each example's weight in the loss, float32 [n].

    Of pairs which text each side is; of groups the label, of both sides; or the score. The other arguments are those of
    labels.
    """
    rows = np.stack([truth, truth], 1) if target == "groups" else truth
    return rows.astype(np.float32), np.ones(len(truth), np.float32)


def loss(target: str) -> Callable[..., tf.Tensor]:
    """(targets, vectors) -> the mean over a batch. Examples have no weights: they are all 1."""
    each = cosent if target == "scores" else in_batch_negatives
    return lambda y, outputs, sample_weight=None: tf.reduce_mean(each(y, outputs))


def metric(target: str) -> keras.metrics.Metric:
    """What is shown of training: the same as `validated`, but among the texts of a batch."""
    name = scoring.SIMILARITY[target]
    return keras.metrics.MeanMetricWrapper(_rank_correlation if target == "scores" else _found, name=name)


def validated(target: str, y: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> dict[str, float]:
    """What chooses the best epoch, higher is better: it compares all texts of a split, and not of each batch.

    Args:
        y, outputs: targets and vectors, batch by batch.
    """
    by_side = [v.reshape(-1, len(t), v.shape[-1]) for t, v in zip(y, outputs, strict=True)]  # [sides, B, D]
    vectors = np.concatenate([np.swapaxes(v, 0, 1) for v in by_side]).astype(np.float32)
    truth = np.concatenate(y)
    if target == "groups":
        vectors, truth = vectors[:, :1], truth[:, 0]
    name = scoring.SIMILARITY[target]
    known = truth if target == "scores" else truth.astype(np.int64)
    return {name: float(scoring.similarity(target, known, vectors)[name])}


def in_batch_negatives(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) with the batch's other texts as negatives (Henderson et al.
    2017, arXiv:1705.00652): the cross-entropy of finding each first side's second one, by cosine, among all second (and
    third) sides.

    A second or third side that is no negative is left out: the same text, or label, as the first side or as what
    belongs to it, or what belongs to the same text elsewhere in the batch.

    Args:
        y: which text each side is, or which label, float32 [B, sides].
        outputs: vectors [sides * B, D].

    Returns:
        float32 [B].
    """
    logits, own = _logits(y, outputs)
    return tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_sum(tf.where(own, logits, 0.0), axis=-1)


def cosent(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """CoSENT (Su 2022, https://kexue.fm/archives/8847): where one pair's score is higher than another's, so should its
    cosine be. log(1 + sum of exp((lower pair's cosine - higher pair's) / temperature)). Only the order of scores
    counts, so that they may be on any scale.

    Args:
        y: scores, float32 [B, 1].
        outputs: vectors [2 * B, D].

    Returns:
        The batch's loss, for each example: float32 [B].
    """
    cosines = _cosines(y, outputs) / TEMPERATURE
    apart = cosines[None] - cosines[:, None]  # [i, j]: how much nearer the texts of j are than those of i
    terms = tf.where(y > y[:, 0], apart, _NEVER)  # i is scored higher than j
    whole = tf.reduce_logsumexp(tf.concat([tf.zeros([1]), tf.reshape(terms, [-1])], 0))
    return tf.fill([tf.shape(y)[0]], whole)


_NEVER = -1e9  # the logit of what is left out


def _logits(y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosines of first sides with all others, by temperature, without what is no negative; and which is each one's own.

    float32 and bool [B, (sides - 1) * B].
    """
    count, others = tf.shape(y)[0], int(y.shape[1]) - 1
    vectors = tf.math.l2_normalize(tf.cast(outputs, tf.float32), axis=-1)
    cosines = tf.matmul(vectors[:count], vectors[count:], transpose_b=True)
    first, second = y[:, :1], y[:, 1:2]
    said = tf.reshape(tf.transpose(y[:, 1:]), [1, -1])  # which text each column is
    own = tf.eye(count, others * count, dtype=tf.bool)
    same_first = tf.concat([first == y[:, 0], *[tf.zeros([count, count], tf.bool)] * (others - 1)], axis=1)
    out = ((said == first) | (said == second) | same_first) & ~own
    return tf.where(out, _NEVER, cosines / TEMPERATURE), own


def _cosines(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """How alike the two sides are: float32 [B]."""
    vectors = tf.math.l2_normalize(tf.cast(outputs, tf.float32), axis=-1)
    count = tf.shape(y)[0]
    return tf.reduce_sum(vectors[:count] * vectors[count:], axis=-1)


def _found(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Whether each first side's own is the nearest: float32 [B]."""
    logits, own = _logits(y, outputs)
    best = tf.reduce_max(tf.where(own, _NEVER, logits), axis=-1)
    return tf.cast(tf.reduce_max(tf.where(own, logits, _NEVER), axis=-1) > best, tf.float32)


def _rank_correlation(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Spearman's rank correlation of the batch, for each example: float32 [B]. Equal scores have their mean rank."""
    ranks = [_ranks(_cosines(y, outputs)), _ranks(y[:, 0])]
    one, other = (rank - tf.reduce_mean(rank) for rank in ranks)
    spread = tf.sqrt(tf.reduce_sum(one**2) * tf.reduce_sum(other**2))
    return tf.fill([tf.shape(y)[0]], tf.math.divide_no_nan(tf.reduce_sum(one * other), spread))


def _ranks(values: tf.Tensor) -> tf.Tensor:
    below = tf.cast(values[None] < values[:, None], tf.float32) + tf.cast(values[None] <= values[:, None], tf.float32)
    return tf.reduce_sum(below, axis=-1) / 2


# --- scoring -----------------------------------------------------------------------------------------------


def scores(
    target: str, task: Task, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Vectors:
    """The vectors of a whole split, each distinct text once: float32 [n, sides, D], in the split's order.

    `each(n)` is called as about the first n examples are done.
    """
    found = sides(task, split)
    vectors = _vectors(task, found.tokens, batch_size, lambda n: each(n * len(split) // len(found.tokens.lengths)))
    return vectors[found.index]


def embed(task: Task, texts: Sequence[str], batch_size: int = 32) -> Vectors:
    """The vectors of texts: float32 [n, D]."""
    return _vectors(task, tokenised(task.preprocessor, [[text] for text in texts]), batch_size)


def _vectors(task: Task, tokens: Tokens, batch_size: int, each: Callable[[int], None] = lambda n: None) -> Vectors:
    forward = tf.function(
        lambda x: tf.cast(task(x, training=False), tf.float32),
        input_signature=[{name: tf.TensorSpec([None, None], tf.int32) for name in tokens.rows}],
    )
    found = np.empty((len(tokens.lengths), task.output_shape[-1]), np.float32)
    done = 0
    for index in Order(len(found), batch_size, groups=tokens.groups):
        found[index] = forward(rows(tokens, index)).numpy()
        each(done := done + len(index))
    return found


def fingerprint(task: Task) -> str:
    """sha256 of the model and of how it takes texts: vectors of other models cannot be compared."""
    found = hashlib.sha256(f"{preprocessing(task)} {task.pooling_mode} {task.normalize}".encode())
    for weight in task.weights:
        found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()


# --- what the device sees ----------------------------------------------------------------------------------


def device_function(task: Task) -> Callable[..., dict[str, tf.Tensor]]:
    """Token ids in, vectors out: int32 [B, L] an input, in `input_names`' order -> {"embeddings": float32 [B, D]}."""
    names = input_names(task)

    def device(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = task(dict(zip(names, tensors, strict=True)), training=False)
        return {"embeddings": tf.cast(vectors, tf.float32, name="embeddings")}

    return device


def signatures(recipe: Recipe, task: Task) -> dict[str, Signature]:
    """What an exported model may answer to, as in text_classification; it takes one text, whatever it learnt from."""
    return signed(device_function(task), task, ("texts",))


def inputs(task: Task, examples: Sequence[Sequence[str]]) -> list[dict[str, Ints]]:
    """The first text of each example as an exported model takes it: int32 [L] by name."""
    return text_classification.inputs(task, [example[:1] for example in examples])


def reference(recipe: Recipe, task: Task, examples: Sequence[Sequence[str]]) -> Vectors:
    """What the Keras model itself says, outside any graph, of the first text of each example: float32 [n, D]."""
    said = [task({name: row[None] for name, row in x.items()}, training=False) for x in inputs(task, examples)]
    return np.concatenate([np.asarray(vector, np.float32) for vector in said])


def scatter(task: Task, inputs: Any) -> None:
    """The vectors of a model that is not tuned differ already."""

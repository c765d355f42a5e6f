"""Losses and meters of text embedding: in-batch negatives and CoSENT."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune.data import Splits
from kerastune.tasks.contract import Model, Targets
from kerastune.tasks.learnt import LEARNT
from kerastune.tasks.text_embedding.settings import TextEmbedding

TEMPERATURE = 0.05
"""The losses divide cosines by it; equals the default scale of 20 in Sentence Transformers."""


def targets(recipe: TextEmbedding, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    """Returns training targets, float32 [n, K]: each side's text number, the label of both sides, or the score."""
    truth = getattr(splits, name).labels
    sided = np.stack([truth, truth], 1) if recipe.data.target == "groups" else truth
    return Targets(sided.astype(np.float32), np.ones(len(truth), np.float32))


def loss(target: str) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns the loss: (targets, vectors, weights) -> the batch's sum and size. Weights are ignored: all are 1."""
    each = cosent if target == "scores" else in_batch_negatives

    def summed(truth: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses = each(truth, outputs)
        return tf.reduce_sum(losses), tf.cast(tf.shape(losses)[0], tf.float32)

    return summed


def metric(target: str) -> keras.metrics.Metric:
    """Returns the meter shown in training: the same as `validated`, but within a batch."""
    name = LEARNT[target].metric.name
    return keras.metrics.MeanMetricWrapper(_rank_correlation if target == "scores" else _found, name=name)


def validated(target: str, y: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> dict[str, float]:
    """Returns the figures that select the best epoch, higher is better, over all texts of a split.

    Args:
        y, outputs: targets and vectors, batch by batch.
    """
    by_side = [v.reshape(-1, len(t), v.shape[-1]) for t, v in zip(y, outputs, strict=True)]  # [sides, B, D]
    vectors = np.concatenate([np.swapaxes(v, 0, 1) for v in by_side]).astype(np.float32)
    truth = np.concatenate(y)
    if target == "groups":
        vectors, truth = vectors[:, :1], truth[:, 0]
    learnt = LEARNT[target]
    known = truth if target == "scores" else truth.astype(np.int64)
    return {learnt.metric.name: learnt.statistic(learnt.per_example(known, {"embeddings": vectors}))}


def in_batch_negatives(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Computes InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) with in-batch negatives (Henderson et al. 2017,
    arXiv:1705.00652): the cross-entropy of finding each first side's second side, by cosine, among all second (and
    third) sides.

    Masks false negatives: sides with the same text or label as the first side or its match, and matches of the same
    text elsewhere in the batch.

    Args:
        y: number of the text or label of each side, float32 [B, sides].
        outputs: vectors [sides * B, D].

    Returns:
        float32 [B].
    """
    logits, own = _logits(y, outputs)
    return tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_sum(tf.where(own, logits, 0.0), axis=-1)


def cosent(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Computes CoSENT (Su 2022, https://kexue.fm/archives/8847), by which higher scores should have higher cosines:
    log(1 + sum of exp((lower pair's cosine - higher pair's) / temperature)). Only the order of scores matters, so they
    can have any scale.

    Args:
        y: scores, float32 [B, 1].
        outputs: vectors [2 * B, D].

    Returns:
        The batch's loss, repeated for each example: float32 [B].
    """
    cosines = _cosines(y, outputs) / TEMPERATURE
    apart = cosines[None] - cosines[:, None]  # [i, j]: how much more similar the texts of j are than those of i
    terms = tf.where(y > y[:, 0], apart, _NEVER)  # i is scored higher than j
    whole = tf.reduce_logsumexp(tf.concat([tf.zeros([1]), tf.reshape(terms, [-1])], 0))
    return tf.fill([tf.shape(y)[0]], whole)


_NEVER = -1e9  # the logit of masked candidates


def _logits(y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns cosines of anchors and candidates over temperature, false negatives masked, and the mask of positives.

    float32 and bool [B, (sides - 1) * B].
    """
    count, others = tf.shape(y)[0], int(y.shape[1]) - 1
    vectors = tf.math.l2_normalize(tf.cast(outputs, tf.float32), axis=-1)
    cosines = tf.matmul(vectors[:count], vectors[count:], transpose_b=True)
    first, second = y[:, :1], y[:, 1:2]
    said = tf.reshape(tf.transpose(y[:, 1:]), [1, -1])  # the text of each column
    own = tf.eye(count, others * count, dtype=tf.bool)
    same_first = tf.concat([first == y[:, 0], *[tf.zeros([count, count], tf.bool)] * (others - 1)], axis=1)
    out = ((said == first) | (said == second) | same_first) & ~own
    return tf.where(out, _NEVER, cosines / TEMPERATURE), own


def _cosines(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Returns the cosine similarity of the two sides: float32 [B]."""
    vectors = tf.math.l2_normalize(tf.cast(outputs, tf.float32), axis=-1)
    count = tf.shape(y)[0]
    return tf.reduce_sum(vectors[:count] * vectors[count:], axis=-1)


def _found(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Returns whether each anchor's positive is the nearest candidate: float32 [B]."""
    logits, own = _logits(y, outputs)
    best = tf.reduce_max(tf.where(own, _NEVER, logits), axis=-1)
    return tf.cast(tf.reduce_max(tf.where(own, logits, _NEVER), axis=-1) > best, tf.float32)


def _rank_correlation(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Returns the batch's Spearman correlation, repeated for each example: float32 [B]. Ties get their mean rank."""
    ranks = [_ranks(_cosines(y, outputs)), _ranks(y[:, 0])]
    one, other = (rank - tf.reduce_mean(rank) for rank in ranks)
    spread = tf.sqrt(tf.reduce_sum(one**2) * tf.reduce_sum(other**2))
    return tf.fill([tf.shape(y)[0]], tf.math.divide_no_nan(tf.reduce_sum(one * other), spread))


def _ranks(values: tf.Tensor) -> tf.Tensor:
    below = tf.cast(values[None] < values[:, None], tf.float32) + tf.cast(values[None] <= values[:, None], tf.float32)
    return tf.reduce_sum(below, axis=-1) / 2

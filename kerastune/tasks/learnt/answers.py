"""Answers of language models. The output "sums" is float32 [n, 3], for each conversation: cross-entropy in nats,
number of correct tokens, and number of scored tokens. The truth is in the conversation itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.tasks.learnt.contract import (
    Answer,
    Bools,
    Doubles,
    Labels,
    Learnt,
    Metric,
    Predictions,
    Shown,
    Truth,
    by_rows,
    no_mistakes,
    ratio,
)

_ALIKE = 0.01  # nats per token


def sums(predictions: Predictions) -> npt.NDArray[np.float32]:
    """Returns the sums of each conversation, float32 [n, 3]."""
    return np.asarray(predictions["sums"])


def metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns `token_accuracy`, cross-entropy `loss` in nats and `perplexity`, its exponential, over scored tokens."""
    entropy, hits, tokens = (float(total) for total in sums(predictions).astype(np.float64).sum(0))
    loss = entropy / max(tokens, 1)
    return {
        "token_accuracy": hits / max(tokens, 1),
        "loss": loss,
        "perplexity": float(np.exp(min(loss, 700.0))),
        "tokens": int(tokens),
    }


def per_example(truth: Truth, predictions: Predictions) -> Doubles:
    """Returns the numbers of correct and scored tokens of each conversation, float64 [n, 2]."""
    return sums(predictions)[:, 1:].astype(np.float64)


def nats(predictions: Predictions) -> npt.NDArray[np.float32]:
    """Returns the cross-entropy per token, float32 [n, 1]."""
    found = sums(predictions)
    return np.asarray(found[:, :1] / np.maximum(found[:, 2:], 1), np.float32)


def answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns the text of an answer."""
    text = str(predictions["texts"][index])
    return Answer((text,), {"answer": text})


def _alike(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Bools:
    return np.asarray(np.abs(ours - theirs)[:, 0] <= _ALIKE)


def _scale(expected: npt.NDArray[Any]) -> float:
    return max(1.0, float(np.abs(expected).max(initial=0)))


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return ""


ANSWERS = Learnt(
    name="text",
    metric=Metric("token_accuracy"),
    metrics=metrics,
    per_example=per_example,
    statistic=ratio,
    comparison=by_rows(nats, agree=_alike, scale=_scale, alike="answers", unit="nats a token"),
    shown=Shown(
        "answers.html.j2",
        "Answers",
        lambda labels, truth, predictions, test: {},
        no_mistakes,
        answer,
        _said,
        ("perplexity",),
    ),
)

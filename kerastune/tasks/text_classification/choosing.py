"""Chooses the sentence vector that a head reads, by cross-validation on the training examples."""

import json
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kerastune import keras_private
from kerastune.data import Split, few, picked
from kerastune.records import Decision
from kerastune.tasks import tokens
from kerastune.tasks.contract import Model
from kerastune.tasks.text_classification.pooled import vectors

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]

_MEASURED = 600  # training examples; more tell the vectors hardly better apart
_TOKENS = 20_000  # of all of them, so that long texts also take seconds
_BATCH = 32
_FOLDS = 3
_ALPHAS = np.logspace(-1, 5, 13)


def own_pooling(preset: str) -> str | None:
    """Returns how a preset of an embedder pools its tokens ("mean", "cls", "max"), or None if it does not say."""
    path = keras_private.preset_file(preset, "task.json")
    config = json.loads(path.read_text("utf-8")).get("config", {}) if path else {}
    return config.get("pooling_mode") or config.get("pooling")  # an embedder's, or a `PooledTextClassifier`'s


def choose(model: Model, train: Split, own: str | None) -> Decision:
    """Decides `head`: the preset's own pooling, unless another one does better by more than a standard error.

    Args:
        model: a text classifier; its backbone runs once over up to `_MEASURED` training examples.
        own: the preset's pooling; None: KerasHub's own head comes first.
    """
    started = time.perf_counter()
    split = _some(model, train)
    features = sentence_vectors(model, split)
    first = own if own in features else "pooler"
    says = f"the preset pools by {own!r}; " if own else ""
    hits = {name: correct(split, found) for name, found in features.items()}
    if not len(hits[first]):
        return Decision("head", "auto", first, f"{says}{len(split)} training examples are too few to measure")
    got = chosen(hits, first)
    figures = ", ".join(f"{name} {found.mean():.3f}" for name, found in hits.items())
    kind, took = "R²" if train.truth.name == "number" else "accuracy", time.perf_counter() - started
    why = (
        f"{says}cross-validated {kind} of a linear model on {len(split):,} training examples: {figures} ({took:.0f} s)"
    )
    return Decision("head", "auto", got, why)


def chosen(hits: Mapping[str, Floats64], first: str) -> str:
    """Returns the best of those that are better than the first by more than a standard error, or the first."""
    better = [name for name in hits if _gain(hits[name], hits[first]) > 1]
    return max(better, key=lambda name: float(hits[name].mean()), default=first)


def _some(model: Model, train: Split) -> Split:
    """Returns the first training examples, of each label in turn, within `_MEASURED` and `_TOKENS`."""
    split = few(train, _MEASURED)
    ends = np.cumsum(tokens.tokens(model, split).lengths)
    return picked(split, range(max(int(np.searchsorted(ends, _TOKENS, side="right")), 1)))


def sentence_vectors(model: Model, split: Split) -> dict[str, Floats]:
    """Returns each sentence vector of a split, float32 [n, D], by the value of `head` that reads it."""
    found = vectors(model.backbone)
    if found["cls"] is found["pooler"]:
        del found["cls"]
    reach = keras.Model(model.backbone.input, found)

    def computed(x: Any) -> dict[str, Any]:
        return {name: tf.cast(rows, tf.float32) for name, rows in reach(x, training=False).items()}

    forward = tf.function(computed, [{one.name: tf.TensorSpec([None, None], tf.int32) for one in model.inputs}])
    kept = {name: np.zeros((len(split), one.shape[-1]), np.float32) for name, one in found.items()}
    for x, i in tokens.batches(model, split, tokens.order(model, split, _BATCH)):
        for name, rows in forward(x).items():
            kept[name][i.numpy()] = rows.numpy()
    return kept


def correct(split: Split, features: Floats) -> Floats64:
    """Returns how well a linear model predicts each example that it was not fitted on, float64 [n]; 1 is right.

    For a number it is 1 less the squared error as a share of the variance, so that the mean is R². Examples of a label
    with fewer than `_FOLDS` are left out; empty if too few are left.
    """
    kind, truth = split.truth.name, split.labels
    chosen = np.arange(len(split))
    if kind == "label":
        chosen = np.flatnonzero(np.bincount(truth)[truth] >= _FOLDS)
    if len(chosen) < 2 * _FOLDS or (kind == "label" and len(np.unique(truth[chosen])) < 2):
        return np.zeros(0)
    truth = truth[chosen, 0] if kind == "number" else truth[chosen]
    folds = (StratifiedKFold if kind == "label" else KFold)(_FOLDS, shuffle=True, random_state=0)
    linear = RidgeCV(_ALPHAS) if kind == "number" else RidgeClassifierCV(_ALPHAS)
    told = cross_val_predict(make_pipeline(StandardScaler(), linear), features[chosen], truth, cv=folds)
    if kind == "number":
        return np.asarray(1 - (told - truth) ** 2 / max(float(truth.var()), 1e-12), np.float64)
    return np.asarray((told == truth).reshape(len(chosen), -1).all(axis=1), np.float64)


def _gain(hits: Floats64, others: Floats64) -> float:
    """Returns by how many standard errors some hits are more than others on the same examples."""
    apart = hits - others
    return float(apart.mean() / max(apart.std() / np.sqrt(len(apart)), 1e-12))

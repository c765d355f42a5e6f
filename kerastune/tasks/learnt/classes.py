"""Labels: exactly one per example, or any number. The output "scores" is float32 [n, K], probabilities.

The truth for one label is int64 [n], indices into the labels; for several it is float32 [n, K] of 0 and 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.tasks.learnt import calibration
from kerastune.tasks.learnt.contract import (
    Answer,
    Bools,
    Doubles,
    Guess,
    Labels,
    Learnt,
    Metric,
    Mistake,
    Plot,
    Predictions,
    Shown,
    Truth,
    by_rows,
    mean_of_first,
    named,
)

_PAIRS = 20  # pairs of labels that a report lists as confused


def scores(predictions: Predictions) -> npt.NDArray[np.float32]:
    """Returns the probability of each label, float32 [n, K]."""
    return np.asarray(predictions["scores"])


# --- one label -----------------------------------------------------------------------------------------------


def _one_metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns accuracy, cross-entropy `loss`, macro F1, the confusion matrix (rows: truth), and figures by class."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    found, indices = scores(predictions), list(range(len(labels)))
    output = found.argmax(-1)
    picked = np.clip(found[np.arange(len(truth)), truth], 1e-12, 1)
    by_class = precision_recall_fscore_support(truth, output, labels=indices, zero_division=0.0)
    return {
        "accuracy": float((output == truth).mean()),
        "loss": float(-np.log(picked).mean()),
        **_by_class(labels, by_class, np.isin(indices, [truth, output])),
        "calibration_error": calibration.calibration_error(found.max(-1), output == truth),
        "confusion_matrix": confusion_matrix(truth, output, labels=indices).tolist(),
    }


def _one_mistakes(labels: Labels, truth: Truth, predictions: Predictions) -> list[Mistake]:
    """Returns the wrong examples, most confident first."""
    found = scores(predictions)
    output, sure = found.argmax(-1), found.max(-1)
    order = [int(i) for i in np.argsort(-sure, kind="stable") if output[i] != truth[i]]
    return [Mistake(i, labels[truth[i]], labels[output[i]], float(sure[i])) for i in order]


def confused(labels: Labels, matrix: npt.NDArray[np.int64]) -> list[tuple[str, str, int, float]]:
    """Returns the most confused pairs: truth, output, count, and share of the truth's examples."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(i), len(matrix)) for i in order if wrong.flat[i]]
    return [(labels[t], labels[o], int(wrong[t, o]), float(wrong[t, o] / matrix[t].sum())) for t, o in cells]


# --- several labels ------------------------------------------------------------------------------------------


def _several_metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns accuracy (of whole sets), binary cross-entropy `loss`, macro and micro F1, and figures by class."""
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    found = scores(predictions)
    output, known = found > 0.5, truth > 0.5
    p = np.clip(found.astype(np.float64), 1e-12, 1 - 1e-12)
    by_class = precision_recall_fscore_support(known, output, average=None, zero_division=0.0)
    return {
        "accuracy": float((output == known).all(-1).mean()),
        "loss": float(-np.where(known, np.log(p), np.log(1 - p)).mean()),
        **_by_class(labels, by_class, np.asarray(known.any(0) | output.any(0))),
        "micro_f1": float(f1_score(known, output, average="micro", zero_division=0.0)),
    }


def _several_mistakes(labels: Labels, truth: Truth, predictions: Predictions) -> list[Mistake]:
    """Returns the examples with a wrong set, most confident first."""
    found = scores(predictions)
    output, known = found > 0.5, truth > 0.5
    sure = np.where(output, found, 1 - found).min(-1)
    order = [int(i) for i in np.argsort(-sure, kind="stable") if (output[i] != known[i]).any()]
    return [Mistake(i, named(labels, known[i]), named(labels, output[i]), float(sure[i])) for i in order]


# --- both ----------------------------------------------------------------------------------------------------


def _by_class(labels: Labels, found: tuple[Any, ...], occurs: Bools) -> dict[str, Any]:
    """Figures by class, and the mean F1 of those that occur in truth or output, bool [K]."""
    precision, recall, f1, support = found
    rows = {
        label: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, label in enumerate(labels)
    }
    return {"macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0, "per_class": rows}


def _answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns the most probable labels, in order."""
    row = scores(predictions)[index]
    best = [(labels[i], float(row[i])) for i in (-row).argsort(kind="stable")[:top]]
    return Answer(
        tuple(f"{probability:.4f}  {label}" for label, probability in best),
        {"labels": [{"label": label, "probability": probability} for label, probability in best]},
    )


def _context(labels: Labels, truth: Truth, predictions: Predictions, test: Any) -> dict[str, Any]:
    return {"pairs": [], "two": None}


def _one_context(labels: Labels, truth: Truth, predictions: Predictions, test: Any) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(truth, scores(predictions).argmax(-1), labels=list(range(len(labels))))
    found = scores(predictions)
    right = found.argmax(-1) == truth
    sure = found.max(-1)
    error = calibration.calibration_error(sure, right)
    points = tuple((mean, share) for _, mean, share, _ in calibration.reliability(sure, right))
    words = f"expected calibration error {error:.4f}"
    plots = [Plot("Reliability", words, "confidence", "share of right answers", points, diagonal=True)]
    two = _two_labels(labels, truth, found) if len(labels) == 2 else None
    return {"pairs": confused(labels, matrix), "two": two, "plots": plots + (two["plots"] if two else [])}


def _two_labels(labels: Labels, truth: Truth, found: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Returns the rates, areas and curves of the rarer label, with intervals."""
    rarer = rarer_label(truth)
    positive, score = truth == rarer, found[:, rarer]
    areas, curves = calibration.areas(positive, score), calibration.curves(positive, score)
    shown = (
        ("roc", "roc_auc", "ROC curve", "1 − specificity", "sensitivity"),
        ("precision", "average_precision", "Precision and recall", "recall", "precision"),
    )
    plots = [
        Plot(title, _with_interval(areas[area]), x, y, tuple(curves[key]), diagonal=key == "roc")
        for key, area, title, x, y in shown
        if key in curves
    ]
    rates = calibration.rates(positive, found.argmax(-1) == rarer)
    return {"label": labels[rarer], **rates, **areas, "plots": plots}


def rarer_label(truth: Truth) -> int:
    """Returns the rarer of two labels, mostly what is looked for; the second one of equals."""
    return int(np.bincount(truth, minlength=2)[1] <= len(truth) / 2)


def _with_interval(area: Mapping[str, Any]) -> str:
    return "area {:.4f}, 95 % interval {:.4f} to {:.4f}".format(area["value"], *area["interval"])


def said(labels: Labels, record: Mapping[str, Any]) -> str:
    """Returns the number of labels, in words."""
    return f"{len(labels)} labels"


def _largest(expected: npt.NDArray[Any]) -> float:
    return 1.0  # probabilities are


def _same_set(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Bools:
    return np.asarray(((ours > 0.5) == (theirs > 0.5)).all(-1))


def _same_label(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Bools:
    return np.asarray(ours.argmax(-1) == theirs.argmax(-1))


def _right(truth: Truth, predictions: Predictions) -> Doubles:
    return np.asarray(scores(predictions).argmax(-1) == truth, np.float64)[:, None]


def _all_right(truth: Truth, predictions: Predictions) -> Doubles:
    return np.asarray(_same_set(scores(predictions), truth), np.float64)[:, None]


def _commonest(labels: Labels, known: Truth, n: int) -> Guess:
    """Always the commonest label."""
    label = int(np.bincount(known, minlength=len(labels)).argmax())
    return Guess(f"always {labels[label]}", {"scores": np.tile(np.eye(len(labels), dtype=np.float32)[label], (n, 1))})


def _commonest_set(labels: Labels, known: Truth, n: int) -> Guess:
    """Always the commonest set of labels."""
    sets, counts = np.unique(known > 0.5, axis=0, return_counts=True)
    found = sets[counts.argmax()]
    return Guess(f"always {named(labels, found)}", {"scores": np.tile(found.astype(np.float32), (n, 1))})


LABEL = Learnt(
    name="label",
    metric=Metric("accuracy"),
    metrics=_one_metrics,
    per_example=_right,
    statistic=mean_of_first,
    comparison=by_rows(scores, agree=_same_label, scale=_largest, alike="labels"),
    shown=Shown("classes.html.j2", "Mistakes", _one_context, _one_mistakes, _answer, said),
    guess=_commonest,
)
LABELS = Learnt(
    name="labels",
    metric=Metric("accuracy"),
    metrics=_several_metrics,
    per_example=_all_right,
    statistic=mean_of_first,
    comparison=by_rows(scores, agree=_same_set, scale=_largest, alike="sets of labels"),
    shown=Shown("classes.html.j2", "Mistakes", _context, _several_mistakes, _answer, said),
    guess=_commonest_set,
)

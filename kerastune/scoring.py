"""What scores are worth, beside the truth. Knows no TensorFlow.

`target` is that of the recipe's data (`kerastune.recipe.Target`); `truth` is `kerastune.data.Split.labels`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

Floats = npt.NDArray[np.float32]


def quality(target: str, truth: npt.NDArray[Any], scores: Floats) -> npt.NDArray[np.float64]:
    """How right each example is, float64 [n]; the mean is what `metric` measures."""
    if target == "number":
        error = (scores.astype(np.float64) - truth)[:, 0] ** 2
        found = 1 - error / max(float(np.var(truth.astype(np.float64))), 1e-12)
    else:
        found = scores.argmax(-1) == truth if target == "label" else ((scores > 0.5) == (truth > 0.5)).all(-1)
    return np.asarray(found, np.float64)


def metrics(target: str, labels: tuple[str, ...], truth: npt.NDArray[Any], scores: Floats) -> dict[str, Any]:
    """What a split's scores are worth.

    Returns:
        Of labels: accuracy, cross-entropy `loss`, macro F1 and per-class precision, recall, F1 and support; of one
        label the confusion matrix (rows: truth), of several micro F1. Of a number: `r2`, mean squared error `loss`,
        `mae` and Spearman's rank correlation.
    """
    right = float(quality(target, truth, scores).mean())
    if target == "number":
        error = scores.astype(np.float64) - truth
        rank = float(spearmanr(scores[:, 0], truth[:, 0]).statistic) if np.ptp(scores) and np.ptp(truth) else 0.0
        return {
            "r2": right,
            "loss": float((error**2).mean()),
            "mae": float(np.abs(error).mean()),
            "spearman": rank,
        }
    if target == "labels":
        predicted, known = scores > 0.5, truth > 0.5
        p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
        cross_entropy = -np.where(known, np.log(p), np.log(1 - p)).mean()
        more = {"micro_f1": float(f1_score(known, predicted, average="micro", zero_division=0.0))}
        found = precision_recall_fscore_support(known, predicted, average=None, zero_division=0.0)
    else:
        indices = list(range(len(labels)))
        predicted = scores.argmax(-1)
        picked = np.clip(scores[np.arange(len(truth)), truth], 1e-12, 1)
        cross_entropy = -np.log(picked).mean()
        more = {"confusion_matrix": confusion_matrix(truth, predicted, labels=indices).tolist()}
        found = precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0.0)
    precision, recall, f1, support = found
    return {
        "accuracy": right,
        "loss": float(cross_entropy),
        "macro_f1": float(f1.mean()),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        **more,
    }

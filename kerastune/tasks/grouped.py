"""How much a random split would flatter a model, where examples belong to groups: speakers, kits, machines."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_FOLDS = 5


def flattery(
    features: npt.NDArray[Any], labels: npt.NDArray[np.int64], groups: Sequence[str | None], seed: int
) -> dict[str, float] | None:
    """Returns the accuracy of a linear model on the same features, by cross-validation of two kinds.

    Args:
        features: float [n, F], of mean 0 and deviation 1.
        labels: one label per example, int64 [n].
        groups: the group of each example; None: it is one of its own.

    Returns:
        "by_group", with whole groups held out, and "at_random"; None if there are too few groups or examples for it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score

    named = [group if group is not None else f"\0{i}" for i, group in enumerate(groups)]
    number = np.unique(named, return_inverse=True)[1] if named else np.zeros(0)
    counts = np.bincount(labels) if len(labels) else np.zeros(1)
    if len(set(named)) in (0, len(named)) or number.max() + 1 < _FOLDS or counts[counts > 0].min() < _FOLDS:
        return None
    model = LogisticRegression(C=0.01, max_iter=200)
    kinds = {
        "by_group": StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed).split(features, labels, number),
        "at_random": StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(features, labels),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {
            name: float(cross_val_score(model, features, labels, cv=list(folds)).mean())
            for name, folds in kinds.items()
        }

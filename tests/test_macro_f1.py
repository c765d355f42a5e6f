"""Macro F1 is the mean over the labels that occur in truth or output."""

import numpy as np
import pytest

from kerastune.tasks.learnt import LEARNT

LABELS = ("a", "b", "c")


def test_a_label_that_a_split_does_not_hold_counts_for_nothing() -> None:
    truth, found = np.array([0, 1, 0, 1]), np.eye(3, dtype=np.float32)[[0, 1, 0, 1]]
    metrics = LEARNT["label"].metrics(LABELS, truth, {"scores": found})
    assert metrics["accuracy"] == metrics["macro_f1"] == 1.0
    assert metrics["per_class"]["c"]["support"] == 0


def test_a_label_that_is_only_predicted_counts_as_wrong() -> None:
    truth, found = np.array([0, 1, 0, 1]), np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    metrics = LEARNT["label"].metrics(LABELS, truth, {"scores": found})
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_of_several_labels_the_same_holds() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    metrics = LEARNT["labels"].metrics(LABELS, truth, {"scores": truth})
    assert metrics["macro_f1"] == metrics["micro_f1"] == 1.0

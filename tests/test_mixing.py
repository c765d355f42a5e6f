"""Mixup and cutmix: shares of images and targets are the same, and are drawn by seed, epoch and example."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kerastune.tasks import draws
from kerastune.tasks.image_classification.mixing import mixing, weighed
from kerastune.tasks.image_classification.settings import Augment

EACH: list[dict[str, float]] = [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]
BLACK_AND_WHITE = np.repeat(np.float32([0, 1]), 8)[:, None, None, None] * np.ones((16, 64, 48, 3), np.float32)
LABELS = np.repeat(np.eye(2, dtype=np.float32), 8, axis=0)


def keys(examples: Any, seed: int = 1, epoch: int = 0) -> Any:
    return draws.keys(seed, tf.constant(epoch), tf.constant([*examples], tf.int64))


def mixed(change: dict[str, float], *given: Any) -> Any:
    mix = mixing(Augment(**change))
    assert mix
    return [tensor.numpy() for tensor in tf.function(mix, autograph=False)(*map(tf.constant, given))]


@pytest.mark.parametrize("change", EACH)
def test_images_and_labels_are_mixed_in_the_same_shares(change: dict[str, float]) -> None:
    images, targets = mixed(change, keys(range(16)), BLACK_AND_WHITE, LABELS)
    np.testing.assert_allclose(images.mean((1, 2, 3)), targets[:, 1], atol=1e-5)  # the share of white is the label
    assert ((targets > 0.01) & (targets < 0.99)).any()


@pytest.mark.parametrize("change", EACH)
def test_how_an_image_is_mixed_depends_on_seed_epoch_and_example_alone(change: dict[str, float]) -> None:
    def own(examples: list[int], **when: int) -> Any:
        """The share of example 7 at each of its pixels."""
        is_it = np.array(examples) == 7
        images = is_it[:, None, None, None] * np.ones((len(examples), 64, 48, 3), np.float32)
        return mixed(change, keys(examples, **when), images, is_it[:, None].astype(np.float32))[0][is_it]

    np.testing.assert_array_equal(own([7, 3, 5]), own([2, 9, 4, 7]))
    assert not np.array_equal(own([7, 3, 5]), own([7, 3, 5], epoch=1))
    assert not np.array_equal(own([7, 3, 5]), own([7, 3, 5], seed=2))


def test_of_both_each_gets_half_of_the_images() -> None:
    colours = np.arange(200, dtype=np.float32) % 2
    images = colours[:, None, None, None] * np.ones((200, 16, 16, 3), np.float32)
    found, _ = mixed({"mixup": 0.4, "cutmix": 1.0}, keys(range(200)), images, colours[:, None])
    is_blended = [len(np.unique(one)) == 1 for one in found]
    assert 0.35 < np.mean(is_blended) < 0.65


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 5.0])
def test_shares_have_the_variance_of_a_beta_distribution(alpha: float) -> None:
    shares = tf.function(lambda: draws.beta(keys(range(2000)), alpha), autograph=False)().numpy()
    assert np.isfinite(shares).all() and shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("change", EACH)
def test_each_of_two_mixed_images_counts_by_its_own_class_weight(change: dict[str, float]) -> None:
    images = np.random.default_rng(0).random((16, 32, 32, 3), np.float32)
    labels = np.repeat(np.eye(2, dtype=np.float32), [12, 4], axis=0)
    by_class = np.array([16 / 24, 16 / 8], np.float32)
    plain, shares = mixed(change, keys(range(16)), images, labels)
    mix = mixing(Augment(**change))
    assert mix
    found, targets, weights = (np.asarray(t) for t in weighed(mix, keys(range(16)), images, labels, labels @ by_class))
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert ((shares > 0.01) & (shares < 0.99)).any()
    np.testing.assert_allclose(targets * weights[:, None], shares * by_class, rtol=1e-5)

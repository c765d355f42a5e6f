"""Recalibrated statistics are those of the training data."""

from typing import Any

import keras
import numpy as np
import pytest
from fitting import moved, phase, uneven, values
from tiny import classifier

from kerastune.errors import VerificationError
from kerastune.records import Recalibration
from kerastune.training.batch_norm import recalibrate
from kerastune.training.freezing import freeze, frozen_hashes, prove_frozen
from kerastune.weights import seed_states

# --- BatchNorm ---------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_those_of_the_training_data() -> None:
    task = classifier("EfficientNet")
    lowest = phase("match:^block1a$", batch_norm="recalibrate")
    freeze(task, lowest)
    norm = task.backbone.get_layer("block1a_dwconv_bn")
    seen = keras.Model(task.backbone.inputs, norm.input)
    inputs = np.concatenate([np.asarray(seen(x), np.float64) for x in uneven()])  # all before it runs as in inference
    assert not np.allclose(norm.moving_variance, inputs.var(axis=(0, 1, 2)), rtol=0.1)
    assert recalibrate(task, lowest, uneven()) == Recalibration(2, 2, 8)
    np.testing.assert_allclose(norm.moving_mean, inputs.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, inputs.var(axis=(0, 1, 2)), rtol=1e-4)


def test_recalibration_moves_the_unfrozen_units_statistics_only_and_comes_after_the_proof() -> None:
    task = classifier("EfficientNet")
    top = phase("top:1", batch_norm="recalibrate")
    freeze(task, top)
    before, proof = values(task), frozen_hashes(task)
    audit = recalibrate(task, top, uneven())
    changed = moved(task, before)
    assert len(changed) == 2 * audit.layers
    assert {path.split("/")[0] for path in changed} == {"block2b_", "top_bn"}
    assert all("moving" in path for path in changed)
    with pytest.raises(VerificationError):
        prove_frozen(proof, frozen_hashes(task))


def test_recalibration_leaves_no_trace_but_the_statistics() -> None:
    task = classifier("EfficientNet")
    everything = phase("all", batch_norm="recalibrate")
    before = freeze(task, everything)
    norms = [x for x in task.backbone._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    seeds = [state.numpy().tolist() for state in seed_states(task)]
    recalibrate(task, everything, uneven())
    once = values(task)
    assert [state.numpy().tolist() for state in seed_states(task)] == seeds
    assert freeze(task, everything) == before
    assert [norm.momentum for norm in norms] == momenta
    assert not any("call" in vars(norm) for norm in norms)
    norms[0].moving_mean.assign_add(np.ones(norms[0].moving_mean.shape))
    recalibrate(task, everything, uneven())
    assert moved(task, once) == set()  # the statistics that were there do not count


def test_an_interrupted_recalibration_puts_the_statistics_back() -> None:
    task = classifier("EfficientNet")
    everything = phase("all", batch_norm="recalibrate")
    freeze(task, everything)
    before = values(task)

    def batches() -> Any:
        yield uneven()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(task, everything, batches())
    assert moved(task, before) == set()


def test_without_batch_norm_there_is_nothing_to_recalibrate() -> None:
    nothing = Recalibration(0, 0, 0)
    assert recalibrate(classifier("ViT"), phase("all", batch_norm="recalibrate"), uneven()) == nothing
    assert recalibrate(classifier("EfficientNet"), phase("head", batch_norm="recalibrate"), uneven()) == nothing

"""A state fits any build of its model."""

import numpy as np
import pytest
from fitting import phase, uneven
from tiny import classifier

from kerastune.training.freezing import freeze
from kerastune.weights import restore, seed_states, state

# --- state -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You are using a softmax")  # the tiny MiT's attention has one key
@pytest.mark.parametrize("family", ["EfficientNet", "MiT"])  # MiT's layers are numbered by what else was built
def test_a_state_fits_another_build_of_the_model_to_the_bit(family: str) -> None:
    task, other = classifier(family, seed=0), classifier(family, seed=1)
    x = uneven()[0]
    assert not np.array_equal(task(x), other(x))
    kept = state(task)
    assert len(kept) == len(task.weights)
    restore(other, kept)
    assert np.array_equal(task(x), other(x))


def test_a_state_with_weights_that_the_model_has_not_is_refused() -> None:
    task = classifier("ViT")
    with pytest.raises(ValueError, match="the state has weights that the model lacks: 999"):
        restore(task, {**state(task), "999:nowhere": np.zeros(1)})


def test_random_layers_put_back_draw_the_same() -> None:
    task = classifier("EfficientNet")
    freeze(task, phase("all"))  # with BatchNorm in inference mode, so that only random layers differ
    assert len(seed_states(task)) == 2
    x = uneven()[0]
    kept = [variable.numpy() for variable in seed_states(task)]
    first = task(x, training=True)
    assert not np.array_equal(task(x, training=True), first)
    for variable, value in zip(seed_states(task), kept, strict=True):
        variable.assign(value)
    assert np.array_equal(task(x, training=True), first)

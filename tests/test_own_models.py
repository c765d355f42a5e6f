"""A model of a task's own: its backbone sits anywhere, its outputs have names and any shape, without KerasHub."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from fitting import moved, phase, values
from own_model import Detector, detector, images, wrapped

from kerastune.recipe import Lora
from kerastune.tasks import registered
from kerastune.training import lora, saving
from kerastune.training.freezing import freeze, frozen_hashes, prove_frozen
from kerastune.training.optimizers import of_phase
from kerastune.training.prefix import cutting
from kerastune.training.steps import compiled
from kerastune.training.units import head, units


class WholeModel:
    """Feeds a model its inputs, or a cut's features, as `Feed` does."""

    def __init__(self, task: Any, x: Any, y: Any, cut: Any = None) -> None:
        self.forward = (lambda x, training: task(x, training=training)) if cut is None else cut.tail
        self.batch = (x if cut is None else cut.prefix(x), y, tf.ones(8))
        self.signature = keras.tree.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), self.batch)


def loss(truth: Any, outputs: Any, weights: Any) -> tuple[Any, Any]:
    """Of outputs by name."""
    total = sum(tf.reduce_sum((outputs[name] - truth[name]) ** 2) for name in truth)
    return total, tf.cast(tf.shape(weights)[0], tf.float32)


class Count(keras.metrics.Mean):  # type: ignore[misc]
    def update_state(self, truth: Any, outputs: Any) -> None:
        super().update_state(tf.cast(tf.shape(outputs["classes"])[0], tf.float32))


def truth(task: Any) -> Any:
    return {name: tf.zeros_like(x) for name, x in task(images()).items()}


def train(task: Any, of: Any, steps: int = 3, cut: Any = None) -> list[float]:
    """Real compiled steps of a phase, with the proof; the losses."""
    made, before = of_phase(of, task, steps), frozen_hashes(task)
    feed: Any = WholeModel(task, images(), truth(task), cut)
    metrics = [keras.metrics.Mean(name="loss"), Count(name="count")]
    both = compiled(feed, task, loss, made, metrics, xla=False)
    found = []
    for _ in range(steps):
        metrics[0].reset_state()
        both.train(*feed.batch)
        found.append(float(metrics[0].result()))
    assert set(both.test(*feed.batch)) == set(truth(task))
    prove_frozen(before, frozen_hashes(task))
    return found


MODELS = pytest.mark.parametrize("make", [detector, wrapped], ids=["functional", "own call"])


@MODELS
def test_every_weight_belongs_to_one_unit_or_to_the_head(make: Any) -> None:
    task = make()
    owned = [id(weight) for unit in [*units(task.backbone), head(task)] for weight in unit.weights]
    assert sorted(owned) == sorted(id(weight) for weight in task.weights)
    assert [unit.name for unit in units(task.backbone)] == ["block_0", "block_1", "block_2"]


@MODELS
@pytest.mark.parametrize(
    ("unfreeze", "blocks"), [("head", set()), ("top:1", {"block_2"}), ("match:block_1", {"block_1"}), ("none", set())]
)
def test_the_head_is_what_stands_around_the_backbone_however_deep_that_sits(
    make: Any, unfreeze: str, blocks: set[str]
) -> None:
    task = make()
    freeze(task, phase(unfreeze))
    paths = [weight.path for weight in task.trainable_weights]
    trained = {"temperature" if "temperature" in path else path.split("/")[-2].removesuffix("_conv") for path in paths}
    heads = {detector: {"lateral", "box_head", "class_head"}, wrapped: {"neck", "class_head", "temperature"}}[make]
    unused = {"block_2"} if make is detector else set()  # no output depends on it
    assert trained == (set() if unfreeze == "none" else heads | (blocks - unused))


@MODELS
def test_outputs_by_name_train_and_the_frozen_rest_stays(make: Any) -> None:
    task = make()
    freeze(task, of := phase("head", learning_rate=1e-2))
    before = values(task)
    losses = train(task, of)
    assert losses[-1] < losses[0]
    assert moved(task, before) and not any("block_" in path for path in moved(task, before))


def test_a_prefix_is_cut_out_of_a_nested_backbone_and_trains_alike() -> None:
    whole, split = detector(), detector()
    of = phase("head", learning_rate=1e-2)
    freeze(whole, of)
    freeze(split, of)
    cut, why = cutting.cut(split, images())
    assert cut is not None and cut.after == ("block_1_relu",), why
    assert cutting.prove(cut, images()) is None
    np.testing.assert_allclose(train(split, of, cut=cut), train(whole, of), rtol=1e-5)


def test_a_model_with_a_call_of_its_own_has_no_prefix_and_says_why() -> None:
    task = wrapped()
    freeze(task, phase("head"))
    cut, why = cutting.cut(task, images())
    assert cut is None and "is not a functional model" in why


@MODELS
def test_adapters_train_and_merge_wherever_the_backbone_sits(make: Any) -> None:
    task = make()
    of = phase("top:2", learning_rate=1e-2, lora=Lora(rank=2, targets=("_conv$",)))
    audit = freeze(task, of)
    assert all("block_" in path for path in audit.lora.layers)
    train(task, of)
    before = {name: x.numpy() for name, x in task(images()).items()}
    lora.merge(task)
    for name, x in task(images()).items():
        np.testing.assert_array_equal(x, before[name])


# --- saved and loaded ----------------------------------------------------------------------------------------


def test_a_registered_model_comes_back_to_the_bit(tmp_path: Path) -> None:
    loaded, notes = saving.save(detector(), tmp_path, lambda path: registered.load(path, "float32"), images())
    assert isinstance(loaded, Detector) and notes == []
    np.testing.assert_array_equal(loaded(images())["boxes"], detector()(images())["boxes"])


def test_it_is_loaded_in_another_precision(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    registered.save(detector(), tmp_path)
    loaded = registered.load(tmp_path, "mixed_bfloat16")
    assert loaded.backbone.layers[1].compute_dtype == "bfloat16"
    assert {weight.dtype for weight in loaded.weights} == {"float32"}


def test_a_model_that_is_not_registered_could_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Wrapped is not registered with Keras"):
        registered.save(wrapped(), tmp_path)

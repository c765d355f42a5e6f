"""One optimizer for all of a phase: rates of their own, one clip norm, accumulated gradients, averages, resumption."""

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from fitting import moved, phase, values
from keras import optimizers as keras_optimizers
from tiny import classifier, examples

from kerastune.recipe import Phase
from kerastune.training.freezing import freeze
from kerastune.training.optimizers import Schedule, averaged, make, of_phase

OPTIMIZERS = ["adam", "adamw", "lion", "rmsprop", "sgd"]


class Two(keras.Model):
    """Two kernels of two numbers each, [3, 4] and [6, 8], to be trained at rates of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.low = self.add_weight(shape=(2,), name="kernel")
        self.high = self.add_weight(shape=(2,), name="kernel")
        self.low.assign([3.0, 4.0])
        self.high.assign([6.0, 8.0])

    @property
    def values(self) -> np.ndarray:
        return np.array([self.low.numpy(), self.high.numpy()])


def made(task: Two, share: float = 1.0, policy: str = "float32", **settings: Any) -> Any:
    """An optimizer that trains `low` at a share of the rate 0.1."""
    phase = Phase(unfreeze="all", **{"optimizer": "sgd", "learning_rate": 0.1, **settings})
    return make(phase, task.trainable_variables, {id(task.low): 0.1 * share}, steps=10, policy=policy)


def step(optimizer: Any, task: Two, *gradients: Any) -> np.ndarray:
    """What one step changes, for gradients of `low` and `high` (default: ones)."""
    before = task.values
    optimizer.apply([tf.constant(g, tf.float32) for g in gradients or np.ones((2, 2))], task.trainable_variables)
    return task.values - before


FIRST = 0.1 * 1.9  # of SGD with Nesterov momentum 0.9 and rate 0.1: the gradient's share in the first step


# --- rates of their own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("share", [0.25, 1.0, 2.0])
def test_a_variable_steps_at_its_share_of_the_rate(name: str, share: float) -> None:
    task = Two()
    low, high = step(made(task, share, optimizer=name), task)
    np.testing.assert_allclose(low, share * high, rtol=1e-5, atol=1e-6)  # 3 - 1e-3 has 1e-7 of rounding
    assert (high < -1e-3).all()


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.1)])
def test_adam_in_one_pass_is_the_adam_of_keras(name: str, decay: float) -> None:
    """Over 20 steps, within 1e-6 of the weights; by another epsilon they differ by more than 1e-3."""
    draw = np.random.default_rng(0)
    gradients = [tf.constant(draw.normal(size=(2, 2)) * [[1e-6], [1.0]], tf.float32) for _ in range(20)]
    kind = {"adam": keras_optimizers.Adam, "adamw": keras_optimizers.AdamW}[name]

    def after(optimizer: Any, task: Two) -> np.ndarray:
        for pair in gradients:
            optimizer.apply(list(pair), task.trainable_variables)
        return task.values

    ours, theirs, other = Two(), Two(), Two()
    found = after(made(ours, optimizer=name, weight_decay=decay, schedule="constant"), ours)
    settings = {"learning_rate": 0.1} | ({"weight_decay": decay} if decay else {})
    np.testing.assert_allclose(found, after(kind(**settings), theirs), rtol=1e-6)
    assert np.abs(found - after(kind(**settings, epsilon=1e-6), other)).max() > 1e-3


def test_the_share_holds_in_every_later_step_and_along_the_schedule() -> None:
    task = Two()
    optimizer = made(task, 0.5, schedule="linear", warmup=0.2)
    steps = np.array([step(optimizer, task) for _ in range(8)])
    np.testing.assert_allclose(steps[:, 0], 0.5 * steps[:, 1], rtol=1e-4)
    assert abs(steps[-1, 1, 0]) != pytest.approx(abs(steps[2, 1, 0]), rel=0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_goes_at_the_variables_own_rate(name: str) -> None:
    task = Two()
    low, high = step(made(task, 0.5, optimizer=name, weight_decay=0.2), task, [0.0, 0.0], [0.0, 0.0])
    np.testing.assert_allclose(low, -0.5 * 0.1 * 0.2 * np.array([3, 4]), rtol=1e-5)
    np.testing.assert_allclose(high, -0.1 * 0.2 * np.array([6, 8]), rtol=1e-5)


def test_gradients_for_some_of_the_variables_train_those_and_leave_the_others_slots_alone() -> None:
    task = Two()
    optimizer = made(task, optimizer="adam", clip_norm=1.0)
    optimizer.apply([tf.ones(2)], [task.high])
    assert np.array_equal(task.low, [3, 4])
    assert not np.array_equal(task.high, [6, 8])
    assert [v.numpy().any() for v in optimizer.variables if "momentum" in v.path] == [False, True]


def test_keras_multi_optimizer_still_does_not_fit() -> None:
    """Should this fail one day, `optimizers._Shares` may have become needless."""
    task = Two()
    per_unit = keras_optimizers.OptimizerMap(keras_optimizers.SGD(1.0, global_clipnorm=1.0))
    low, high = keras.Variable([0.0], name="low"), keras.Variable([0.0], name="high")
    per_unit["high"] = keras_optimizers.SGD(1.0, global_clipnorm=1.0)
    multi = keras_optimizers.MultiOptimizer(per_unit)
    multi.build([low, high])
    multi.apply([tf.constant([3.0]), tf.constant([4.0])], [low, high])
    assert (float(low[0]), float(high[0])) == (-1, -1)  # by one norm for both: -0.6 and -0.8
    with pytest.raises(ValueError, match="one-to-one"):
        multi.apply([tf.constant([3.0])], [low])
    assert not hasattr(multi, "learning_rate")
    assert made(task).learning_rate is not None


# --- the clip norm -----------------------------------------------------------------------------------------


def test_the_clip_norm_is_that_of_all_gradients_together_whatever_the_rates() -> None:
    task = Two()
    gradients = [3.0, 0.0], [0.0, 4.0]  # their norm is 5
    low, high = step(made(task, 0.5, clip_norm=1.0), task, *gradients)
    np.testing.assert_allclose(low, [-0.5 * FIRST * 3 / 5, 0], rtol=1e-5)
    np.testing.assert_allclose(high, [0, -FIRST * 4 / 5], rtol=1e-5)


def test_gradients_below_the_clip_norm_are_left_as_they_are() -> None:
    clipped, free = Two(), Two()
    np.testing.assert_array_equal(step(made(clipped, clip_norm=9.0), clipped), step(made(free), free))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("graph", [False, True])
def test_an_embeddings_gradient_counts_once_a_row(graph: bool, accumulation: int) -> None:
    table = keras.Variable(np.zeros((4, 1), "float32"), name="embeddings")
    phase = Phase(unfreeze="all", optimizer="sgd", learning_rate=0.1, clip_norm=1.0, gradient_accumulation=accumulation)
    optimizer = make(phase, [table], {}, steps=2, policy="float32")

    def train() -> None:
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(keras.ops.take(table, [1, 1], axis=0))  # row 1 twice: its gradient is 2, not √2
        gradient = tape.gradient(loss, table.value)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply([gradient], [table])

    for _ in range(accumulation):
        (tf.function(train) if graph else train)()
    np.testing.assert_allclose(np.ravel(table), [0, -FIRST, 0, 0], rtol=1e-6)


# --- accumulated gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_half_batches_are_one_whole(name: str) -> None:
    settings = {"optimizer": name, "clip_norm": 1.0, "weight_decay": 0.1}
    halves, whole = Two(), Two()
    accumulating, plain = made(halves, 0.5, gradient_accumulation=2, **settings), made(whole, 0.5, **settings)
    for scale in (1.0, 2.0):
        assert not step(accumulating, halves, [scale, 0], [0, 0]).any()
        step(accumulating, halves, [0, 0], [0, 3 * scale])
        step(plain, whole, [scale / 2, 0], [0, 3 * scale / 2])
        np.testing.assert_allclose(halves.values, whole.values, rtol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_last_group_of_fewer_batches_is_applied_with_its_own_mean(name: str, policy: str) -> None:
    """Ten batches, four at a time: the last two are a group of their own."""
    halves, whole = Two(), Two()
    settings = {"optimizer": name, "schedule": "constant", "clip_norm": 9.0}
    accumulating = made(halves, gradient_accumulation=4, policy=policy, **settings)
    plain = made(whole, **settings)
    scale = 2.0**15 if policy == "mixed_float16" else 1.0
    changed = [bool(step(accumulating, halves, [scale * i, 0], [0, scale]).any()) for i in range(10)]
    for gradients in ([1.5, 0], [5.5, 0], [8.5, 0]):  # means of 0…3, 4…7, 8 and 9
        step(plain, whole, gradients, [0, 1])
    assert [i for i, each in enumerate(changed) if each] == [3, 7, 9]
    np.testing.assert_allclose(halves.values, whole.values, rtol=1e-6)


def test_a_phase_shorter_than_a_group_takes_one_step_and_averages_it() -> None:
    task = Two()
    optimizer = made(task, gradient_accumulation=64, ema=0.5)
    changes = [step(optimizer, task) for _ in range(10)]
    assert not any(change.any() for change in changes[:-1])
    np.testing.assert_allclose(changes[-1], -FIRST * np.ones((2, 2)), rtol=1e-5)
    with averaged(optimizer, task):
        np.testing.assert_allclose(task.values, [[3, 4], [6, 8]] + changes[-1], rtol=1e-6)


def test_a_group_ends_with_its_epoch() -> None:
    """Two epochs of five batches, four at a time: the fifth is a group of its own, and no group is of two epochs."""
    task, wanted = Two(), Phase(unfreeze="all", optimizer="sgd", learning_rate=0.1, gradient_accumulation=4)
    optimizer = make(wanted, task.trainable_variables, {}, steps=10, policy="float32", epoch_steps=5)
    changed = [bool(step(optimizer, task).any()) for _ in range(10)]
    assert [i for i, each in enumerate(changed) if each] == [3, 4, 8, 9]


# --- averages ----------------------------------------------------------------------------------------------


def test_averages_are_those_worked_out_by_hand_and_leave_training_alone() -> None:
    averaging, plain = Two(), Two()
    optimizer, without = made(averaging, ema=0.9), made(plain)
    seen = []
    for _ in range(4):
        np.testing.assert_array_equal(step(optimizer, averaging), step(without, plain))
        seen.append(averaging.values)
    expected = seen[0]  # the first step's average is the weights after it
    for n, weights in enumerate(seen[1:], start=1):
        momentum = (1 + n) / (10 + n)  # below 0.9 until step 80
        expected = momentum * expected + (1 - momentum) * weights
    with averaged(optimizer, averaging):
        np.testing.assert_allclose(averaging.values, expected, rtol=1e-6)
        assert not np.allclose(averaging.values, seen[-1], rtol=1e-3)
    np.testing.assert_array_equal(averaging.values, seen[-1])


def test_a_slow_average_of_few_steps_forgets_the_beginning_and_one_of_many_keeps_its_pace() -> None:
    task = Two()
    optimizer = made(task, ema=0.99)
    task.high.assign([1000.0, 1000.0])
    for _ in range(50):
        step(optimizer, task)
        task.high.assign([0.0, 0.0])
    with averaged(optimizer, task):
        assert abs(task.values[1]).max() < 1  # a fixed pace would leave 0.99 ** 49 of 1000: 611
    optimizer.iterations.assign(5000)
    task.high.assign([1000.0, 1000.0])
    step(optimizer, task)
    with averaged(optimizer, task):
        assert task.values[1] == pytest.approx([10, 10], abs=2)


def test_weights_come_back_to_the_bit_also_after_an_error() -> None:
    task = Two()
    optimizer = made(task, ema=0.5)
    for _ in range(3):
        step(optimizer, task)
    before = task.values
    with pytest.raises(KeyboardInterrupt), averaged(optimizer, task):
        assert not np.array_equal(task.values, before)
        raise KeyboardInterrupt
    assert task.values.tobytes() == before.tobytes()


def test_before_the_first_step_averages_are_the_weights_and_not_keras_zeros() -> None:
    task = Two()
    with averaged(made(task, ema=0.9), task):
        np.testing.assert_array_equal(task.values, [[3, 4], [6, 8]])


def test_without_ema_nothing_is_swapped() -> None:
    task = Two()
    optimizer = made(task)
    step(optimizer, task)
    before = task.values
    with averaged(optimizer, task):
        np.testing.assert_array_equal(task.values, before)


def test_batches_that_only_accumulate_do_not_age_the_averages() -> None:
    slow, plain = Two(), Two()
    accumulating, every = made(slow, ema=0.5, gradient_accumulation=3), made(plain, ema=0.5)
    for _ in range(3):
        for _ in range(3):
            step(accumulating, slow)
        step(every, plain)
    with averaged(accumulating, slow), averaged(every, plain):
        np.testing.assert_allclose(slow.values, plain.values, rtol=1e-6)


def test_frozen_weights_have_no_average_that_rounding_could_move() -> None:
    task = Two()
    optimizer = made(task, ema=0.9)
    task.low.assign([1 / 3, -0.0])
    task.low.trainable = False
    frozen = task.low.numpy().tobytes()
    for _ in range(5):
        optimizer.apply([tf.ones(2)], [task.high])
    with averaged(optimizer, task):
        assert task.low.numpy().tobytes() == frozen
        assert not np.array_equal(task.high, [6, 8])


# --- mixed precision and resumption ------------------------------------------------------------------------


def test_float16_gets_loss_scaling_around_it_all() -> None:
    task, plain = Two(), Two()
    optimizer = made(task, 0.5, policy="mixed_float16", clip_norm=1.0, ema=0.9)
    scale = float(optimizer.scale_loss(1.0))
    assert scale == 2**15
    scaled = step(optimizer, task, [3 * scale, 0], [0, 4 * scale])
    np.testing.assert_allclose(scaled, step(made(plain, 0.5, clip_norm=1.0), plain, [3, 0], [0, 4]), rtol=1e-6)
    assert not step(optimizer, task, [np.inf, 0], [0, 1]).any()  # an overflow is no step
    assert float(optimizer.scale_loss(1.0)) == scale / 2
    step(optimizer, task, [3 * scale, 0], [0, 4 * scale])
    now = task.values
    with averaged(optimizer, task):
        assert not np.array_equal(task.values, now)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_put_back_takes_the_same_next_steps_to_the_bit(name: str, policy: str) -> None:
    settings = {"optimizer": name, "clip_norm": 5.0, "ema": 0.9, "gradient_accumulation": 2, "schedule": "cosine"}

    def build(task: Two) -> Any:
        return made(task, 0.3, policy, weight_decay=0.01, **settings)

    def train(optimizer: Any, task: Two, numbers: range) -> None:
        for i in numbers:
            step(optimizer, task, [i, 1.0], [-1.0, 1 / (i + 1)])

    def outcome(optimizer: Any, task: Two) -> bytes:
        with averaged(optimizer, task):
            inside = task.values.tobytes()
        return inside + task.values.tobytes()

    task, again = Two(), Two()
    optimizer = build(task)
    train(optimizer, task, range(5))  # 5 is odd: a gradient is waiting
    kept = [v.numpy() for v in optimizer.variables], [v.numpy() for v in task.weights]
    train(optimizer, task, range(5, 9))
    resumed = build(again)
    for variables, saved in zip((resumed.variables, again.weights), kept, strict=True):
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
    train(resumed, again, range(5, 9))
    assert outcome(resumed, again) == outcome(optimizer, task)

    forgetful = Two()
    forgetful.set_weights(kept[1])
    train(build(forgetful), forgetful, range(5, 9))  # the weights alone are not enough
    assert forgetful.values.tobytes() != task.values.tobytes()


# --- the learning rate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("constant", 0, {0: 1, 5: 1, 10: 1}),
        ("linear", 0, {0: 1, 5: 0.5, 9: 0.1, 10: 0, 20: 0}),
        ("cosine", 0, {0: 1, 2.5: 0.5 + math.sqrt(2) / 4, 5: 0.5, 10: 0, 20: 0}),
        ("constant", 4, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 10: 1}),
        ("linear", 4, {0: 0.25, 3: 1, 4: 1, 7: 0.5, 10: 0}),
        ("cosine", 4, {0: 0.25, 3: 1, 4: 1, 7: 0.5, 10: 0}),
    ],
)
def test_the_learning_rate_climbs_then_stays_or_falls_to_zero(
    kind: str, warmup: int, expected: dict[float, float]
) -> None:
    schedule = Schedule(kind, peak=2.0, steps=10, warmup_steps=warmup)
    found = [float(schedule(step)) for step in expected]
    assert found == pytest.approx([2 * rate for rate in expected.values()], abs=1e-6)


def test_a_schedule_survives_saving_alone_and_inside_an_optimizer() -> None:
    schedule = Schedule("cosine", peak=1e-3, steps=10, warmup_steps=2)
    again = Schedule.from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()
    adam = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.Adam(schedule)))
    restored = adam._learning_rate
    assert isinstance(restored, Schedule)
    assert [float(restored(step)) for step in range(12)] == [float(schedule(step)) for step in range(12)]


def test_a_phases_warm_up_is_a_share_of_its_steps() -> None:
    made = of_phase(phase("head", schedule="linear", warmup=0.25, learning_rate=0.1), classifier("ViT"), steps=40)
    config = made._learning_rate.get_config()
    assert config == {"kind": "linear", "peak": 0.1, "steps": 40, "warmup_steps": 10}


# --- the optimizer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_weight_decay_a_step_with_zero_gradients_moves_nothing(name: str) -> None:
    task = classifier("ViT")
    before = values(task)
    made = of_phase(phase("all", optimizer=name, learning_rate=0.1), task, steps=1)
    made.apply([keras.ops.zeros_like(w) for w in task.trainable_variables], task.trainable_variables)
    assert moved(task, before) == set()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", ["EfficientNet", "ViT"])
def test_weight_decay_shrinks_kernels_and_leaves_biases_and_norms_alone(family: str, name: str) -> None:
    task = classifier(family)
    for weight in task.trainable_variables:  # biases start at zero, where decay would not show
        weight.assign_add(keras.ops.ones(weight.shape))
    before = values(task)
    made = of_phase(phase("all", optimizer=name, learning_rate=0.1, weight_decay=0.5), task, steps=1)
    made.apply([keras.ops.zeros_like(w) for w in task.trainable_variables], task.trainable_variables)
    changed = moved(task, before)
    assert {path for path in changed if path.endswith(("bias", "beta", "gamma"))} == set()
    kernels = {w.path: w.numpy() for w in task.trainable_variables if w.path.endswith("kernel")}
    assert kernels.keys() <= changed
    for path, value in kernels.items():
        np.testing.assert_allclose(value, before[path] * (1 - 0.1 * 0.5), rtol=1e-5, atol=1e-7)


def test_an_optimizer_takes_its_name_literally() -> None:
    task = classifier("ViT")
    made = {name: of_phase(phase("all", optimizer=name, weight_decay=0.1), task, steps=1) for name in OPTIMIZERS}
    assert [type(each).__name__.lower() for each in made.values()] == OPTIMIZERS
    assert made["sgd"].momentum == 0.9
    assert made["sgd"].nesterov


def test_half_batches_accumulated_are_the_whole_batch_in_a_real_model() -> None:
    def trained(size: int, **settings: Any) -> dict[str, Any]:
        task = classifier("ViT")
        everything = phase("all", optimizer="sgd", learning_rate=0.1, clip_norm=0.5, **settings)
        freeze(task, everything)
        made, loss = of_phase(everything, task, 8 // size), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for x, y in examples().unbatch().batch(size):
            with tf.GradientTape() as tape:
                value = loss(y, task(x, training=False))
            made.apply(tape.gradient(value, task.trainable_weights), task.trainable_weights)
        return values(task)

    halves, whole = trained(4, gradient_accumulation=2), trained(8)
    for path, value in whole.items():
        np.testing.assert_allclose(halves[path], value, rtol=0, atol=1e-6, err_msg=path)
    assert any(not np.allclose(trained(4)[path], value, rtol=0, atol=1e-4) for path, value in whole.items())

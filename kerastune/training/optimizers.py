"""Keras's optimizers with a learning rate per variable, and averages of the weights that can be swapped in."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerastune import keras_private
from kerastune.recipe import Phase
from kerastune.training.units import rates, units


@keras.saving.register_keras_serializable("kerastune")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A linear rise from zero over `warmup_steps`, then constant, or falling to zero at `steps`.

    The cosine is that of Loshchilov & Hutter 2017 (SGDR, arXiv:1608.03983) without restarts.
    """

    def __init__(self, kind: str, peak: float, steps: int, warmup_steps: int) -> None:
        super().__init__()
        self.kind, self.peak, self.steps, self.warmup_steps = kind, peak, steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        climbing = (step + 1) / max(self.warmup_steps, 1)
        past = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        past = keras.ops.clip(past, 0.0, 1.0)
        falling = {
            "constant": keras.ops.ones_like(past),
            "linear": 1 - past,
            "cosine": 0.5 * (1 + keras.ops.cos(math.pi * past)),
        }[self.kind]
        return self.peak * keras.ops.where(step < self.warmup_steps, climbing, falling)

    def get_config(self) -> dict[str, Any]:
        return {"kind": self.kind, "peak": self.peak, "steps": self.steps, "warmup_steps": self.warmup_steps}


class _Shares(keras_private.Optimizer):
    """Mixin for Keras optimizers: each variable learns and decays at a share of the learning rate.

    Keras's MultiOptimizer (3.15) is unsuitable: each of its optimizers clips by the norm of its own variables only, its
    `apply` rejects gradients for fewer variables than it was built with (gradual unfreezing), and it has no learning
    rate.

    Fixes in Keras's behaviour: averages are zero before the first step; they also move on batches that only accumulate
    gradients, and so forget faster; averages of frozen weights move by rounding; an embedding's gradient counts towards
    the norm slice by slice, before slices of the same row are added; and an incomplete last group of accumulated
    batches is applied in the next epoch, or never.

    Attributes:
        shares: shares of the learning rate by `key` of the variable.
        epoch_steps: batches per epoch; after an epoch's last one, accumulated gradients are applied.
    """

    shares: Mapping[Any, float] = {}
    epoch_steps: int = 1

    def _share(self, variable: Any) -> float:
        return self.shares.get(self.key(variable), 1.0)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        for variable, average in self.averages:
            average.assign(variable)

    @property
    def averages(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Each variable and its average. Empty without EMA."""
        return list(zip(self.variables_trained, self.moving_averages, strict=True)) if self.use_ema else []

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = learning_rate * self._share(variable)
        if isinstance(self, keras.optimizers.Adam):
            self._adam(tf.convert_to_tensor(gradient), variable, rate)
        else:
            super().update_step(gradient, variable, rate)

    def _adam(self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor) -> None:
        """Computes Keras's Adam in one pass over memory instead of ten."""
        index, dtype = self.index(variable), variable.dtype
        means, squares = self.moments
        steps = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=means[index].value.handle,
            v=squares[index].value.handle,
            beta1_power=self.beta_1**steps,
            beta2_power=self.beta_2**steps,
            lr=tf.cast(rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, dtype),
        )

    def decay(self, variables: Sequence[keras.Variable]) -> None:
        for variable in variables if self.weight_decay else ():
            if self.decays(variable):
                variable.assign_sub(variable * self.weight_decay * self.learning_rate * self._share(variable))

    def clip(self, gradients: Sequence[Any]) -> list[Any]:
        return super().clip([tf.convert_to_tensor(g) for g in gradients] if self.global_clipnorm else gradients)

    @property
    def _is_step(self) -> Any:
        """Returns whether this batch's gradients are applied, and not only accumulated."""
        number = self.batches % self.epoch_steps + 1
        is_last = number == self.epoch_steps
        return keras.ops.logical_or(number % (self.gradient_accumulation_steps or 1) == 0, is_last)

    def accumulate_or_apply(self, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        if not self.gradient_accumulation_steps:
            super().accumulate_or_apply(gradients, variables)
            return
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        sums = [self.accumulators[self.index(variable)] for variable in variables]
        added = self.batches % self.epoch_steps % self.gradient_accumulation_steps + 1  # batches in the group

        def apply() -> None:
            means = [(total + new) / keras.ops.cast(added, new.dtype) for total, new in zip(sums, dense, strict=True)]
            self.apply_all(means, variables)
            for total in sums:
                total.assign(keras.ops.zeros_like(total))

        def wait() -> None:
            for total, new in zip(sums, dense, strict=True):
                total.assign_add(new)

        keras.ops.cond(self._is_step, apply, wait)
        self.move_averages()

    def move_averages(self) -> None:
        if not self.use_ema:
            return
        # As in Keras, the average after the first step is the weights. It forgets them faster at first, as TensorFlow's
        # `ExponentialMovingAverage(num_updates=…)` does: else 50 steps at 0.99 would end with weights of the beginning.
        steps = keras.ops.cast(self.iterations, "float32")
        momentum = keras.ops.minimum(self.ema_momentum, (1 + steps) / (10 + steps))
        share = keras.ops.where(steps == 0, 1.0, 1 - momentum)
        share = keras.ops.where(self._is_step, share, 0.0)
        for variable, average in self.averages:
            if variable.trainable:
                average.assign_add(share * (variable - average))


def of_phase(phase: Phase, task: keras.Model, steps: int, epoch_steps: int | None = None) -> keras.optimizers.Optimizer:
    """Makes a phase's optimizer over `steps` batches for the weights that train now; freeze the whole phase first.

    Args:
        epoch_steps: as of `make`.
    """
    found = units(task.backbone)
    peak = rates(phase, found)
    by_weight = {id(weight): peak[unit.name] for unit in found for weight in unit.weights}
    return make(phase, task.trainable_variables, by_weight, steps, task.backbone.dtype_policy.name, epoch_steps)


def make(
    phase: Phase,
    variables: Sequence[keras.Variable],
    rates: Mapping[int, float],
    steps: int,
    policy: str,
    epoch_steps: int | None = None,
) -> keras.optimizers.Optimizer:
    """Makes a phase's optimizer for all variables that it will ever train.

    Args:
        rates: peak learning rates by `id` of the variable. Default: the phase's.
        steps: batches in the phase. With accumulated gradients, the schedule advances with every batch.
        policy: the dtype policy; "mixed_float16" adds Keras's loss scaling.
        epoch_steps: batches per epoch, after which accumulated gradients are applied. Default: `steps`.
    """
    kind = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "lion": keras.optimizers.Lion,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }[phase.optimizer]
    made = type(kind.__name__, (_Shares, kind), {})(
        learning_rate=Schedule(phase.schedule, phase.learning_rate, steps, round(phase.warmup * steps)),
        weight_decay=phase.weight_decay,
        global_clipnorm=phase.clip_norm,
        gradient_accumulation_steps=phase.gradient_accumulation if phase.gradient_accumulation > 1 else None,
        use_ema=phase.ema > 0,
        ema_momentum=phase.ema,
        ema_overwrite_frequency=None,  # `averaged` uses the averages; training continues from the weights
        **({"momentum": 0.9, "nesterov": True} if phase.optimizer == "sgd" else {}),
    )
    made.epoch_steps = epoch_steps or steps
    made.shares = {made.key(v): rates[id(v)] / phase.learning_rate for v in variables if id(v) in rates}
    # Kernels are those of Dense, EinsumDense and (depthwise) convolutions, and their adapters (lora_kernel_a and _b,
    # whose decay pulls the layer back to its original). Embeddings, biases, normalisation and single tokens are not.
    made.exclude_from_weight_decay(var_list=[v for v in variables if "kernel" not in v.name])
    if policy == "mixed_float16":
        made = keras.optimizers.LossScaleOptimizer(made)
    made.build(list(variables))
    return made


@contextlib.contextmanager
def averaged(optimizer: keras.optimizers.Optimizer, task: keras.Model) -> Iterator[None]:
    """Replaces the trainable weights by their averages inside the block. Does nothing without EMA.

    BatchNorm statistics are already averages and stay unchanged. Units that gradual unfreezing reaches later start from
    their pretrained weights.
    """
    trained = {id(variable) for variable in task.trainable_variables}
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    pairs = [(variable, average) for variable, average in inner.averages if id(variable) in trained]
    kept = [variable.numpy() for variable, _ in pairs]
    try:
        for variable, average in pairs:
            variable.assign(average)
        yield
    finally:
        for (variable, _), value in zip(pairs, kept, strict=True):
            variable.assign(value)

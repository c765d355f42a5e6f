"""Chooses the dtype policy that trains faster on this machine."""

import functools
import math
import time
import timeit
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerastune import environment
from kerastune.records import Decision

_TIMED_ROWS, _TIMED_PRODUCTS = 512, 10
_TIMED_EXAMPLES = 4
_OPERATIONS = {"BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative", "Einsum", "MatMul"}
_WORTH_ROUNDING = 1.3  # how much faster matrix products must be, for a policy of less precision


def build_fastest(
    build: Callable[[str], Any], largest_product: Callable[[Any], Any] | None, example: Callable[[Any], Any]
) -> tuple[Any, Decision]:
    """Builds the model in the dtype policy that is faster here. Returns it with the decision.

    Args:
        build: makes the model in a dtype policy.
        largest_product: the contract's function; None if only a head trains: the rest runs once, and a head learns less
            from features with 3 digits.
        example: returns the inputs of one example for a model.
    """
    task, policy = None, ""
    if capabilities := _capabilities():
        got, why = _on_gpus(capabilities)
    else:
        got, why = "float32", "there is no GPU, and a CPU is timed only if more than the head trains"
        if largest_product:
            task, policy = build("float32"), "float32"
            if (weight := largest_product(task)) is not None:
                got, why = _on_cpu(weight)
            elif not environment.has_bfloat16():
                why = "there is no GPU, and this CPU has no instructions for bfloat16 (avx512_bf16 or amx_bf16)"
            else:
                x = example(task)
                gain, words = _by_operations(task, x)
                if gain >= _WORTH_ROUNDING:  # a step has other parts, so it is timed, too
                    exact, task = _step_seconds(task, x), None
                    task, policy = build("mixed_bfloat16"), "mixed_bfloat16"
                    gain = exact / _step_seconds(task, x)
                    words += f", and a step {gain:.2f} times"
                got, why = "mixed_bfloat16" if gain >= _WORTH_ROUNDING else "float32", f"there is no GPU, and {words}"
    if policy != got:
        task = None  # deletes the first before building the second
        task = build(got)
    return task, Decision("train.precision", "auto", got, why)


def _on_gpus(capabilities: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Returns a dtype policy for GPUs of these compute capabilities, and the reason."""
    if min(capabilities) >= (8, 0):
        return "mixed_bfloat16", "every GPU computes in bfloat16 (compute capability 8.0 or newer)"
    return "float32", f"a GPU of compute capability {'.'.join(map(str, min(capabilities)))} has no bfloat16"


def _on_cpu(largest: Any) -> tuple[str, str]:
    """Times the largest product of a model that spends its time in matrix products.

    Returns a dtype policy and the reason.

    bfloat16 is at least 1.5 times faster with AVX512-BF16 or AMX, and three times slower without.
    """
    kernel = tf.reshape(tf.convert_to_tensor(largest), [largest.shape[0], -1])
    x = tf.random.stateless_normal([_TIMED_ROWS, kernel.shape[0]], seed=(0, 0))

    # A mixed policy casts the weights in every step.
    product = tf.function(lambda x, kernel, dtype: tf.matmul(tf.cast(x, dtype), tf.cast(kernel, dtype)))
    seconds = {tf.float32: math.inf, tf.bfloat16: math.inf}
    for dtype in [*seconds] * 2:  # twice, because the first product in a process is slower
        product(x, kernel, dtype)  # traces
        # Process time, so that other load on the machine does not affect the decision.
        run_once = functools.partial(product, x, kernel, dtype)
        took = timeit.repeat(run_once, timer=time.process_time, number=1, repeat=_TIMED_PRODUCTS)
        seconds[dtype] = min(seconds[dtype], *took)
    gain = seconds[tf.float32] / seconds[tf.bfloat16]
    why = f"there is no GPU, and a matrix product takes {gain:.2f} times as long in float32 as in bfloat16 on this CPU"
    return ("mixed_bfloat16" if gain >= _WORTH_ROUNDING else "float32"), why


def _by_operations(task: Any, example: Any) -> tuple[float, str]:
    """Times each kind of convolution and product of a model, with its gradients, in both precisions.

    Returns how many times as long they take in float32, and that in words. No single one tells: with AMX, a dense
    convolution is up to four times as fast in bfloat16, and a depthwise one half as fast.
    """
    if not (kinds := operations(task, example)):
        return 1.0, "the model has neither convolutions nor products of a fixed size"
    exact, rounded = (sum(count * _seconds(op, dtype) for op, count in kinds) for dtype in (tf.float32, tf.bfloat16))
    gain = exact / rounded
    return gain, f"its convolutions and products take {gain:.2f} times as long in float32 as in bfloat16 on this CPU"


def _step_seconds(task: Any, example: Any) -> float:
    """Returns the processor's time of a forward pass with its gradients; the model stays as it is."""
    x = keras.tree.map_structure(lambda one: tf.repeat(one[:1], 2 * _TIMED_EXAMPLES, axis=0), example)

    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(task(x, training=False))
            total = tf.add_n([tf.reduce_sum(tf.cast(one, tf.float32)) for one in outputs])
        return [one for one in tape.gradient(total, task.trainable_variables) if one is not None]

    step = tf.function(gradients)
    for _ in range(2):  # traces, and starts the libraries
        step(x)
    return min(timeit.repeat(lambda: step(x), timer=time.process_time, number=1, repeat=3))


def operations(task: Any, example: Any) -> list[tuple[tf.Operation, int]]:
    """Returns one of each kind of convolution and product of a forward pass, and how many there are of it."""
    specs = keras.tree.map_structure(lambda x: tf.TensorSpec([_TIMED_EXAMPLES, *x.shape[1:]], x.dtype), example)
    graph = tf.function(lambda x: task(x, training=False)).get_concrete_function(specs).graph
    first: dict[str, tf.Operation] = {}
    counts = Counter[str]()
    for op in graph.get_operations():
        if op.type in _OPERATIONS and all(one.shape.is_fully_defined() for one in op.inputs):
            kind = f"{op.type} {[one.shape for one in op.inputs]} {_attributes(op)}"
            first.setdefault(kind, op)
            counts[kind] += 1
    return [(first[kind], count) for kind, count in counts.items()]


def _attributes(op: tf.Operation) -> Mapping[str, Any]:
    unwanted = ("T", "N", "grad_a", "grad_b", "use_cudnn_on_gpu")
    return {name: op.get_attr(name) for name in op.node_def.attr if name[0] != "_" and name not in unwanted}


def _seconds(op: tf.Operation, dtype: tf.DType) -> float:
    """Returns the processor's time of an operation with its gradients, without that of the first run."""
    x = [tf.cast(tf.random.stateless_normal(one.shape, seed=(0, 0)), dtype) for one in op.inputs]
    named = (
        {"inputs": x} if op.type == "Einsum" else dict(zip((one.name for one in op.op_def.input_arg), x, strict=True))
    )

    def run_once() -> None:
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = getattr(tf.raw_ops, op.type)(**named, **_attributes(op))
        tape.gradient(found, x)

    run_once()
    return min(timeit.repeat(run_once, timer=time.process_time, number=1, repeat=2))


def _capabilities() -> list[tuple[int, int]]:
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]

"""Chooses the dtype policy that trains faster on this machine."""

import functools
import math
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kerastune.records import Decision

_TIMED_ROWS, _TIMED_PRODUCTS = 512, 10
_WORTH_ROUNDING = 1.3  # how much faster matrix products must be, for a policy of less precision


def build_fastest(build: Callable[[str], Any], largest_product: Callable[[Any], Any] | None) -> tuple[Any, Decision]:
    """Builds the model in the dtype policy that is faster here. Returns it with the decision.

    Args:
        build: makes the model in a dtype policy.
        largest_product: the contract's function; None if only a head trains: the rest runs once, and a head learns less
            from features with 3 digits.
    """
    task = None
    if capabilities := _capabilities():
        got, why = _on_gpus(capabilities)
    else:
        got, why = "float32", "there is no GPU, and a CPU is timed only if more than the head of a text model trains"
        if largest_product:
            task = build("float32")
            if (weight := largest_product(task)) is not None:
                got, why = _on_cpu(weight)
    if task is None or got != "float32":
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


def _capabilities() -> list[tuple[int, int]]:
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]

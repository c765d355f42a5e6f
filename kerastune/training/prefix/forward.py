"""Runs a cut's prefix in the fastest way: in TensorFlow, folded, with XLA, or in ONNX Runtime."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from keras import tree

from kerastune import child, files
from kerastune.errors import ConverterError
from kerastune.formats import graphs
from kerastune.formats.conversion import Conversion
from kerastune.progress import Progress
from kerastune.training.prefix.cache import Arrays
from kerastune.training.prefix.cutting import Cut, difference

Forward = Callable[[Any], Arrays]
Implementation = Literal["tensorflow", "folded", "xla", "onnxruntime"]

_TRYING: dict[Implementation, float] = {"folded": 3.0, "xla": 30.0, "onnxruntime": 30.0}
"""Seconds to convert, compile and time EfficientNet-Lite0 on two cores, rounded up."""
_TOLERANCE = 1e-4  # of the largest value


def forward(made: Cut, name: Implementation, example: Any, free: bool = False) -> Forward:
    """Returns a cut's prefix in one implementation: batches of any size -> arrays.

    Args:
        example: a full batch of inputs.
        free: as in `cutting.cut`.

    Raises:
        RuntimeError: the implementation cannot run this prefix here; the message says why.
    """
    signature = specs(example, free)
    if name == "onnxruntime":
        return _onnxruntime(made, signature)
    if name == "tensorflow":
        plain = tf.function(made.prefix, input_signature=[signature])
        return lambda x: tuple(tensor.numpy() for tensor in plain(x))
    if name == "folded":
        constant = _frozen(made, signature)
        return lambda x: tuple(tensor.numpy() for tensor in constant(*map(tf.convert_to_tensor, tree.flatten(x))))
    compiled = tf.function(made.prefix, jit_compile=True)
    size = len(tree.flatten(example)[0])

    def padded(x: Any) -> Arrays:  # because XLA compiles for every batch size
        count = len(tree.flatten(x)[0])
        whole = tree.map_structure(lambda t: tf.concat([t, tf.repeat(t[:1], size - count, 0)], 0), x)
        return tuple(tensor.numpy()[:count] for tensor in compiled(whole))

    return padded


def fastest(
    made: Cut, example_batches: Sequence[Any], n_batches: int, progress: Progress | None = None, free: bool = False
) -> tuple[Forward, Implementation, str]:
    """Finds the implementation of a cut's prefix that finishes `n_batches` first, including the time to try others.

    Times plain TensorFlow first. Tries another implementation only if the pass is so long that a gain of a third would
    pay for it, and takes it only if it is faster and its outputs agree to 1e-4 of the largest value. On CPUs the others
    are TensorFlow with constant weights ("folded", because it can then fold BatchNorm into the convolutions before it)
    and ONNX Runtime; on GPUs XLA. On two CPU cores, XLA ran EfficientNet-Lite0 at a twentieth of TensorFlow's speed.

    With plain TensorFlow, cached training equals uncached training almost to the bit. The others round differently:
    with folded EfficientNet-Lite0, losses differed by 2e-6 over a head's four epochs, and by 8e-3 after two epochs of
    the top two blocks, where Adam amplifies rounding. `train.cache = "off"` avoids this.

    Args:
        example_batches: the first batches, beginning with a full one. Two or more improve the timing.
        free: as in `cutting.cut`.

    Returns:
        The forward pass, its implementation, and the reason.
    """
    progress = progress or Progress()
    batches = [*example_batches[:1], *(example_batches[1:] or example_batches)]
    taken = forward(made, "tensorflow", batches[0], free)
    expected, best = _timed(taken, batches)
    got: Implementation = "tensorflow"
    why = [f"TensorFlow {_rate(batches, best)}"]
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    candidates: tuple[Implementation, ...] = ("xla",) if on_gpu else ("folded", "onnxruntime")
    for candidate in candidates:
        if candidate == "folded" and not any("moving_variance" in weight.path for weight in made.prefix_weights):
            why.append("no BatchNorm to fold")
            continue
        if best * n_batches < 3 * _TRYING[candidate]:
            why.append(f"all {n_batches} batches take {best * n_batches:.0f} s, too short to try {candidate}")
            continue
        progress.say(f"Trying {candidate} for the frozen layers")
        try:
            other = forward(made, candidate, batches[0], free)
            found, seconds = _timed(other, batches)
        except (RuntimeError, tf.errors.OpError) as error:
            why.append(f"{candidate} cannot run it: {error}")
            continue
        apart = difference(expected, found)
        why.append(f"{candidate} {_rate(batches, seconds)}, differing by {apart:.1g} of the largest value")
        if apart <= _TOLERANCE and seconds < best:
            got, taken, best = candidate, other, seconds
    return taken, got, "; ".join(why)


def specs(example: Any, free: bool) -> Any:
    """Returns `tf.TensorSpec`s for batches of any size like an example; with `free`, all axes have any length."""

    def spec(x: Any) -> tf.TensorSpec:
        return tf.TensorSpec([None] * len(x.shape) if free else [None, *x.shape[1:]], x.dtype)

    return tree.map_structure(spec, example)


def _timed(run: Forward, batches: Sequence[Any]) -> tuple[Arrays, float]:
    """Returns the first batch's outputs, and the seconds for a later one (median)."""
    outputs = run(batches[0])
    seconds = []
    for batch in batches[1:]:
        started = time.perf_counter()
        run(batch)
        seconds.append(time.perf_counter() - started)
    return outputs, float(np.median(seconds))


def _rate(batches: Sequence[Any], seconds: float) -> str:
    return f"{len(tree.flatten(batches[0])[0]) / seconds:.0f} examples/s"


def _onnxruntime(made: Cut, signature: Any) -> Forward:
    """Converts in a child process, because converters segfault and leak memory."""
    import onnxruntime

    if len(tree.flatten(signature)) != 1 or len(made.specs) != 1:
        raise RuntimeError("it supports only one input and one output")
    with files.scratch() as work:
        path = work / "prefix.onnx"

        def prefix(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"features": made.prefix(inputs)[0]}

        (spec,) = tree.flatten(signature)
        graphs.frozen("prefix", (prefix, [tf.TensorSpec(spec.shape, spec.dtype, name="inputs")]), work)
        conversion = json.dumps(asdict(Conversion("prefix")))
        try:
            child.run("The ONNX converter", ["-m", "kerastune.formats", "onnx", str(work), str(path), conversion])
        except ConverterError as error:
            raise RuntimeError(error.message) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        # Waiting threads must not take a core from those that read images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class
            raise RuntimeError(str(error)) from error
    return lambda x: tuple(session.run(["features"], {"inputs": np.asarray(tree.flatten(x)[0])}))


def _frozen(made: Cut, signature: Any) -> Any:
    """Returns the prefix as a concrete function with constant weights, which takes the inputs one by one."""
    frozen, _ = graphs.freeze(made.prefix, signature)
    if len(frozen.inputs) != len(tree.flatten(signature)):
        raise RuntimeError(f"frozen, it takes {len(frozen.inputs)} inputs")
    return frozen

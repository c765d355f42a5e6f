"""The forward pass that is done first: a cut's prefix in TensorFlow, folded, with XLA, or in ONNX Runtime."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from keras import tree

from kerastune import child
from kerastune.errors import ConverterError
from kerastune.formats import graphs
from kerastune.formats.conversion import Conversion
from kerastune.progress import Progress
from kerastune.training.prefix.cache import Arrays
from kerastune.training.prefix.cutting import Cut, difference

Forward = Callable[[Any], Arrays]
Implementation = Literal["tensorflow", "folded", "xla", "onnxruntime"]

_TRYING: dict[Implementation, float] = {"folded": 3.0, "xla": 30.0, "onnxruntime": 30.0}
"""Seconds that converting, compiling and timing took for EfficientNet-Lite0 on two cores, rounded up."""
_TOLERANCE = 1e-4  # of the largest value


def forward(made: Cut, name: Implementation, example: Any, free: bool = False) -> Forward:
    """A cut's prefix, as one implementation computes it: batches of any size -> arrays.

    Args:
        example: a full batch of inputs.
        free: as in `cutting.cut`.

    Raises:
        RuntimeError: that implementation cannot run this prefix here; the message says why.
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

    def padded(x: Any) -> Arrays:  # XLA compiles for every batch size anew
        count = len(tree.flatten(x)[0])
        whole = tree.map_structure(lambda t: tf.concat([t, tf.repeat(t[:1], size - count, 0)], 0), x)
        return tuple(tensor.numpy()[:count] for tensor in compiled(whole))

    return padded


def fastest(
    made: Cut, example_batches: Sequence[Any], n_batches: int, progress: Progress | None = None, free: bool = False
) -> tuple[Forward, Implementation, str]:
    """The implementation of a cut's prefix that is done first with `n_batches`, trying the others included.

    Plain TensorFlow is timed first. Another is tried only if the pass takes so long that a gain of a third would pay
    for it, and taken only if it is faster and its outputs agree to 1e-4 of the largest value. On CPUs those are
    TensorFlow with the weights as constants ("folded": it can then fold BatchNorm, where there is some, into the
    convolutions before it) and ONNX Runtime, on GPUs XLA: on two CPU cores, XLA ran EfficientNet-Lite0 at a twentieth
    of TensorFlow's rate.

    With plain TensorFlow a cached training equals an uncached one, nearly to the bit. The others round differently:
    on EfficientNet-Lite0, folded, losses differed by 2e-6 over a head's four epochs, and by 8e-3 after two epochs of
    the top two blocks, where Adam makes rounding grow. `train.cache = "off"` has neither.

    Args:
        example_batches: the first batches; the first of them full. Two or more make the timing better.
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
            why.append(f"all {n_batches} batches take {best * n_batches:.0f} s, too little to try {candidate}")
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
    """`tf.TensorSpec`s of batches like an example, of any size; `free`: with all axes of any length."""

    def spec(x: Any) -> tf.TensorSpec:
        return tf.TensorSpec([None] * len(x.shape) if free else [None, *x.shape[1:]], x.dtype)

    return tree.map_structure(spec, example)


def _timed(run: Forward, batches: Sequence[Any]) -> tuple[Arrays, float]:
    """The first batch's outputs, and the seconds that a later one takes (the median)."""
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
    """Converts in a child process: converters segfault, and do not give memory back."""
    import onnxruntime

    if len(tree.flatten(signature)) != 1 or len(made.specs) != 1:
        raise RuntimeError("it is set up for one input and one output")
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        work, path = Path(scratch), Path(scratch) / "prefix.onnx"

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
        # A thread that waits must not take a core from those that read images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            raise RuntimeError(str(error)) from error
    return lambda x: tuple(session.run(["features"], {"inputs": np.asarray(tree.flatten(x)[0])}))


def _frozen(made: Cut, signature: Any) -> Any:
    """The prefix as a concrete function whose weights are constants; it takes the inputs one by one."""
    frozen, _ = graphs.freeze(made.prefix, signature)
    if len(frozen.inputs) != len(tree.flatten(signature)):
        raise RuntimeError(f"frozen, it takes {len(frozen.inputs)} inputs")
    return frozen

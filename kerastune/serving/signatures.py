"""The signatures of a SavedModel: functions of any number of named arrays."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy.typing as npt
import tensorflow as tf

from kerastune.errors import VerificationError, printable
from kerastune.modalities import image
from kerastune.targets import operators

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
Specs: TypeAlias = Mapping[str, Any]  # `tf.TensorSpec`s by name; TensorFlow has no types

_LONGEST = 500  # characters of a reason; gRPC has 8 KB for it, and may write 12 bytes for a character
_LARGE = 2**22  # bytes or pixels; parsing or decoding a large request can take gigabytes
_one_large = threading.RLock()


class Refused(Exception):
    """A refused request: a printable reason, cut because it may quote the request, and a grpc.StatusCode."""

    def __init__(self, reason: str, code: Any = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(reason)
        reason = printable(reason[:_LONGEST])
        self.reason, self.code = reason if len(reason) < _LONGEST else f"{reason[:_LONGEST]}…", code


@contextlib.contextmanager
def large(size: int) -> Iterator[None]:
    """Waits with a large request, of that many bytes or pixels, until no other one is being answered."""
    with _one_large if size > _LARGE else contextlib.nullcontext():
        yield


def pixels(name: str, array: Array) -> int:
    """Returns the number of pixels of all encoded images in an input; 0 for other inputs."""
    return sum(map(image.pixels, array.flat)) if array.dtype == object and name.endswith("_bytes") else 0


@dataclass(frozen=True)
class Signature:
    """A function of named arrays: the specs of its inputs and outputs, and `compute`, which may raise Refused."""

    inputs: Specs
    outputs: Specs
    compute: Callable[[Arrays], Arrays]


def load(folder: Path, closed: threading.Event) -> dict[str, Signature]:
    """Loads the signatures of a SavedModel, by name. Once `closed` is set, they refuse to compute.

    Raises:
        VerificationError: the model could do more than compute.
    """
    if found := operators.beyond(folder):
        raise VerificationError(
            f"{folder} is not run: it could do more than compute: {', '.join(found)}.",
            "Serve models whose origin you trust.",
        )
    model = tf.saved_model.load(str(folder))

    def signature(name: str) -> Signature:
        function = model.signatures[name]
        inputs, outputs = function.structured_input_signature[1], function.structured_outputs

        def compute(arrays: Arrays) -> Arrays:
            if closed.is_set():
                raise Refused("the server has stopped", grpc.StatusCode.UNAVAILABLE)
            takes = {key: tf.constant(arrays[key], spec.dtype) for key, spec in inputs.items()}
            try:  # through `model`, which its signatures do not keep alive
                with large(sum(pixels(key, array) for key, array in arrays.items())):
                    return {key: tensor.numpy() for key, tensor in model.signatures[name](**takes).items()}
            except tf.errors.ResourceExhaustedError as error:
                raise Refused(_reason(error.message), grpc.StatusCode.RESOURCE_EXHAUSTED) from error
            except tf.errors.OpError as error:
                raise Refused(_reason(error.message)) from error

        return Signature(dict(sorted(inputs.items())), dict(sorted(outputs.items())), compute)

    return {name: signature(name) for name in model.signatures}


def _reason(message: str) -> str:
    """Removes the graph location from TensorFlow's message, and keeps the line before the node's name."""
    lines = [line.strip() for line in message.partition("[[")[0].splitlines() if line.strip()]
    return lines[-1] if lines else message

"""Files and measurements that a target wants beside the model: the `extras` of its target.toml, one row each."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kerastune.errors import VerificationError
from kerastune.exporting import microcontroller
from kerastune.progress import Progress
from kerastune.serving import serving
from kerastune.verifying import runtimes
from kerastune.verifying.artifact import Artifact

_WARM_UP_IMAGES = 4

Extra = Callable[[Artifact, Progress], dict[str, Any]]
"""Adds files to an artifact, before its proof; returns further entries of its manifest."""


def _serving_files(of: Artifact, progress: Progress) -> dict[str, Any]:
    """TF Serving's own configuration, and a Compose file."""
    return _write(of, serving.serving_files(of.manifest["name"]))


def _warmup(of: Artifact, progress: Progress) -> dict[str, Any]:
    """Requests that TF Serving warms up with, where its stubs are installed to write them.

    Raises:
        VerificationError: what the model answers to them is not what Keras said.
    """
    model, (examples, reference) = of.folder / of.manifest["model"], of.golden()
    if of.modality == "image" and serving.write_warmup(model, examples[:_WARM_UP_IMAGES]):
        answers = [outputs["scores"][0] for _, outputs in serving.replay_warmup(model)]
        expected = reference[:_WARM_UP_IMAGES].repeat(2, axis=0)  # each image as pixels, and as a file
        error = float(np.abs(np.stack(answers) - expected).max())
        if not error <= of.manifest["tolerance"]["golden_error"]:
            raise VerificationError(
                f"{of.manifest['name']}: the answers to the warm-up requests are {error:.3g} from Keras's."
            )
    return {}


def _c_source(of: Artifact, progress: Progress) -> dict[str, Any]:
    """The model as a C array."""
    model = (of.folder / of.manifest["model"]).read_bytes()
    return _write(of, microcontroller.c_source(of.manifest["name"], model))


def _arena(of: Artifact, progress: Progress) -> dict[str, Any]:
    """The bytes that TensorFlow Lite Micro works in, where it is installed to measure them."""
    micro = runtimes.RUNTIMES["tflm"]
    found = microcontroller.arena_bytes(of) if micro.version else None
    if found:
        progress.say(f"TensorFlow Lite Micro runs it in an arena of {found / 1024:.0f} KiB here")
    else:
        why = "TensorFlow Lite Micro does not run it" if micro.version else micro.install
        progress.say(f"How large an arena it needs was not measured: {why}")
    return {"arena_bytes": found}


def _write(of: Artifact, texts: dict[str, str]) -> dict[str, Any]:
    for name, text in texts.items():
        (of.folder / name).write_text(text, "utf-8")
    return {}


EXTRAS: dict[str, Extra] = {
    "serving-files": _serving_files,
    "warmup": _warmup,
    "c-source": _c_source,
    "arena": _arena,
}

"""Extra files and measurements for targets: one row for each name in the `extras` of a target.toml."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kerastune.data import ragged
from kerastune.errors import VerificationError
from kerastune.exporting import microcontroller
from kerastune.progress import Progress
from kerastune.serving import files
from kerastune.verifying import comparing, runtimes
from kerastune.verifying.artifact import Artifact

_WARM_UP_IMAGES = 4

Extra = Callable[[Artifact, Progress], dict[str, Any]]
"""Adds files to an artifact before verification; returns additional entries for its manifest."""


def _serving_files(of: Artifact, progress: Progress) -> dict[str, Any]:
    """Adds TF Serving's configuration and a Compose file."""
    return _write(of, files.configuration(of.manifest.name))


def _warmup(of: Artifact, progress: Progress) -> dict[str, Any]:
    """Adds TF Serving's warm-up requests, if its stubs are installed: images as pixels and as files.

    Raises:
        VerificationError: the model's answers differ from Keras's.
    """
    if (encode := of.modality.encode) is None:
        return {}
    examples, name = of.golden.examples[:_WARM_UP_IMAGES], of.manifest.inputs[0].name
    requests = [
        one
        for example in examples
        for one in (
            ("serving_default", {name: example[None]}),
            ("serve_bytes", {"image_bytes": np.array([encode(example)])}),
        )
    ]
    answers = files.write_warmup(of.folder / of.manifest.model, requests)
    if answers:
        expected = ragged.take(of.golden.expected, np.arange(len(examples)).repeat(2))
        found = {name: ragged.joined([one[name][0] for one in answers], known) for name, known in expected.items()}
        error = comparing.largest_error(of.learnt, found, expected)
        if not error <= (of.manifest.tolerance.golden_error or 0.0):
            raise VerificationError(
                f"{of.manifest.name}: the answers to the warm-up requests differ from Keras's by {error:.3g}."
            )
    return {}


def _c_source(of: Artifact, progress: Progress) -> dict[str, Any]:
    """Adds the model as a C array."""
    model = (of.folder / of.manifest.model).read_bytes()
    return _write(of, microcontroller.c_source(of.manifest.name, model))


def _arena(of: Artifact, progress: Progress) -> dict[str, Any]:
    """Measures the arena in TensorFlow Lite Micro, if it is installed."""
    micro = runtimes.RUNTIMES["tflm"]
    found = microcontroller.arena_bytes(of) if micro.version else None
    if found:
        progress.say(f"TensorFlow Lite Micro runs it in an arena of {found / 1024:.0f} KiB here")
    else:
        why = "TensorFlow Lite Micro does not run it" if micro.version else micro.install
        progress.say(f"The size of its arena was not measured: {why}")
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

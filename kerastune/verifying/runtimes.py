"""The runtimes that artifacts are verified in. Each runs a reader of export/ in its own process, without Keras."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import assets, child, environment, files
from kerastune.data import ragged
from kerastune.data.ragged import Array
from kerastune.errors import ConverterError, DataError, KerastuneError, VerificationError
from kerastune.modalities import MODALITIES
from kerastune.recipe import target
from kerastune.targets import artifact as reader
from kerastune.targets.browser import reader as browser
from kerastune.verifying.artifact import Artifact
from kerastune.verifying.manifest import Manifest
from kerastune.verifying.verification import Latency

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Runtime:
    """A row of `RUNTIMES`.

    Attributes:
        package: its pip package; "" if installing it takes more than pip.
        reader: the reader in export/ that starts it.
        formats: the formats that it runs.
        modalities: the kinds of example that it takes; empty for all.
        learnt: the kinds of truth that it takes; empty for all.
        too_slow: modalities that it is too slow for, each with the reason.
        fixed_size: whether images must have one size.
        raw: whether it runs the artifact's model of raw texts instead.
        encoded: whether it also takes encoded image files.
        one_signature: formats in which it reads only the first signature.
        no_kernels: quantisations that it cannot compute.
        misreads: "FORMAT of LEARNT" that it computes wrongly although the file is right, each with the reason.
        inputs, outputs: dtypes of the images that it takes and of the outputs that it reads, maps aside; empty for all.
        cells: whether the reader enlarges logits that come in cells to a map.
        kernels_of: the runtime whose kernels it shares, so that both must give the same outputs.
        inexact: quantisations whose sums are exact only on processors with VNNI.
        options: further options of the reader.
        slow: whether it has no optimised kernels, as browsers: it scores `SUBSET` of the validation examples.
        threads: whether the reader takes --threads.
        script: a script in export/ that installs a separate (emulated) Python with the package into kerastune's cache;
            such a runtime is used only when asked for.
        found: finds its version, or None, if it takes more than pip.
        commands: the commands that install it, if it takes more than pip.
    """

    package: str
    reader: str
    formats: tuple[str, ...]
    modalities: tuple[str, ...] = ()
    learnt: tuple[str, ...] = ()
    too_slow: Mapping[str, str] = field(default_factory=dict)
    fixed_size: bool = False
    raw: bool = False
    encoded: bool = False
    one_signature: tuple[str, ...] = ()
    no_kernels: tuple[str, ...] = ()
    misreads: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    cells: bool = True
    kernels_of: str = ""
    inexact: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    slow: bool = False
    threads: bool = True
    script: str = ""
    found: Callable[[], str | None] | None = None
    commands: str = ""

    @property
    def home(self) -> Path:
        """The folder that `script` installs into: the interpreter `python`, and its packages in `site`."""
        return assets.home() / Path(self.script).stem

    @property
    def python(self) -> str:
        """The interpreter that runs the reader."""
        return str(self.home / "python") if self.script else sys.executable

    @property
    def version(self) -> str | None:
        """The installed version; None if it is not installed."""
        if self.found:
            return self.found()
        where = [str(self.home / "site")] if self.script else sys.path
        found = next(iter(distributions(name=self.package, path=where)), None)
        return found.version if found else None

    @property
    def install(self) -> str:
        """The command that installs it."""
        if self.script:
            return f"bash {resources.files('kerastune.targets') / self.script}"
        return self.commands or environment.install(self.package)


def _transformers() -> str | None:
    """The version of transformers, if torch is there to compute with."""
    torch, own = (next(iter(distributions(name=name)), None) for name in ("torch", "transformers"))
    return own.version if torch and own else None


SUBSET = 64

SECONDS = 15 * 60.0
"""Time limit of a runtime for one array, for some windows of a long one, and for its start, in seconds."""

_PLAIN = {
    "conversation": "its reference kernels take seconds per token of a language model",
    "sound": "its reference kernels take seconds per window of an encoder of sounds",
}
_EMULATED = {
    "conversation": "an emulated processor takes minutes per answer",
    "sound": "an emulated processor takes seconds per window of an encoder of sounds",
}

RUNTIMES = {
    "litert": Runtime("ai-edge-litert", "linux/reader.py", ("tflite",)),
    "litert-reference": Runtime(
        "ai-edge-litert", "linux/reader.py", ("tflite",), too_slow=_PLAIN, options=("--kernels", "reference"), slow=True
    ),
    "tflm": Runtime(
        "tflite-micro",
        "microcontroller/reader.py",
        ("tflite",),
        modalities=("image",),
        fixed_size=True,
        no_kernels=("dynamic", "float16", "int4"),
        kernels_of="litert-reference",
        slow=True,
        threads=False,
    ),
    "mediapipe": Runtime(
        "mediapipe",
        "android/reader.py",
        ("tflite",),
        modalities=("image", "sound"),
        learnt=("label", "labels", "groups"),
        fixed_size=True,
        inputs=("float32", "uint8"),
        threads=False,
    ),
    "onnxruntime": Runtime("onnxruntime", "onnxruntime/reader.py", ("onnx",)),
    "openvino": Runtime(
        "openvino",
        "openvino/reader.py",
        ("tflite", "onnx", "saved_model"),
        one_signature=("tflite",),
        outputs=("float32",),  # it does not return the scale of quantised ones
        misreads={"tflite of boxes": "OpenVINO 2026.4 mixes the rows that a TFLite file gathers; ONNX files are right"},
        inexact=("int8",),
    ),
    "arm64": Runtime(
        "ai-edge-litert", "linux/reader.py", ("tflite",), too_slow=_EMULATED, slow=True, script="linux/arm64.sh"
    ),
    "arm64-onnxruntime": Runtime(
        "onnxruntime", "onnxruntime/reader.py", ("onnx",), too_slow=_EMULATED, slow=True, script="linux/arm64.sh"
    ),
    "browser": Runtime(
        "",
        "browser/reader.py",
        ("tflite", "onnx"),
        modalities=("image", "sound"),
        fixed_size=True,
        outputs=("float32",),
        cells=False,
        slow=True,
        threads=False,
        found=browser.installed,
        commands=browser.INSTALL,
    ),
    "transformers": Runtime(
        "transformers",
        "transformers/reader.py",
        ("transformers",),
        found=_transformers,
        commands="pip install transformers torch",
    ),
    "saved-model-text": Runtime(
        "tensorflow-text",
        "tf-serving/saved_model.py",
        ("saved_model",),
        modalities=("text", "conversation"),
        raw=True,
        options=("--raw",),
        threads=False,
    ),
    "saved-model": Runtime("tensorflow", "tf-serving/saved_model.py", ("saved_model",), encoded=True, threads=False),
}


def refusal(name: str, manifest: Manifest) -> str | None:
    """Returns why a runtime cannot run an artifact, installed or not; None if it can."""
    row, format, modality = RUNTIMES[name], manifest.format, MODALITIES[manifest.modality]
    dtypes = {one.dtype for one in manifest.outputs if one.role != "map"}  # whole numbers have no scale
    if row.modalities and modality.name not in row.modalities:
        takes = " or ".join(MODALITIES[one].plural for one in row.modalities)
        return f"it takes {takes}, but this takes {modality.plural}"
    if modality.name in row.too_slow:
        return row.too_slow[modality.name]
    if row.learnt and manifest.learnt not in row.learnt:
        return f"it has no task for what this was trained on: {manifest.learnt}"
    if format not in row.formats:
        return f"it runs {' and '.join(row.formats)}, but this is {format}"
    if row.raw and "raw" not in manifest.reading:
        return "conversations of several turns, and templates that change messages, have no model of raw texts"
    if why := row.misreads.get(f"{format} of {manifest.learnt}"):
        return why
    if row.fixed_size and any(None in one.shape[1:] for one in manifest.inputs):
        places = [one for one in target.names() if target.load(one).images == "fixed"]
        return f"it needs images of one size, as targets {', '.join(places[:-1])} and {places[-1]} have"
    if manifest.quantize in row.no_kernels:
        return f'it has no kernels for quantize = "{manifest.quantize}"'
    if row.inputs and (dtype := manifest.inputs[0].dtype) not in row.inputs:
        return f"it takes {' or '.join(row.inputs)} {modality.plural}, not {dtype}"
    if format in row.one_signature and len(signatures := manifest.signatures) > 1:
        return f"it reads one signature of a file, but this has {' and '.join(signatures)}"
    if row.outputs and (foreign := sorted(dtypes - set(row.outputs))):
        return f"it reads {' or '.join(row.outputs)} outputs, but this gives {' and '.join(foreign)}"
    if not row.cells and any(one.role == "cells" for one in manifest.outputs):
        return "its reader makes no map of logits in cells, which another target's file holds"
    return None


def inexact(name: str, quantize: str) -> str | None:
    """Returns why a runtime's sums are inexact on this processor for any file; None if they are exact.

    OpenVINO calls it the saturation issue: without VNNI, pairs of 8-bit products are added in 16 bits.
    """
    if quantize in RUNTIMES[name].inexact and not _has_vnni():
        return f"without VNNI, which this processor lacks, {name}'s {quantize} sums overflow"
    return None


def _has_vnni() -> bool:
    """Returns whether an x86 processor adds 8-bit products in 32 bits; true if unknown, and on other processors."""
    flags = environment.cpu_flags()
    return flags is None or not flags.isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8"})


def choose(manifest: Manifest, asked: Iterable[str] = ()) -> list[str]:
    """Chooses the runtimes to verify an artifact in: the requested ones, or its own and all others installed.

    Raises:
        KerastuneError: a requested runtime is unknown, not installed, or cannot run it.
    """
    problems = []
    for name in (names := list(asked)):
        if name not in RUNTIMES:
            problems.append(f"there is no runtime {name!r}; the runtimes are {', '.join(RUNTIMES)}")
        elif why := refusal(name, manifest):
            problems.append(f"{name}: {why}")
        elif not RUNTIMES[name].version:
            problems.append(f"{name} is not installed: {RUNTIMES[name].install}")
    if problems:
        raise KerastuneError(f"{manifest.name} cannot be verified as requested: {'; '.join(problems)}.")
    if (own := manifest.runtime) not in RUNTIMES:
        raise VerificationError(f"manifest.json of {manifest.name} is damaged: there is no runtime {own!r}.")
    here = [name for name, row in RUNTIMES.items() if row.version and not row.script and not refusal(name, manifest)]
    return names or [own, *(name for name in here if name != own)]


@dataclass(frozen=True)
class Answer:
    """A reader's outputs by name, one row per example; seconds for each array; load time and memory.

    `peak_mb` is None if the system does not report it.
    """

    outputs: dict[str, Array]
    seconds: Seconds
    load_ms: float
    peak_mb: float | None


def latency_ms(seconds: Seconds) -> Latency:
    """Returns the milliseconds per array."""
    return Latency(float(np.median(seconds) * 1e3), float(np.quantile(seconds, 0.95) * 1e3))


def ask(of: Artifact, name: str, arrays: Iterable[npt.NDArray[Any]], options: Iterable[str] = ()) -> Answer:
    """Runs an artifact on arrays, in order.

    Args:
        arrays: uint8 images [H, W, 3], batches [B, H, W, 3], or encoded files [n]; texts, str [1 or 2] or batches.
        options: options of the reader, after the runtime's own.

    Raises:
        DataError: the model cannot take an array.
        VerificationError: the model could do more than compute, or a file has changed.
        ConverterError: the runtime crashed, rejected the file, is not installed, took more than `SECONDS` for an array,
            or was about to exhaust the memory.
    """
    runtime = RUNTIMES[name]
    # Runs the reader that ships with kerastune, never the artifact's copy: that code is untrusted.
    with resources.as_file(resources.files("kerastune.targets")) as targets, files.scratch() as scratch:
        out = scratch / "out.npz"
        command = [runtime.python, str(targets / runtime.reader), str(of.folder), *runtime.options, *options]
        with (scratch / "stderr").open("w+b") as stderr, ThreadPoolExecutor(1) as pool:
            theirs, ours = os.pipe()
            with open(ours, "wb") as asked:
                forks = runtime.package.startswith("tensorflow")
                with open(theirs, "rb"):  # closed at once, so that writing to a dead reader fails
                    process = child.start(
                        [*command, "--stream", str(out)],
                        stderr,
                        stdin=theirs,
                        folder=str(scratch),
                        forks=forks,
                        temporary=str(scratch),
                    )
                watched = pool.submit(_watch, process, out)
                try:
                    for array in arrays:
                        asked.write(_message(array))
                except BrokenPipeError:
                    pass  # the reader has died; see its exit code and output below
                finally:
                    with contextlib.suppress(BrokenPipeError):
                        asked.close()
                    stopped, code = watched.result(), process.wait()
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
        if stopped:
            raise ConverterError(f"{name}, running {of.manifest.name}, {stopped}.")
        if code == reader.REFUSED:
            words = child.last_lines(said, 1)
            raise DataError(f"{words[:1].upper()}{words[1:]}.")
        if code == reader.FAILED:
            words = child.last_lines(said, 1).removeprefix("FAILED: ")
            raise VerificationError(f"{of.folder} is not run: {words}.", "Use artifacts whose origin you trust.")
        if code or not out.is_file():
            raise ConverterError(
                f"{name} could not run {of.manifest.name} ({child.exit_reason(code)}): {child.last_lines(said)}",
                runtime.install if "ModuleNotFoundError" in said else None,
            )
        with np.load(out, allow_pickle=False) as found:
            # TensorFlow itself imports `keras` without using it; KerasHub would mean that the model was rebuilt.
            if {"keras_hub", "kerastune"} & set(found["modules"].tolist()):
                raise ConverterError("The reader imported KerasHub or kerastune, so its answer proves nothing.")
            peak_mb = float(found["peak_mb"])
            return Answer(
                ragged.unpacked(found, "outputs/"),
                found["seconds"],
                float(found["load_seconds"] * 1e3),
                peak_mb if np.isfinite(peak_mb) else None,
            )


def _watch(reader: child.Child, out: Path) -> str | None:
    """Waits for a reader, which touches `out` after each array. Returns why it was ended, or None."""
    stopped, _ = child.watch(reader, SECONDS, lambda: out.stat().st_mtime_ns if out.exists() else None)
    child.end(reader)
    return stopped


def _message(array: npt.NDArray[Any]) -> bytes:
    """Encodes an array for `--stream`: its length in 8 bytes, then the array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(buffer.getvalue()).to_bytes(8, "little") + buffer.getvalue()

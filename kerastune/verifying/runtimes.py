"""The runtimes an artifact is proved in. Each is a reader of export/ in a process of its own, without Keras."""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import distributions
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import assets, child
from kerastune.errors import ConverterError, KerastuneError
from kerastune.recipe import target
from kerastune.targets.browser import reader as browser
from kerastune.verifying import artifact
from kerastune.verifying.artifact import Artifact, Scores


@dataclass(frozen=True)
class Runtime:
    """A row of `RUNTIMES`.

    Attributes:
        package: the pip package that has it; "" where it takes more than pip.
        reader: the reader in export/ that starts it.
        formats: what it runs.
        modalities: what it takes examples of; of every kind, where there are none.
        too_slow: modalities that it takes too long for, and how long.
        fixed_size: whether images must have one size.
        raw: whether it runs the artifact's model of raw texts instead.
        encoded: whether it takes image files, too.
        one_signature: formats of which it reads the first signature only.
        no_kernels: quantisations that it does not compute.
        inputs, outputs: dtypes of images that it takes, and of outputs that it gives; any, where there are none.
        kernels_of: the runtime whose kernels it has, so that both give the same.
        inexact: quantisations whose sums are exact only on processors with VNNI.
        options: of the reader.
        slow: an interpreter without optimised kernels, or a browser: it scores `SUBSET` of the validation images, not
            all.
        threads: whether the reader takes --threads.
        script: in export/: puts a Python of its own, with the package, into a folder of its name in kerastune's cache.
            It proves something about another machine, and runs only where it is asked for.
        found: where pip does not install it, what finds its version: None where there is none.
        commands: installs it, where pip alone does not.
    """

    package: str
    reader: str
    formats: tuple[str, ...]
    modalities: tuple[str, ...] = ()
    too_slow: Mapping[str, str] = field(default_factory=dict)
    fixed_size: bool = False
    raw: bool = False
    encoded: bool = False
    one_signature: tuple[str, ...] = ()
    no_kernels: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
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
        """Where `script` puts its Python, `python`, and that one's packages, `site`."""
        return assets.home() / Path(self.script).stem

    @property
    def python(self) -> str:
        """The interpreter that runs the reader."""
        return str(self.home / "python") if self.script else sys.executable

    @property
    def version(self) -> str | None:
        """Of what is installed; None where nothing is."""
        if self.found:
            return self.found()
        where = [str(self.home / "site")] if self.script else sys.path
        found = next(iter(distributions(name=self.package, path=where)), None)
        return found.version if found else None

    @property
    def install(self) -> str:
        """The command that installs it."""
        if self.script:
            return f"bash {files('kerastune.targets') / self.script}"
        return self.commands or f"pip install {self.package}"


def _transformers() -> str | None:
    """Its version, where it has torch to compute with."""
    torch, own = (next(iter(distributions(name=name)), None) for name in ("torch", "transformers"))
    return own.version if torch and own else None


SUBSET = 64

SECONDS = 15 * 60.0
"""How long a runtime may take for one array, or to start."""

_PLAIN = {"conversation": "its plain kernels take seconds for a token of a language model"}
_EMULATED = {"conversation": "an emulated processor takes minutes for an answer"}

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
        commands="pip install --pre tflite-micro",  # it has pre-releases only
    ),
    "mediapipe": Runtime(
        "mediapipe",
        "android/reader.py",
        ("tflite",),
        modalities=("image",),
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
        outputs=("float32",),  # it does not say what the steps of quantised ones are
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
        modalities=("image",),
        fixed_size=True,
        outputs=("float32",),
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


def refusal(name: str, manifest: dict[str, Any]) -> str | None:
    """Why a runtime cannot run an artifact, whatever is installed; None where it can."""
    row, format, modality = RUNTIMES[name], manifest["format"], artifact.modality(manifest)
    shown, dtypes = f"{modality}s", {one["dtype"] for one in manifest["outputs"]}
    if row.modalities and modality not in row.modalities:
        return f"it takes {' or '.join(f'{one}s' for one in row.modalities)}, and this takes {shown}"
    if modality in row.too_slow:
        return row.too_slow[modality]
    if format not in row.formats:
        return f"it runs {' and '.join(row.formats)}, and this is {format}"
    if row.raw and "raw" not in manifest["text"]:
        return "conversations of several turns, and templates that change what is said, have no model of raw texts"
    if row.fixed_size and manifest["image"]["resize"] != "outside":
        places = [one for one in target.names() if target.load(one).images == "fixed"]
        return f"it needs images of one size; targets {', '.join(places[:-1])} and {places[-1]} have that"
    if manifest["quantize"] in row.no_kernels:
        return f'it has no kernels for quantize = "{manifest["quantize"]}"'
    if row.inputs and (dtype := manifest["inputs"][0]["dtype"]) not in row.inputs:
        return f"it takes {' or '.join(row.inputs)} {shown}, not {dtype}"
    if format in row.one_signature and len(signatures := manifest["signatures"]) > 1:
        return f"it reads one signature of a file, and this has {' and '.join(signatures)}"
    if row.outputs and (foreign := sorted(dtypes - set(row.outputs))):
        return f"it reads {' or '.join(row.outputs)} outputs, and this gives {' and '.join(foreign)}"
    return None


def inexact(name: str, quantize: str) -> str | None:
    """Why a runtime's sums are not exact on this processor, whatever file it runs; None where they are.

    OpenVINO calls it the saturation issue: without VNNI, pairs of 8-bit products are added in 16 bits.
    """
    if quantize in RUNTIMES[name].inexact and not _has_vnni():
        return f"without VNNI, which this processor lacks, {name}'s {quantize} sums overflow"
    return None


def _has_vnni() -> bool:
    """Whether an x86 processor adds 8-bit products in 32 bits; true where that is not known, as on other processors."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", cpu.read_text(errors="replace"), re.MULTILINE) if cpu.exists() else None
    return not found or bool(re.search(r"avx512_vnni|avx_vnni|amx_int8", found[1]))


def choose(manifest: dict[str, Any], asked: Iterable[str] = ()) -> list[str]:
    """The runtimes to prove an artifact in: those asked for, or its own and every other that is installed here.

    Raises:
        KerastuneError: one that was asked for is unknown, not installed, or cannot run it.
    """
    problems = []
    for name in (names := list(asked)):
        if name not in RUNTIMES:
            problems.append(f"there is no runtime {name!r}; there are {', '.join(RUNTIMES)}")
        elif why := refusal(name, manifest):
            problems.append(f"{name}: {why}")
        elif not RUNTIMES[name].version:
            problems.append(f"{name} is not installed: {RUNTIMES[name].install}")
    if problems:
        raise KerastuneError(f"{manifest['name']} cannot be verified as asked: {'; '.join(problems)}.")
    own = manifest["runtime"]
    here = [name for name, row in RUNTIMES.items() if row.version and not row.script and not refusal(name, manifest)]
    return names or [own, *(name for name in here if name != own)]


@dataclass(frozen=True)
class Answer:
    """What a reader said: scores float32 [n, num_classes], seconds an array, and what it cost to be there.

    `peak_mb` is None where the system does not say.
    """

    scores: Scores
    seconds: npt.NDArray[np.float64]
    load_ms: float
    peak_mb: float | None


def latency_ms(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    """Milliseconds that one array took: the median, and the 95th percentile."""
    return {"median": float(np.median(seconds) * 1e3), "p95": float(np.quantile(seconds, 0.95) * 1e3)}


def ask(of: Artifact, name: str, arrays: Iterable[npt.NDArray[Any]], options: Iterable[str] = ()) -> Answer:
    """What a runtime says about each array, in order.

    Args:
        arrays: uint8 images [H, W, 3], batches [B, H, W, 3], or encoded files [n]; texts, str [1 or 2] or batches.
        options: of the reader, added to the runtime's own.

    Raises:
        ConverterError: the runtime crashed, refused the file, is not installed, took more than `SECONDS` for an array,
            or was about to use up the memory.
    """
    runtime = RUNTIMES[name]
    # The reader that ships with kerastune, never the copy in the artifact: a foreign folder's code is not run.
    with as_file(files("kerastune.targets")) as targets, tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        out = Path(scratch) / "out.npz"
        command = [runtime.python, str(targets / runtime.reader), str(of.folder), *runtime.options, *options]
        with (Path(scratch) / "stderr").open("w+b") as stderr, ThreadPoolExecutor(1) as pool:
            theirs, ours = os.pipe()
            with open(ours, "wb") as asked:
                forks = runtime.package.startswith("tensorflow")
                with open(theirs, "rb"):  # closed at once: who writes to a dead reader must be told
                    reader = child.start(
                        [*command, "--stream", str(out)], stderr, stdin=theirs, folder=scratch, forks=forks
                    )
                watched = pool.submit(_watch, reader, out)
                try:
                    for array in arrays:
                        asked.write(_message(array))
                except BrokenPipeError:
                    pass  # the reader has died; its exit code and words are below
                finally:
                    with contextlib.suppress(BrokenPipeError):
                        asked.close()
                    stopped, code = watched.result(), reader.wait()
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
        if stopped:
            raise ConverterError(f"{name}, asked about {of.manifest['name']}, {stopped}.")
        if code or not out.is_file():
            raise ConverterError(
                f"{name} could not run {of.manifest['name']} ({child.exit_reason(code)}): {child.last_lines(said)}",
                runtime.install if "ModuleNotFoundError" in said else None,
            )
        with np.load(out, allow_pickle=False) as found:
            # TensorFlow itself imports `keras`, without using it; KerasHub would mean that the model was rebuilt.
            if {"keras_hub", "kerastune"} & set(found["modules"].tolist()):
                raise ConverterError("The reader imported KerasHub or kerastune, so its answer proves nothing.")
            peak_mb = float(found["peak_mb"])
            return Answer(
                found["scores"],
                found["seconds"],
                float(found["load_seconds"] * 1e3),
                peak_mb if np.isfinite(peak_mb) else None,
            )


def _watch(reader: child.Child, out: Path) -> str | None:
    """Waits for a reader, and ends it where it must be ended: why, or None. It touches `out` after each array."""
    stopped, _ = child.watch(reader, SECONDS, lambda: out.stat().st_mtime_ns if out.exists() else None)
    child.end(reader)
    return stopped


def _message(array: npt.NDArray[Any]) -> bytes:
    """Its length in 8 bytes, then the array as .npy: what `--stream` reads."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(buffer.getvalue()).to_bytes(8, "little") + buffer.getvalue()

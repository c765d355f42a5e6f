"""The runtimes an artifact is proved in. Each is a reader of export/ in a process of its own, without Keras."""

import contextlib
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import assets
from kerastune.child import exit_reason, last_lines
from kerastune.errors import ConverterError, KerastuneError
from kerastune.targets.browser import reader as browser
from kerastune.verifying.artifact import Artifact, Scores


@dataclass(frozen=True)
class Runtime:
    """A row of `RUNTIMES`.

    Attributes:
        package: the pip package that has it; "" where it takes more than pip.
        reader: the reader in export/ that starts it.
        formats: what it runs.
        options: of the reader.
        slow: an interpreter without optimised kernels, or a browser: it scores `SUBSET` of the validation images, not
            all.
        threads: whether the reader takes --threads.
        script: in export/: puts a Python of its own, with the package, into a folder of its name in kerastune's cache.
            It proves something about another machine, and runs only where it is asked for.
        found: where pip does not install it, what finds its version: None where there is none.
        commands: where pip does not install it, what does.
    """

    package: str
    reader: str
    formats: tuple[str, ...]
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
        """The command that installs it. TensorFlow Lite Micro has pre-releases only."""
        if self.script:
            return f"bash {files('kerastune.targets') / self.script}"
        return self.commands or f"pip install {'--pre ' if self.package == 'tflite-micro' else ''}{self.package}"


def _transformers() -> str | None:
    """Its version, where it has torch to compute with."""
    torch, own = (next(iter(distributions(name=name)), None) for name in ("torch", "transformers"))
    return own.version if torch and own else None


SUBSET = 64

RUNTIMES = {
    "litert": Runtime("ai-edge-litert", "linux/reader.py", ("tflite",)),
    "litert-reference": Runtime(
        "ai-edge-litert", "linux/reader.py", ("tflite",), ("--kernels", "reference"), slow=True
    ),
    "tflm": Runtime("tflite-micro", "microcontroller/reader.py", ("tflite",), slow=True, threads=False),
    "mediapipe": Runtime("mediapipe", "android/reader.py", ("tflite",), threads=False),
    "onnxruntime": Runtime("onnxruntime", "onnxruntime/reader.py", ("onnx",)),
    "openvino": Runtime("openvino", "openvino/reader.py", ("tflite", "onnx", "saved_model")),
    "arm64": Runtime("ai-edge-litert", "linux/reader.py", ("tflite",), slow=True, script="linux/arm64.sh"),
    "arm64-onnxruntime": Runtime("onnxruntime", "onnxruntime/reader.py", ("onnx",), slow=True, script="linux/arm64.sh"),
    "browser": Runtime(
        "",
        "browser/reader.py",
        ("tflite", "onnx"),
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
        "tensorflow-text", "tf-serving/saved_model.py", ("saved_model",), ("--raw",), threads=False
    ),
    "saved-model": Runtime("tensorflow", "tf-serving/saved_model.py", ("saved_model",), threads=False),
}


_NO_CHATS = {
    "litert-reference": "its plain kernels take seconds for a token of a language model",
    "arm64": "an emulated processor takes minutes for an answer",
    "arm64-onnxruntime": "an emulated processor takes minutes for an answer",
}


def refusal(name: str, manifest: dict[str, Any]) -> str | None:
    """Why a runtime cannot run an artifact, whatever is installed; None where it can."""
    runtime, fixed = RUNTIMES[name], "image" in manifest and manifest["image"]["resize"] == "outside"
    if (name == "saved-model-text") > ("text" in manifest):
        return "it takes raw texts, and this takes images"
    if name in ("tflm", "mediapipe", "browser") and "text" in manifest:
        return "it takes images, and this takes texts"
    if name in _NO_CHATS and "chat" in manifest:
        return _NO_CHATS[name]
    if manifest["format"] not in runtime.formats:
        return f"it runs {' and '.join(runtime.formats)}, and this is {manifest['format']}"
    if name == "saved-model-text" and "raw" not in manifest["text"]:
        return "conversations of several turns, and templates that change what is said, have no model of raw texts"
    if name in ("tflm", "mediapipe", "browser") and not fixed:
        return "it needs images of one size; targets android, browser and microcontroller have that"
    if name == "tflm" and manifest["quantize"] in ("dynamic", "float16", "int4"):
        return f'it has no kernels for quantize = "{manifest["quantize"]}"'
    if name == "mediapipe" and manifest["inputs"][0]["dtype"] == "int8":
        return "it takes float32 or uint8 images, not int8"
    if name == "openvino" and "chat" in manifest and manifest["format"] == "tflite":
        return "it reads one signature of a .tflite file, and a language model has two"
    if name == "openvino" and manifest["outputs"][0]["dtype"] != "float32":
        return "it does not say what the steps of quantised scores are"
    if name == "browser" and manifest["outputs"][0]["dtype"] != "float32":
        return f"its page reads float32 scores, not {manifest['outputs'][0]['dtype']}; target browser has those"
    return None


def inexact(name: str, quantize: str) -> str | None:
    """Why a runtime's int8 sums are not exact on this processor, whatever file it runs; None where they are.

    OpenVINO calls it the saturation issue: without VNNI, pairs of 8-bit products are added in 16 bits.
    """
    if name == "openvino" and quantize == "int8" and not _has_vnni():
        return "without VNNI, which this processor lacks, OpenVINO's int8 sums overflow"
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
        ConverterError: the runtime crashed, refused the file or is not installed.
    """
    runtime = RUNTIMES[name]
    # The reader that ships with kerastune, never the copy in the artifact: a foreign folder's code is not run.
    with as_file(files("kerastune.targets")) as targets, tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        out = Path(scratch) / "out.npz"
        command = [runtime.python, str(targets / runtime.reader), str(of.folder), *runtime.options, *options]
        with (Path(scratch) / "stderr").open("w+b") as stderr:
            child = subprocess.Popen(
                [*command, "--stream", str(out)], stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, cwd=scratch
            )
            assert child.stdin
            try:
                for array in arrays:
                    child.stdin.write(_message(array))
            except BrokenPipeError:
                pass  # the child has died; its exit code and words are below
            finally:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
                code = child.wait()
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
        if code or not out.is_file():
            raise ConverterError(
                f"{name} could not run {of.manifest['name']} ({exit_reason(code)}): {last_lines(said)}",
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


def _message(array: npt.NDArray[Any]) -> bytes:
    """Its length in 8 bytes, then the array as .npy: what `--stream` reads."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(buffer.getvalue()).to_bytes(8, "little") + buffer.getvalue()

"""One row of docs/export-matrix.md: a family through kerastune's own tracing, formats and quantisations, and back.

WORK/examples.npz, WORK/expected.npz    "000/token_ids", batch included; and what Keras itself says about them
WORK/calibration.npz                    as `kerastune.formats.conversion.Conversion` wants it
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kerastune import child
from kerastune.errors import ConverterError
from kerastune.formats import FORMATS

HERE = Path(__file__).parent

TOLERANCE = 1e-4
"""Of float32, relative to the largest output where that is above 1."""

QUANTIZED = {"tflite": ("dynamic", "float16", "int8", "int16x8", "int4"), "onnx": ("dynamic", "int8")}
RUNTIMES = {"saved_model": "tensorflow", "tflite": "litert", "onnx": "onnxruntime"}

# What a signature takes, by the numbers of the examples: single ones, a batch of them, and a shorter one.
EXAMPLES = {
    "one": ("000", "001", "002"),
    "batch": ("000", "001", "002", "003"),
    "length": ("000", "001", "002", "004"),
    "any": ("000", "001", "002", "003", "004"),
}
Job = tuple[str, str, str]
"""A format, a quantisation, and a signature of `EXAMPLES`."""

Cell = dict[str, Any]
"""error: of the outputs, None where there are none; bytes: the size of the file; why: what went wrong."""


def measure(family: Any) -> dict[str, Any]:
    """Traces, converts and replays a family, in processes of their own: {"family", "cells": name -> Cell}."""
    with tempfile.TemporaryDirectory(prefix="kerastune-matrix-") as scratch:
        work, widest = Path(scratch), "any" if family.free else "batch"
        narrower = ("batch", "length") if family.free else ()
        tracing = [str(HERE / "trace_family.py"), family.name, scratch]
        child.run("Tracing", [*tracing, "serving", "one", widest])
        jobs = [("saved_model", "none", widest), ("tflite", "none", widest)]
        jobs += [("tflite", quantize, "one") for quantize in ("none", *QUANTIZED["tflite"])]
        jobs += [("onnx", quantize, widest) for quantize in ("none", *QUANTIZED["onnx"])]
        found = attempt(work, jobs)
        if narrower and not all(passed(found[format, "none", widest]) for format in ("tflite", "onnx")):
            child.run("Tracing", [*tracing, *narrower])
        if not passed(found["tflite", "none", widest]):
            found |= attempt(work, [("tflite", "none", signature) for signature in narrower])
        onnx = widest
        if not passed(found["onnx", "none", widest]):
            found |= attempt(work, [("onnx", "none", signature) for signature in (*narrower, "one")])
            onnx = "batch" if passed(found["onnx", "none", "batch"]) else "one"
            found |= attempt(work, [("onnx", quantize, onnx) for quantize in QUANTIZED["onnx"]])
        cells = {"saved_model none": found["saved_model", "none", widest]}
        cells |= {f"tflite {quantize}": found["tflite", quantize, "one"] for quantize in ("none", *QUANTIZED["tflite"])}
        cells |= {f"onnx {quantize}": found["onnx", quantize, onnx] for quantize in ("none", *QUANTIZED["onnx"])}
        model = path_of(work, ("onnx", "none", onnx))
        cells["openvino none"] = replay(work, model, "openvino", onnx) if model.is_file() else cells["onnx none"]
        for format in ("tflite", "onnx"):
            for axis in narrower or ("batch",):
                cells[f"{format} {axis}"] = found.get((format, "none", axis)) or found[format, "none", widest]
        return {"family": family.name, "cells": cells}


def passed(cell: Cell) -> bool:
    return cell["error"] is not None and cell["error"] <= TOLERANCE


def attempt(work: Path, jobs: list[Job]) -> dict[Job, Cell]:
    """Converts as `kerastune export` does, and replays. After a crash, a new process goes on with the next."""
    left = jobs
    while left:
        said = "it stopped"
        try:
            child.run("The converter", [str(HERE / "convert.py"), str(work), *map("/".join, left)])
        except ConverterError as problem:
            said = problem.message
        left = [job for job in left if not why_not(work, job).is_file()]
        if left:
            why_not(work, left[0]).write_text(said, "utf-8")
            left = left[1:]
    return {job: _judged(work, job) for job in jobs}


def _judged(work: Path, job: Job) -> Cell:
    (format, _, signature), path = job, path_of(work, job)
    if why := why_not(work, job).read_text("utf-8"):
        return {"error": None, "bytes": None, "why": why}
    cell = replay(work, path, RUNTIMES[format], signature)
    if cell["why"] is None:
        problems, takes = FORMATS[format].converter.inspect(path)
        if sorted(takes) != sorted(json.loads((work / f"{signature}.dtypes.json").read_text("utf-8"))):
            problems.append(f"it takes {', '.join(takes)}")
        if problems:
            return {**cell, "error": None, "why": "; ".join(problems)}
    return cell


def path_of(work: Path, job: Job) -> Path:
    """Returns the model's path, in a folder of its own as an artifact has it."""
    return work / "-".join(job) / FORMATS[job[0]].model


def why_not(work: Path, job: Job) -> Path:
    """Returns the path of what went wrong."""
    return work / f"{'-'.join(job)}.why"


def replay(work: Path, path: Path, runtime: str, signature: str) -> Cell:
    """What a runtime without Keras makes of a file."""
    found, size = work / "found.npz", _size(path)
    found.unlink(missing_ok=True)
    script, examples = str(HERE / "replay.py"), str(work / "examples.npz")
    try:
        child.run(runtime, [script, runtime, str(path), examples, str(found), *EXAMPLES[signature]])
        return {"error": largest_error(work / "expected.npz", found, EXAMPLES[signature]), "bytes": size, "why": None}
    except (ConverterError, ValueError) as problem:
        return {"error": None, "bytes": size, "why": str(problem)}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def largest_error(expected: Path, found: Path, numbers: tuple[str, ...]) -> float:
    """Of any output, relative to the largest value of that output where it is above 1.

    Raises:
        ValueError: an output is missing, or is NaN.
    """
    errors = []
    with np.load(expected, allow_pickle=False) as theirs, np.load(found, allow_pickle=False) as ours:
        for key in theirs.files:
            if key.partition("/")[0] in numbers:
                if key not in ours.files or not np.isfinite(ours[key]).all():
                    raise ValueError(f"{key} is {'NaN or infinite' if key in ours.files else 'missing'}")
                errors.append(np.abs(ours[key] - theirs[key]).max() / max(1, np.abs(theirs[key]).max()))
    return float(max(errors))

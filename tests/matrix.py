"""Measures every family in every format, and writes docs/export-matrix.md: make matrix.

Rows are kept in build/matrix as they are made, so that an interrupted run goes on where it was. The exit code is 1
where a family does something else than `kerastune.formats.support` says.
"""

import argparse
import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import families
import measure
import numpy as np
import psutil

from kerastune.formats import support

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "matrix"
PAGE = ROOT / "docs" / "export-matrix.md"
PACKAGES = ("tensorflow", "keras", "keras-hub", "tf2onnx", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer")
PACKAGES += ("openvino", "numpy")

FLOAT = {
    "SavedModel": "saved_model none",
    "TFLite": "tflite none",
    "ONNX": "onnx none",
    "OpenVINO": "openvino none",
    "TFLite batch": "tflite batch",
    "TFLite length": "tflite length",
    "ONNX batch": "onnx batch",
    "ONNX length": "onnx length",
}
QUANTIZED = {
    f"{title} {quantize}": f"{format} {quantize}"
    for format, title in (("tflite", "TFLite"), ("onnx", "ONNX"))
    for quantize in measure.QUANTIZED[format]
}
"""Columns: title -> key of the cell, which is a format and a quantisation or an open axis."""

AXES = ("batch", "length")
_GROUPED = "does not support grouped convolutions"  # what TensorFlow says of MobileNetV5 without oneDNN


def row(family: families.Family) -> dict[str, Any]:
    """The family's measurement; the kept one if it was made by this code with these packages."""
    path, made_by = KEPT / f"{family.name}.json", _fingerprint()
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if kept["made_by"] == made_by:
            return kept
    started = time.monotonic()
    measured = {**measure.measure(family), "made_by": made_by}
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=1), "utf-8")
    print(f"{family.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return measured


def _fingerprint() -> str:
    sources = [*sorted((ROOT / "kerastune" / "formats").glob("*.py")), ROOT / "kerastune" / "exporting" / "trace.py"]
    sources += [measure.HERE / f"{name}.py" for name in ("families", "tiny", "trace_family", "convert", "replay")]
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    code = b"".join(path.read_bytes() for path in [*sources, Path(measure.__file__)])
    return hashlib.sha256(code + str(versions).encode()).hexdigest()


def problems(row: dict[str, Any]) -> Iterator[str]:
    """Where a row is not what `formats.support` says: what it does not refuse must work, and the rest must not."""
    for key, cell in row["cells"].items():
        what = key.split()[1]
        refused, error = refusal(row["family"], key), cell["error"]
        if what in AXES or (key == "openvino none" and error is None):
            continue  # kerastune promises neither open axes, nor that another runtime reads a file
        if row["family"] == "MobileNetV5 classifier" and key == "saved_model none" and _GROUPED in (cell["why"] or ""):
            continue  # of this processor, as the page says
        limit = measure.TOLERANCE if what == "none" else np.inf
        if not refused and (error is None or error > limit):
            yield f"{row['family']}, {key} fails: {cell['why'] or error}"
        # What runs may be refused for what it says.
        if refused and error is not None and error < support.INACCURATE:
            yield f"{row['family']}, {key} is refused, and is off by {error:.2g} only"


def refusal(family: str, key: str) -> str | None:
    """Why kerastune refuses a format and quantisation, by `families.Family.name` and the key of the cell."""
    format, what = key.replace("openvino", "onnx").split()
    return support.refusal(family.split()[0], format, "none" if what in AXES else what)


# --- the page ----------------------------------------------------------------------------------------------


def page(rows: list[dict[str, Any]]) -> str:
    """docs/export-matrix.md."""
    notes: list[str] = []
    counted = {title: sum(measure.passed(r["cells"][FLOAT[title]]) for r in rows) for title in list(FLOAT)[:4]}
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"""# Export matrix: model families and formats

Written by `make matrix` on {date.today()}, with Python {platform.python_version()} on {psutil.cpu_count()} CPU cores:
{versions}.

Each row is a tiny random model (`tests/families.py`), exported by kerastune's own tracing, converters and quantisers,
and run in a process without KerasHub. A cell shows the largest difference of any output from
`model(x, training=False)`, relative to the output's largest value if that is above 1, and the size of the file.

Within {measure.TOLERANCE:g} in float32: {", ".join(f"{title} {n} of {len(rows)}" for title, n in counted.items())}.
`kerastune.formats.support` refuses before training what fails here; `make matrix` fails if the two differ. Some refused
combinations run but give wrong outputs: a number with a note.
MobileNetV5's SavedModel runs where TensorFlow uses oneDNN: by default on processors with AVX512-VNNI, AMX and the like,
elsewhere with TF_ENABLE_ONEDNN_OPTS=1. Without it, TensorFlow has no fused grouped convolutions, and `verify` fails.

## float32

TFLite files have builtin operators only and take one example of one size. OpenVINO runs the ONNX file in float32.
"batch" and "length" (of text or sound, or the size of images) show whether a file can leave that dimension open; "–"
means that the family's inputs have one size.

{_table(rows, FLOAT, notes)}

## Quantised

Weights are random, so an error shows whether a mode works, not what it costs. `kerastune export` measures the accuracy
of a trained model. DFine's errors are meaningless: rounding changes the order of its queries.

{_table(rows, QUANTIZED, notes)}

## Why not

{chr(10).join(f"{number}. {note}" for number, note in enumerate(notes, 1))}
"""


def _table(rows: list[dict[str, Any]], columns: dict[str, str], notes: list[str]) -> str:
    lines = [["family", *columns], ["---"] * (len(columns) + 1)]
    lines += [[r["family"], *(_cell(r, key, notes) for key in columns.values())] for r in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: dict[str, Any], key: str, notes: list[str]) -> str:
    cell, what = row["cells"].get(key), key.split()[1]
    if cell is None:
        return "–"
    note, works = "", cell["error"] is not None
    why = (refusal(row["family"], key) or "").partition(": ")[2]
    if why or not works:
        why = why or _in_short(cell["why"])
        if why not in notes:
            notes.append(why)
        note = f" [{notes.index(why) + 1}]"
    if not works:
        return f"✗{note}"
    return "yes" if what in AXES else f"{cell['error']:.0e} · {_size(cell['bytes'])}{note}"


def _in_short(why: str) -> str:
    if operators := sorted(set(re.findall(r"'(tf\.\w+)' op", why))):
        return f"left open, it needs {', '.join(operators)}, which LiteRT's builtins lack"
    return " ".join(why.split())[:200].replace("|", "/")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="families at a time")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(row, families.FAMILIES))
    wrong = [problem for one in rows for problem in problems(one)]
    PAGE.write_text(page(rows), "utf-8")
    print("\n".join(wrong) or f"{len(rows)} families are as kerastune.formats.support says: {PAGE}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

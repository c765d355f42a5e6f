"""Replays an artifact in the runtime it is for, without Keras, and compares with what Keras said.

Two proofs: the golden images inside the artifact, and the run's whole validation split, scored image by image.
Both run in the target's own reader, in a child process that imports neither kerastune nor Keras.
"""

import contextlib
import io
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from kerastune import artifact, run
from kerastune.artifact import Artifact, Image, Scores
from kerastune.data import Split
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.progress import Progress
from kerastune.run import Run

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a probability between float32 artifacts and Keras."""

# A reference that hardly varies agrees with anything.
_LEAST_SPREAD = 10 * FLOAT_TOLERANCE


def verify(
    of: Artifact | str | Path, run_folder: str | Path | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Checks an artifact's files, replays its golden images, and scores the run's validation split.

    Args:
        of: an artifact or its folder.
        run_folder: the run it was exported from. Default: the folder above exports/, where it was made.

    Returns:
        The report, also written to report.json: `passed`, `problems`, `golden`, `validation` (None where the
        run is not there), `latency_ms`, `size_bytes`.

    Raises:
        VerificationError: a file has changed, or the artifact does not compute what was trained.
        DataError: the run's data cannot be read or have changed.
        ConverterError: the runtime crashed.
    """
    progress = progress or Progress()
    of = of if isinstance(of, Artifact) else artifact.load(of)
    source = _source_run(of, run_folder)
    report = replay(of, source, progress)
    run.write_json(of.folder / artifact.REPORT, report)
    refuse_failed(of, report)
    return report


def _source_run(of: Artifact, run_folder: str | Path | None) -> Run | None:
    if run_folder is not None:
        source = run.load(run_folder)
    elif run.is_run(of.folder.parents[1]):
        source = run.load(of.folder.parents[1])
    else:
        return None
    if source.record["recipe_sha256"] != of.manifest["recipe_sha256"]:
        raise KerastuneError(f"{of.folder} was not exported from {source.folder}.", "Name its own run: --run RUN.")
    return source


def refuse_failed(of: Artifact, report: dict[str, Any]) -> None:
    """Raises VerificationError with the report's problems, if there are any."""
    if not report["passed"]:
        raise VerificationError(
            f"{of.manifest['name']} does not compute what was trained: {'; '.join(report['problems'])}.",
            "A quantised artifact may lose more than you allow: raise max_accuracy_drop, or use quantize = "
            '"dynamic" or "none".'
            if of.manifest["quantize"] != "none"
            else "Please report this with the recipe: a float32 artifact must agree with Keras.",
        )


def replay(of: Artifact, source: Run | None, progress: Progress) -> dict[str, Any]:
    """The report on one artifact; without its run, on the golden images alone."""
    of.check_files()
    images, expected = of.golden()
    if not (spread := float(np.ptp(expected, axis=0).max())) >= _LEAST_SPREAD:  # NaN is refused too
        raise VerificationError(
            f"The golden outputs hardly vary (by {spread:.2g}), so they would agree with any model.",
            "Train longer, or look at the data: the model says the same about every image.",
        )
    tolerance = of.manifest["tolerance"]
    parts = [_Part("golden images", images, expected, tolerance["golden_error"])]
    batch = _same_size(images)
    if of.manifest["inputs"][0]["shape"][0] is None and len(batch) > 1:
        stacked = [np.stack([images[i] for i in batch])]
        parts.append(_Part("a batch of golden images", stacked, expected[batch], tolerance["golden_error"]))
    if "serve_bytes" in of.manifest["signatures"]:
        encoded = [_png(image) for image in images]
        parts.append(_Part("golden images as PNG files", encoded, expected, tolerance["golden_error"]))
    if source:
        unseen = source.splits(progress).validation
        keras_scores = source.scores("validation", unseen.digests)
        arrays = _images(unseen, f"verifying {of.manifest['name']}", progress)
        parts.append(_Part("validation images", arrays, keras_scores, tolerance["validation_error"]))

    scores, seconds = run_reader(of, chain.from_iterable(part.arrays for part in parts))
    found = np.split(scores, np.cumsum([len(part.expected) for part in parts])[:-1])
    problems = [problem for part, its in zip(parts, found, strict=True) for problem in _compare(part, its)]
    validation = None
    if source:
        validation = _paired(found[-1], keras_scores, unseen.labels)
        drop, allowed = validation["accuracy_drop"], tolerance["accuracy_drop"]
        if allowed is not None and not drop <= allowed:
            problems.append(f"it loses {drop:.4f} of validation accuracy, and max_accuracy_drop is {allowed:g}")
    return {
        "passed": not problems,
        "problems": problems,
        "golden": {"images": len(images), **_agreement(found[0], expected)},
        "validation": validation,
        "latency_ms": _latency(seconds[-len(found[-1]) :] if source else seconds[: len(images)]),
        "size_bytes": of.size_bytes,
        "runtime": of.manifest["runtime"],
        "machine": run.machine(),
    }


def _images(split: Split, stage: str, progress: Progress) -> Iterator[Image]:
    for i in range(len(split)):
        progress.advance(stage, i + 1, len(split))
        yield split.image(i)


def run_reader(of: Artifact, arrays: Iterable[npt.NDArray[Any]]) -> tuple[Scores, npt.NDArray[np.float64]]:
    """Scores of the artifact in its own runtime, and seconds for each array (the first is a warm-up too).

    Args:
        arrays: uint8 images [H, W, 3], batches [B, H, W, 3], or encoded files [n].

    Raises:
        ConverterError: the runtime crashed, refused the file or is not installed.
    """
    # The reader that ships with kerastune, never the copy in the artifact: a foreign folder's code is not run.
    with (
        as_file(files("kerastune.targets")) as targets,
        tempfile.TemporaryDirectory(prefix="kerastune-") as scratch,
    ):
        out = Path(scratch) / "out.npz"
        command = [sys.executable, str(targets / of.manifest["target"] / "reader.py"), str(of.folder)]
        with (Path(scratch) / "stderr").open("w+b") as stderr:
            child = subprocess.Popen(
                [*command, "--stream", str(out)],
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                cwd=scratch,
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
                f"{of.manifest['runtime']} could not run {of.manifest['name']} ({exit_reason(code)}): "
                f"{last_lines(said)}",
                f"pip install {of.manifest['runtime']}" if "ModuleNotFoundError" in said else None,
            )
        with np.load(out, allow_pickle=False) as found:
            # TensorFlow itself imports `keras`, without using it; KerasHub would mean that the model was rebuilt.
            if {"keras_hub", "kerastune"} & set(found["modules"].tolist()):
                raise ConverterError("The reader imported KerasHub or kerastune, so its answer proves nothing.")
            return found["scores"], found["seconds"]


def _message(array: npt.NDArray[Any]) -> bytes:
    """Its length in 8 bytes, then the array as .npy: what `--stream` reads."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(buffer.getvalue()).to_bytes(8, "little") + buffer.getvalue()


def exit_reason(code: int) -> str:
    """A child's exit code in words."""
    import signal

    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def last_lines(text: str, count: int = 3) -> str:
    return " | ".join(line.strip() for line in text.splitlines()[-count:] if line.strip()) or "it said nothing"


# --- comparing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Arrays to score, and what Keras said about them."""

    what: str
    arrays: Iterable[npt.NDArray[Any]]
    expected: Scores
    tolerance: float | None


def _compare(part: _Part, found: Scores) -> list[str]:
    what, expected, tolerance = part.what, part.expected, part.tolerance
    if found.shape != expected.shape:
        return [f"{what}: {found.shape} scores instead of {expected.shape}"]
    if bad := int((~np.isfinite(found)).any(axis=-1).sum()):
        return [f"{what}: NaN or infinite scores on {bad} of {len(found)}"]
    problems = []
    if tolerance is not None and not (error := _max_error(found, expected)) <= tolerance:
        problems.append(f"{what}: largest error {error:.3g}, and {tolerance:.3g} is allowed")
    if float(np.ptp(found, axis=0).max()) < _LEAST_SPREAD:
        problems.append(f"{what}: the artifact says the same about every image")
    return problems


def _max_error(found: Scores, expected: Scores) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max())


def _agreement(found: Scores, expected: Scores) -> dict[str, float | None]:
    error = _max_error(found, expected)
    return {
        "max_error": error if math.isfinite(error) else None,
        "label_agreement": float((found.argmax(-1) == expected.argmax(-1)).mean()),
    }


def _paired(found: Scores, expected: Scores, truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy beside Keras's on the same images, with a 95 % interval of the difference.

    The adjusted Wald interval for paired proportions of Bonett & Price 2012 (J. Educ. Behav. Stat. 37, 479-488),
    which stays honest where the two hardly ever differ.
    """
    ours, theirs = found.argmax(-1) == truth, expected.argmax(-1) == truth
    n = len(truth)
    lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    middle = p_lost - p_won
    half = 1.959964 * math.sqrt((p_lost + p_won - middle**2) / (n + 2))
    return {
        "images": n,
        "accuracy": float(ours.mean()),
        "keras_accuracy": float(theirs.mean()),
        "accuracy_drop": (lost - won) / n,
        "accuracy_drop_interval": [max(middle - half, -1.0), min(middle + half, 1.0)],
        **_agreement(found, expected),
    }


def _latency(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    warm = seconds[1:] if len(seconds) > 1 else seconds
    return {"median": float(np.median(warm) * 1e3), "p95": float(np.quantile(warm, 0.95) * 1e3)}


def _same_size(images: list[Image]) -> list[int]:
    """Indices of the largest group of images that fit in one batch."""
    size, _ = Counter(image.shape for image in images).most_common(1)[0]
    return [i for i, image in enumerate(images) if image.shape == size]


def _png(image: Image) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "png")
    return np.frombuffer(buffer.getvalue(), np.uint8)

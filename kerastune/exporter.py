"""From a run to artifacts: trace once, convert each in a child process, verify, and only then call it done."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from kerastune import artifact, assets, run, target
from kerastune.artifact import Artifact
from kerastune.data import Split
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.formats import FORMATS
from kerastune.progress import Progress
from kerastune.recipe import Export, export_name
from kerastune.run import Run
from kerastune.target import Target
from kerastune.verifier import FLOAT_TOLERANCE, exit_reason, last_lines, refuse_failed, replay

GOLDEN_IMAGES = 16
CALIBRATION_IMAGES = 128
TIMEOUT = 30 * 60
"""Seconds a converter may take."""

# Golden and calibration images are real, but no larger than this: their sizes add up, and every model shrinks them.
_LARGEST_SIDE = 320


def export(
    of: Run | str | Path,
    wanted: Export | Sequence[Export] | None = None,
    out: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Artifact]:
    """Exports a run's model, verifies each artifact in its runtime, and puts those that pass in place.

    Args:
        wanted: what to export; default: the recipe's exports.
        out: the artifact's folder, for a single export; default RUN/exports/NAME.
        force: replace folders that exist.

    Returns:
        The artifacts, verified.

    Raises:
        VerificationError: an artifact does not compute what was trained. It is not put in place; the others are.
        ConverterError: a converter crashed, ran out of time or does not know an operator.
        DataError: the run's data cannot be read or have changed.
        KerastuneError: a folder exists, or the run was interrupted before it had scores.
    """
    progress = progress or Progress()
    of = of if isinstance(of, Run) else run.load(of)
    jobs = [_resolve(of, one, out) for one in ([wanted] if isinstance(wanted, Export) else wanted or of.recipe.exports)]
    if out and len(jobs) > 1:
        raise ValueError(f"out names one folder, and {len(jobs)} artifacts are wanted")
    for job in jobs:
        run.refuse_existing(job.folder, force, "artifact")
    if not jobs:
        return []
    of.predictions("validation")  # an interrupted run has none to compare with, and says so now
    made: list[Artifact] = []
    failures: list[KerastuneError] = []
    with _traced(of, progress) as work:
        for job in jobs:
            progress.say(f"Converting {job.folder.name} ({job.target.format}, quantize {job.quantize})")
            try:
                made.append(_make(of, job, work, force, progress))
                of.failure(job.folder.name).unlink(missing_ok=True)
            except (VerificationError, ConverterError) as error:
                failures.append(error)
                run.write_failure(of, job.folder.name, job.target.format, job.quantize, error.message)
                progress.say(f"{job.folder.name} failed: {error.message}")
    if failures:
        raise _joined(failures)
    return made


@dataclass(frozen=True)
class _Job:
    target: Target
    quantize: str
    folder: Path
    max_accuracy_drop: float


def _resolve(of: Run, wanted: Export, out: str | Path | None) -> _Job:
    format, quantize = wanted.resolved
    where = target.load(wanted.target or FORMATS[format].target)
    folder = run.absolute(out) if out else of.exports / export_name(wanted)
    return _Job(where, quantize, folder, wanted.max_accuracy_drop)


@contextmanager
def _traced(of: Run, progress: Progress) -> Iterator[Path]:
    """A scratch folder with the traced model, and the images to prove and calibrate it with."""
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        work, splits = Path(scratch), of.splits(progress)
        golden = spread(splits.validation, GOLDEN_IMAGES)
        calibration = spread(splits.train, CALIBRATION_IMAGES)
        _save_images(work / "images.npz", splits.validation, golden)
        _save_images(work / "calibration.npz", splits.train, calibration)
        digests = "".join(splits.train.digests[i] for i in calibration)
        record = {"images": len(calibration), "sha256": hashlib.sha256(digests.encode()).hexdigest()}
        run.write_json(work / "calibration.json", record)
        progress.say("Tracing the model")
        _child("Tracing", ["-m", "kerastune.trace", str(of.folder), str(work)])
        yield work


def spread(split: Split, count: int) -> list[int]:
    """Indices of up to `count` examples, taken from each class in turn, in a fixed order."""
    rank = np.zeros(len(split), np.int64)  # an example's place within its class
    for label in np.unique(split.labels):
        of_label = np.flatnonzero(split.labels == label)
        rank[of_label] = np.arange(len(of_label))
    return [int(i) for i in np.lexsort((split.labels, rank))[:count]]


def _save_images(path: Path, split: Split, indices: list[int]) -> None:
    def shrunk(i: int) -> artifact.Image:
        image = PillowImage.fromarray(split.image(i))
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        return np.asarray(image)

    np.savez(path, allow_pickle=False, **{f"image_{n:03}": shrunk(i) for n, i in enumerate(indices)})


def _make(of: Run, job: _Job, work: Path, force: bool, progress: Progress) -> Artifact:
    with run.whole_folder(job.folder, force, "artifact") as partial:
        path = partial / FORMATS[job.target.format].model
        path.parent.mkdir(parents=True, exist_ok=True)
        options = [job.target.format, str(work), str(path), job.target.signature, job.quantize]
        _child(f"The {job.target.format} converter", ["-m", "kerastune.formats", *options])
        with as_file(files("kerastune.targets")) as targets:
            for name in ("classify.py", f"{job.target.name}/reader.py"):
                shutil.copy(targets / name, partial)
        with np.load(work / "images.npz", allow_pickle=False) as stored:
            images = [stored[name] for name in stored.files]
        manifest, reference = _manifest(of, job, work), np.load(work / "reference.npy")
        made = artifact.write(partial, manifest, images, reference)
        report = replay(made, of, progress)
        refuse_failed(made, report)
        if job.quantize != "none":
            # Other kernels may round a few output steps further than the ones measured here, not more.
            manifest["tolerance"]["golden_error"] = report["golden"]["max_error"] + 4 / 256
            artifact.write(partial, manifest, images, reference)
        run.write_json(partial / artifact.REPORT, report)
    return artifact.load(job.folder)


def _manifest(of: Run, job: _Job, work: Path) -> dict[str, Any]:
    size = of.record["image_size"]
    batch = 1 if job.target.signature == "edge" else None
    known = assets.ASSETS.get(of.recipe.preset)
    signatures = (
        ["serving_default", "serve_bytes", "edge"] if job.target.format == "saved_model" else [job.target.signature]
    )
    return {
        "name": job.folder.name,
        "format": job.target.format,
        "quantize": job.quantize,
        "target": job.target.name,
        "runtime": job.target.runtime,
        "model": FORMATS[job.target.format].model,
        "signature": job.target.signature,
        "signatures": signatures,
        "task": of.recipe.task,
        "inputs": [
            {
                "name": "images",
                "shape": [batch, None, None, 3],
                "dtype": "uint8",
                "range": [0, 255],
                "meaning": "RGB pixels of upright images of any height and width",
            }
        ],
        "outputs": [
            {
                "name": "scores",
                "shape": [batch, len(of.labels)],
                "dtype": "float32",
                "range": [0, 1],
                "meaning": "probability of each label, in the order of `labels`; they sum to 1",
            }
        ],
        "preprocessing": {
            "inside": [f"resize to {size[0]}x{size[1]} as in training", "scale and offset", "softmax"],
            "outside": ["decode the file to RGB", "apply its EXIF orientation", "put transparency on white"],
        },
        "labels": list(of.labels),
        "tolerance": {
            "golden_error": FLOAT_TOLERANCE,
            "validation_error": FLOAT_TOLERANCE,
            "accuracy_drop": None,
        }
        if job.quantize == "none"
        else {"golden_error": None, "validation_error": None, "accuracy_drop": job.max_accuracy_drop},
        "calibration": json.loads((work / "calibration.json").read_text()) if job.quantize == "int8" else None,
        "preset": of.recipe.preset,
        "licence": known.licence if known else "that of the preset: see its model card",
        "run": of.folder.name,
        "recipe_sha256": of.record["recipe_sha256"],
        "test_accuracy": of.record["metrics"]["test"]["accuracy"],
        "versions": run.versions(),
    }


def _child(what: str, arguments: list[str]) -> None:
    """Runs a Python child; a crash is the converter's, and says so.

    Raises:
        ConverterError: it crashed, failed or took longer than `TIMEOUT`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", *arguments],  # -P: a module of the user's here must not stand in for ours
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConverterError(f"{what} took more than {TIMEOUT // 60} minutes and was ended.") from error
    if done.returncode < 0:
        raise ConverterError(f"{what} crashed ({exit_reason(done.returncode)}): {last_lines(done.stderr)}")
    if done.returncode:
        raise ConverterError(f"{what} failed: {last_lines(done.stderr)}")


def _joined(failures: list[KerastuneError]) -> KerastuneError:
    """One error for several: a proof that failed outweighs a converter that did."""
    worst = next((e for e in failures if isinstance(e, VerificationError)), failures[0])
    return type(worst)("\n".join(e.message for e in failures), worst.hint)

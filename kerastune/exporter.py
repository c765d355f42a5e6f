"""From a run to artifacts: trace once, convert each in a child process, verify, and only then call it done."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from kerastune import artifact, assets, child, run, runtimes, serving, support, target
from kerastune.artifact import Artifact
from kerastune.data import Split, spread
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.formats import FORMATS, Conversion
from kerastune.progress import Progress
from kerastune.recipe import Export, export_name
from kerastune.run import Run
from kerastune.target import Target
from kerastune.verifier import FLOAT_TOLERANCE, OTHER_KERNELS, refuse_failed, replay

GOLDEN_IMAGES = 16
CALIBRATION_IMAGES = 128
_WARM_UP_IMAGES = 4

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
    _refuse_unsupported(of, jobs)
    of.predictions("validation")  # an interrupted run has none to compare with, and says so now
    made: list[Artifact] = []
    failures: list[KerastuneError] = []
    with _traced(of, {f"{job.target.format}/{job.signature}" for job in jobs}, progress) as work:
        for job in jobs:
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
    wanted: Export

    @property
    def fixed(self) -> bool:
        return self.target.images == "fixed"

    @property
    def signature(self) -> str:
        if self.target.format == "saved_model":
            return "serving"
        if not self.fixed:
            return "any_size" if self.target.format == "tflite" else "serving_default"
        # The converter itself makes integer inputs of an int8 model; else a cast does.
        quantised = self.quantize in ("auto", "int8", "int16x8")
        return "fixed_float32" if quantised or self.target.io == "float32" else "fixed_uint8"

    def conversion(self, quantize: str, keep_float: tuple[str, ...] = ()) -> Conversion:
        io = self.target.io if self.fixed and quantize == "int8" else "float32"
        return Conversion(
            self.signature, quantize, io, "calibration_fixed" if self.fixed else "calibration", keep_float
        )


def _resolve(of: Run, wanted: Export, out: str | Path | None) -> _Job:
    format, quantize = wanted.resolved
    where = target.load(wanted.target or FORMATS[format].target)
    return _Job(where, quantize, run.absolute(out) if out else of.exports / export_name(wanted), wanted)


def _refuse_unsupported(of: Run, jobs: list[_Job]) -> None:
    backbone = of.record.get("backbone", "")
    if problems := [why for job in jobs if (why := support.refusal(backbone, job.target.format, job.quantize))]:
        raise KerastuneError("\n".join(problems) + ".", "Choose another quantize, or another target.")


@contextmanager
def _traced(of: Run, wanted: set[str], progress: Progress) -> Iterator[Path]:
    """A scratch folder with the traced model, and the images to prove and calibrate it with."""
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        work, splits = Path(scratch), of.splits(progress)
        golden = spread(splits.validation, GOLDEN_IMAGES)
        calibration = spread(splits.train, CALIBRATION_IMAGES)
        _save_images(work / "golden.npz", splits.validation, golden)
        _save_images(work / "calibration.npz", splits.train, calibration)
        digests = "".join(splits.train.digests[i] for i in calibration)
        record = {"images": len(calibration), "sha256": hashlib.sha256(digests.encode()).hexdigest()}
        run.write_json(work / "calibration.json", record)
        progress.say("Tracing the model")
        child.run("Tracing", ["-m", "kerastune.trace", str(of.folder), str(work), *sorted(wanted)])
        yield work


def _save_images(path: Path, split: Split, indices: list[int]) -> None:
    def shrunk(i: int) -> artifact.Image:
        image = PillowImage.fromarray(split.image(i))
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        return np.asarray(image)

    np.savez(path, allow_pickle=False, **{f"{n:03}/images": shrunk(i) for n, i in enumerate(indices)})


def _make(of: Run, job: _Job, work: Path, force: bool, progress: Progress) -> Artifact:
    with run.whole_folder(job.folder, force, "artifact") as partial:
        climbed: list[dict[str, Any]] = []
        for conversion in _rungs(job, work, progress):
            blamed = f", {len(conversion.keep_float)} layers left in float" if conversion.keep_float else ""
            progress.say(f"Converting {job.folder.name} ({job.target.format}, quantize {conversion.quantize}{blamed})")
            try:
                made, report = _attempt(of, job, conversion, partial, work, progress)
            except (ConverterError, VerificationError) as error:
                if job.quantize != "auto":
                    raise
                climbed.append({**_rung(conversion), "passed": False, "problems": [error.message]})
                continue
            climbed.append({**_rung(conversion), **_figures(report)})
            if report["passed"] or job.quantize != "auto":
                break
        else:
            tried = "; ".join(f"{rung['quantize']}: {', '.join(rung['problems'])}" for rung in climbed)
            raise VerificationError(
                f"No quantisation keeps the limits of {job.folder.name}: {tried}.", "Raise a limit."
            )
        refuse_failed(made, report)
        report["ladder"] = climbed if job.quantize == "auto" else []
        run.write_json(partial / artifact.REPORT, report)
    return artifact.load(job.folder)


def _rungs(job: _Job, work: Path, progress: Progress) -> Iterator[Conversion]:
    """What is asked for; under "auto", from the smallest model to the most exact one."""
    if job.quantize != "auto":
        yield job.conversion(job.quantize)
        return
    yield job.conversion("int8")
    if job.target.format == "tflite":
        progress.say("Looking for the layers that suffer most in int8")
        for count in _worst(job, work):
            yield job.conversion("int8", count)
        if job.target.io == "int8":
            return
    yield job.conversion("float16" if job.target.format == "tflite" else "dynamic")
    yield job.conversion("none")


def _worst(job: _Job, work: Path) -> list[tuple[str, ...]]:
    """The layers that int8 is worst for: a twentieth of them, then a fifth."""
    path = work / "layers.json"
    asked = json.dumps(asdict(replace(job.conversion("int8"), io="float32")))
    child.run("The quantisation debugger", ["-m", "kerastune.formats", "layer-errors", str(work), str(path), asked])
    layers = [row["layer"] for row in json.loads(path.read_text("utf-8"))]
    return [tuple(layers[: max(least, len(layers) // part)]) for least, part in ((1, 20), (3, 5))]


def _rung(conversion: Conversion) -> dict[str, Any]:
    return {"quantize": conversion.quantize, "kept_float": list(conversion.keep_float)}


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    validation = report["validation"]
    return {
        "passed": report["passed"],
        "problems": report["problems"],
        "size_bytes": report["size_bytes"],
        "latency_ms": report["latency_ms"]["median"],
        "accuracy": validation["accuracy"],
        "accuracy_drop": validation["accuracy_drop"],
        "accuracy_drop_interval": validation["accuracy_drop_interval"],
    }


def _attempt(
    of: Run, job: _Job, conversion: Conversion, folder: Path, work: Path, progress: Progress
) -> tuple[Artifact, dict[str, Any]]:
    """Converts, verifies, and writes the artifact's files; whether it passed is in the report."""
    run.empty(folder)
    format = FORMATS[job.target.format]
    path = folder / format.model
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [job.target.format, str(work), str(path), json.dumps(asdict(conversion))]
    child.run(f"The {job.target.format} converter", ["-m", "kerastune.formats", *options])
    with as_file(files("kerastune.targets")) as targets:
        shutil.copy(targets / "classify.py", folder)
        for source in sorted((targets / job.target.name).iterdir()):
            if source.suffix == ".py":
                shutil.copy(source, folder)
    kind = "golden_fixed" if job.fixed else "golden"
    with np.load(work / f"{kind}.npz", allow_pickle=False) as stored:
        images = [stored[name] for name in stored.files]
    manifest, reference = _manifest(of, job, conversion, work), np.load(work / f"{kind}.npy")
    if job.target.name == "tf-serving":
        _prepare_serving(job.folder.name, folder, path, images, reference)
    made = artifact.write(folder, manifest, images, reference)
    report, found = replay(made, of, progress, runtimes.choose(manifest, _installed(job.target)))
    report["problems"] += _over_limits(job.wanted, report)
    report["passed"] = not report["problems"]
    if conversion.quantize != "none":
        # Other kernels may round a few output steps further than the ones measured here, not more.
        manifest["tolerance"]["golden_error"] = report["golden"]["max_error"] + OTHER_KERNELS[conversion.quantize]
        made = artifact.write(folder, manifest, images, reference, found)
    return made, report


def _prepare_serving(
    name: str, folder: Path, model: Path, images: list[artifact.Image], reference: artifact.Scores
) -> None:
    """TF Serving's own files, and requests that it warms up with, where its stubs are installed to write them."""
    for file, text in serving.serving_files(name).items():
        (folder / file).write_text(text, "utf-8")
    if serving.write_warmup(model, images[:_WARM_UP_IMAGES]):
        answers = [outputs["scores"][0] for _, outputs in serving.replay_warmup(model)]
        expected = reference[:_WARM_UP_IMAGES].repeat(2, axis=0)  # each image as pixels, and as a file
        if not (error := float(np.abs(np.stack(answers) - expected).max())) <= FLOAT_TOLERANCE:
            raise VerificationError(f"{name}: the answers to the warm-up requests are {error:.3g} from Keras's.")


def _installed(of: Target) -> list[str]:
    """Where an artifact is verified as it is made: the target's own runtime, and its others where they are there."""
    return [of.runtimes[0], *(name for name in of.runtimes[1:] if runtimes.RUNTIMES[name].version)]


def _over_limits(wanted: Export, report: dict[str, Any]) -> list[str]:
    size, latency = report["size_bytes"] / 1e6, report["latency_ms"]["median"]
    problems = []
    if wanted.max_size_mb is not None and size > wanted.max_size_mb:
        problems.append(f"it has {size:.2f} MB, and max_size_mb is {wanted.max_size_mb:g}")
    if wanted.max_latency_ms is not None and latency > wanted.max_latency_ms:
        problems.append(f"an image takes {latency:.1f} ms here, and max_latency_ms is {wanted.max_latency_ms:g}")
    return problems


def _manifest(of: Run, job: _Job, conversion: Conversion, work: Path) -> dict[str, Any]:
    settings, fixed, quantize = json.loads((work / "image.json").read_text("utf-8")), job.fixed, conversion.quantize
    height, width = settings["height"], settings["width"]
    batch = None if conversion.signature in ("serving", "serving_default") else 1
    known = assets.ASSETS.get(of.recipe.preset)
    resizing = f"resize to {height}x{width}, {settings['interpolation']}, as in training"
    io = job.target.io if fixed else "uint8"
    outside = ["decode the file to RGB", "apply its EXIF orientation", "put transparency on white"]
    return {
        "name": job.folder.name,
        "format": job.target.format,
        "quantize": quantize,
        "kept_float": list(conversion.keep_float),
        "target": job.target.name,
        "runtime": job.target.runtimes[0],
        "model": FORMATS[job.target.format].model,
        "signatures": ["serving_default", "serve_bytes"]
        if conversion.signature == "serving"
        else [conversion.signature],
        "task": of.recipe.task,
        "image": {**settings, "resize": "outside" if fixed else "inside"},
        "inputs": [
            {
                "name": "images",
                "shape": [batch, height, width, 3] if fixed else [batch, None, None, 3],
                "dtype": io,
                "range": [-128, 127] if io == "int8" else [0, 255],
                "meaning": "RGB pixels of an upright image"
                + (", minus 128" if io == "int8" else "")
                + ("" if fixed else ", of any height and width"),
            }
        ],
        "outputs": [
            {
                "name": "scores",
                "shape": [batch, len(of.labels)],
                "dtype": conversion.io if quantize == "int8" else "float32",
                "range": [0, 1],
                "meaning": "probability of each label, in the order of `labels`; they sum to 1"
                + (" (quantised: scale and zero point are in the file)" if conversion.io != "float32" else ""),
            }
        ],
        "preprocessing": {
            "inside": [*([] if fixed else [resizing]), "scale and offset", "softmax"],
            "outside": [*outside, *([resizing] if fixed else [])],
        },
        "labels": list(of.labels),
        "tolerance": {
            "golden_error": FLOAT_TOLERANCE,
            # Pixels that a device has resized are whole numbers; in training they were not.
            "validation_error": None if fixed else FLOAT_TOLERANCE,
            "accuracy_drop": None,
        }
        if quantize == "none"
        else {"golden_error": None, "validation_error": None, "accuracy_drop": job.wanted.max_accuracy_drop},
        "calibration": json.loads((work / "calibration.json").read_text()) if quantize in ("int8", "int16x8") else None,
        "preset": of.recipe.preset,
        "licence": known.licence if known else "that of the preset: see its model card",
        "run": of.folder.name,
        "recipe_sha256": of.record["recipe_sha256"],
        "test_accuracy": of.record["metrics"]["test"]["accuracy"],
        "versions": run.versions(),
    }


def _joined(failures: list[KerastuneError]) -> KerastuneError:
    """One error for several: a proof that failed outweighs a converter that did."""
    worst = next((e for e in failures if isinstance(e, VerificationError)), failures[0])
    return type(worst)("\n".join(e.message for e in failures), worst.hint)

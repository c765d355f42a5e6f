"""Exports artifacts of a run: traces once, converts each in a child process, and keeps only verified ones."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from kerastune import assets, child, environment, files, run, tasks
from kerastune.data import ragged, spread
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.exporting import card
from kerastune.exporting.extras import EXTRAS
from kerastune.formats import FORMATS
from kerastune.formats.conversion import Conversion
from kerastune.formats.metadata import About
from kerastune.modalities import Example
from kerastune.progress import Progress, shown_by_default
from kerastune.recipe import Export, export_name
from kerastune.recipe.target import Target
from kerastune.run import Run
from kerastune.tasks.contract import Form, Wanted
from kerastune.tasks.learnt import Learnt
from kerastune.tasks.text_device import RAW
from kerastune.tasks.wanted import refusals, resolved
from kerastune.verifying import artifact, runtimes, verification
from kerastune.verifying import manifest as manifests
from kerastune.verifying.artifact import Answers, Artifact, Golden
from kerastune.verifying.comparing import OTHER_KERNELS
from kerastune.verifying.manifest import Manifest
from kerastune.verifying.verification import Candidate, VerificationReport
from kerastune.verifying.verifier import limits_to_raise, refuse_failed, replay

CALIBRATION_EXAMPLES = 128


@shown_by_default
@child.forking()
def export(
    of: Run | str | Path,
    wanted: Export | Sequence[Export] | None = None,
    out: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Artifact]:
    """Exports a run's model, verifies each artifact in its runtime, and keeps those that pass.

    Args:
        wanted: the exports to make; default: the recipe's exports.
        out: the artifact's folder, for a single export; default: RUN/exports/NAME.
        force: replace existing folders.

    Returns:
        The verified artifacts.

    Raises:
        VerificationError: an artifact does not compute what was trained. It is discarded; the others are kept.
        ConverterError: a converter crashed, timed out or does not support an operator.
        DataError: the run's data cannot be read or have changed.
        KerastuneError: a folder exists, or the run was interrupted before it had scores.
    """
    progress = progress or Progress()
    of = of if isinstance(of, Run) else run.load(of)
    jobs = [_resolve(of, one, out) for one in ([wanted] if isinstance(wanted, Export) else wanted or of.recipe.exports)]
    if out and len(jobs) > 1:
        raise ValueError(f"out names one folder, but {len(jobs)} artifacts are requested")
    for job in jobs:
        files.refuse_existing(job.folder, force, "artifact")
    if not jobs:
        return []
    _refuse_unsupported(of, jobs)
    of.predictions("validation")  # raises for an interrupted run, which has no predictions to compare with
    child.preload()
    made: list[Artifact] = []
    failures: list[KerastuneError] = []
    with _traced(of, {f"{job.target.format}/{job.form.signature}" for job in jobs}, progress) as work:
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


def missing(of: Run) -> list[Export]:
    """The recipe's exports that are not there: those that were refused, and of a run that was killed, the rest."""
    run.clear(of.folder)
    there = {made.folder.name for made in artifact.inside(of.exports)}
    return [one for one in of.recipe.exports if export_name(one) not in there]


@dataclass(frozen=True)
class _Job:
    """A file to make.

    Attributes:
        target: the deployment target, with the requested format and the runtimes for that format.
        form: the task's form of the file.
    """

    target: Target
    quantize: str
    folder: Path
    limits: Export
    wanted: Wanted
    form: Form

    def conversion(self, quantize: str, keep_float: tuple[str, ...] = ()) -> Conversion:
        io = self.form.int8_io if quantize == "int8" else "float32"
        return Conversion(self.form.signature, quantize, io, self.form.calibration, keep_float)


def _resolve(of: Run, export: Export, out: str | Path | None) -> _Job:
    where, wanted = resolved(export, of.record.backbone)
    fitting = tuple(name for name in where.runtimes if where.format in runtimes.RUNTIMES[name].formats)
    folder = files.absolute(out) if out else of.exports / export_name(export)
    form = tasks.device(of.recipe.task).form(of.recipe, wanted)
    return _Job(replace(where, runtimes=fitting), wanted.quantize, folder, export, wanted, form)


def _refuse_unsupported(of: Run, jobs: list[_Job]) -> None:
    if problems := refusals(of.recipe, [job.limits for job in jobs], of.record.backbone):
        raise KerastuneError("\n".join(problems) + ".", "Choose another quantize, or another target.")
    own = {job.target.runtimes[0] for job in jobs}
    if missing := [
        f"{name} ({runtimes.RUNTIMES[name].install})" for name in sorted(own) if not runtimes.RUNTIMES[name].version
    ]:
        raise KerastuneError(f"New artifacts are verified, but these runtimes are not installed: {', '.join(missing)}.")


@contextmanager
def _traced(of: Run, wanted: set[str], progress: Progress) -> Iterator[Path]:
    """Yields a scratch folder with the traced model, and the examples to prove and calibrate it."""
    with files.scratch() as work:
        splits = of.splits(progress)
        recipe, device = of.recipe, tasks.device(of.recipe.task)
        calibration = spread(splits.train, CALIBRATION_EXAMPLES)
        name = device.modality.plural
        _save_examples(work / "golden.npz", device.golden(recipe, splits), name)
        examples = [device.calibration(recipe, splits.train, i) for i in calibration]
        _save_examples(work / "calibration.npz", examples, name)
        digests = "".join(splits.train.digests[i] for i in calibration)
        record = {"examples": len(calibration), "sha256": hashlib.sha256(digests.encode()).hexdigest()}
        files.write_json(work / "calibration.json", record)
        files.write_json(work / "about.json", asdict(_about(of)))
        files.write_json(work / "audited.json", audited := device.audited(recipe, splits))
        progress.say("Tracing the model")
        with progress.working("tracing"):
            child.run("Tracing", ["-m", "kerastune.exporting.trace", str(of.folder), str(work), *sorted(wanted)])
        if audited and (checked := json.loads((work / "text.json").read_text("utf-8"))["checked"])["differ"]:
            progress.say(
                f"{checked['differ']} of {checked['texts']:,} texts (and nasty ones) become other tokens on devices "
                "than in KerasHub; the manifest quotes some"
            )
        yield work


def _about(of: Run) -> About:
    return About(
        of.recipe.name,
        f"{of.recipe.task.replace('_', ' ').capitalize()}, fine-tuned from {of.recipe.preset} with kerastune",
        of.folder.name,
        _licence(of),
        list(_learnt(of).labels(of.labels)),
        dict(tasks.device(of.recipe.task).mediapipe(of.recipe)),
    )


def _learnt(of: Run) -> Learnt:
    return tasks.device(of.recipe.task).learnt(of.recipe)


def _licence(of: Run) -> str:
    known = assets.ASSETS.get(of.recipe.preset)
    return known.licence if known else "the preset's: see its model card"


def _save_examples(path: Path, examples: list[Example], name: str) -> None:
    """Writes examples for `Conversion` as NUMBER/NAME, where NAME is the model's input."""
    np.savez(path, allow_pickle=False, **{f"{n:03}/{name}": example for n, example in enumerate(examples)})


def _make(of: Run, job: _Job, work: Path, force: bool, progress: Progress) -> Artifact:
    with files.whole_folder(job.folder, force, "artifact") as partial:
        climbed: list[Candidate] = []
        unsure: Conversion | None = None  # the smallest candidate with an inconclusive drop
        for conversion in _candidates(of, job, work, progress):
            blamed = f", {len(conversion.keep_float)} layers left in float" if conversion.keep_float else ""
            progress.say(f"Converting {job.folder.name} ({job.target.format}, quantize {conversion.quantize}{blamed})")
            if job.form.note:
                progress.say(f"{job.folder.name} {job.form.note}")
            try:
                made, report = _attempt(of, job, conversion, partial, work, progress)
            except (ConverterError, VerificationError) as error:
                if job.quantize != "auto":
                    raise
                climbed.append(_candidate(conversion, None, [error.message]))
                continue
            more = _measured_loss(job, report)
            climbed.append(_candidate(conversion, report, more))
            if job.quantize != "auto" or (report.passed and not more):
                break
            unsure = unsure or (conversion if report.passed else None)
        else:
            if unsure is None:
                tried = "; ".join(f"{one.quantize}: {', '.join(one.problems)}" for one in climbed)
                would_pass = list(filter(None, (limits_to_raise(one.problems) for one in climbed)))
                raise VerificationError(
                    f"No quantisation is within the limits of {job.folder.name}: {tried}.",
                    f"Raise {' or '.join(dict.fromkeys(would_pass))}."
                    if would_pass
                    else "No limit would allow this; choose another target or format.",
                )
            made, report = _attempt(of, job, unsure, partial, work, progress)
        refuse_failed(made, report)
        card.write(partial, of, made.manifest, report)
        artifact.seal(partial, made.manifest)
        for warning in report.warnings:
            progress.say(f"{job.folder.name}: {warning}")
        report = replace(report, ladder=tuple(climbed) if job.quantize == "auto" else ())
        verification.write(report, partial / artifact.REPORT)
    return artifact.load(job.folder)


def _candidates(of: Run, job: _Job, work: Path, progress: Progress) -> Iterator[Conversion]:
    """Yields the requested quantisation; for "auto", candidates from the smallest to the most exact."""
    if job.quantize != "auto":
        yield job.conversion(job.quantize)
        return
    format = FORMATS[job.target.format]
    for quantize in tasks.device(of.recipe.task).candidates(job.wanted):
        if quantize not in format.quantizations:
            continue
        yield job.conversion(quantize)
        if quantize == "int8" and format.converter.layer_errors:
            progress.say("Looking for the layers with the largest int8 errors")
            with progress.working("converting and comparing layer by layer"):
                worst = _worst(job, work)
            for names in worst:
                yield job.conversion("int8", names)


def _worst(job: _Job, work: Path) -> list[tuple[str, ...]]:
    """Returns the layers with the largest int8 errors: the worst twentieth, then the worst fifth."""
    path = work / "layers.json"
    asked = json.dumps(asdict(replace(job.conversion("int8"), io="float32")))
    options = [job.target.format, str(work), str(path), asked, "layer-errors"]
    child.run("The quantisation debugger", ["-m", "kerastune.formats", *options])
    layers = [row["layer"] for row in json.loads(path.read_text("utf-8"))]
    return [tuple(layers[: max(least, len(layers) // part)]) for least, part in ((1, 20), (3, 5))]


def _measured_loss(job: _Job, report: VerificationReport) -> list[str]:
    """Returns the problem of a loss above the limit, even unproven, for which `auto` tries the next candidate."""
    found, allowed = report.validation and report.validation.metric, job.limits.max_accuracy_drop
    return list(report.warnings) if found and found.drop > allowed else []


def _candidate(conversion: Conversion, report: VerificationReport | None, problems: list[str]) -> Candidate:
    """Records a candidate of `auto`; `problems` are those that the report does not have."""
    told = [*(report.problems if report else ()), *problems]
    return Candidate(
        quantize=conversion.quantize,
        kept_float=conversion.keep_float,
        passed=not told,
        problems=tuple(told),
        size_bytes=report.size_bytes if report else None,
        latency_ms=report.own.latency_ms if report else None,
        validation=report.validation if report else None,
    )


def _attempt(
    of: Run, job: _Job, conversion: Conversion, folder: Path, work: Path, progress: Progress
) -> tuple[Artifact, VerificationReport]:
    """Converts, verifies and writes the artifact's files; the report says whether it passed."""
    files.empty(folder)
    format = FORMATS[job.target.format]
    path = folder / format.model
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [job.target.format, str(work), str(path), json.dumps(asdict(conversion))]
    with progress.working(f"converting {job.folder.name}"):
        peak_mb = child.run(f"The {job.target.format} converter", ["-m", "kerastune.formats", *options])
    with resources.as_file(resources.files("kerastune.targets")) as targets:
        device = tasks.device(of.recipe.task)
        for shared in ("artifact.py", "answers.py", *device.modality.readers, *device.readers, *format.readers):
            shutil.copy(targets / shared, folder)
        for source in sorted((targets / job.target.name).iterdir()):
            if source.suffix in (".py", ".html", ".js"):
                shutil.copy(source, folder)
    if (work / "tokenizer").is_dir() and job.wanted.style != "folder":
        shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)
        if (raw := work / f"{conversion.signature}_text").is_dir():
            shutil.copytree(raw, folder / RAW, dirs_exist_ok=True)
    with np.load(work / f"{job.form.golden}.npz", allow_pickle=False) as stored:
        examples = [stored[name] for name in stored.files]
    with np.load(work / f"{job.form.golden}_expected.npz", allow_pickle=False) as stored:
        expected = ragged.unpacked(stored)
    expected = {name: rows for name, rows in expected.items() if name in (job.form.proved or expected)}
    golden = Golden(examples, expected, answers=_answers(work))
    manifest = _manifest(of, job, conversion, work, _learnt(of).comparison.scale(expected))
    made = artifact.write(folder, manifest, golden)
    for name in job.target.extras:
        manifest = replace(manifest, extras={**manifest.extras, **EXTRAS[name](made, progress)})
    made = artifact.write(folder, manifest, golden)
    report, found = replay(made, of, progress, runtimes.choose(manifest, _installed(job.target, manifest)))
    problems = (*report.problems, *_over_limits(job, report, tasks.device(of.recipe.task).unit))
    report = replace(report, converter_peak_mb=peak_mb, problems=problems, passed=not problems)
    if report.own.golden and report.own.golden.max_error is not None and conversion.quantize != "none":
        # Other kernels may round a few output steps differently, but not more.
        rounding = OTHER_KERNELS[conversion.quantize] * manifest.tolerance.scale
        tolerance = replace(manifest.tolerance, golden_error=report.own.golden.max_error + rounding)
        made = artifact.write(folder, replace(manifest, tolerance=tolerance), replace(golden, found=found))
    return made, report


def _answers(work: Path) -> Answers | None:
    """Returns Keras's answers to the golden examples, for a model that generates."""
    if not (work / "answers.npz").is_file():
        return None
    with np.load(work / "answers.npz", allow_pickle=False) as stored:
        return Answers(stored["answers"], stored["margins"])


def _installed(of: Target, manifest: Manifest) -> list[str]:
    """Returns the runtimes that verify a new artifact: the target's own, and others that are installed and suitable."""
    own, *others = of.runtimes
    fit = [name for name in others if not runtimes.refusal(name, manifest)]
    return [own, *(name for name in fit if runtimes.RUNTIMES[name].version)]


def _over_limits(job: _Job, report: VerificationReport, one: str) -> list[str]:
    size, took, wanted = report.size_bytes / 1e6, report.own.latency_ms, job.limits
    latency, problems = took.median if took else 0.0, []
    if wanted.max_size_mb is not None and size > wanted.max_size_mb:
        problems.append(f"it has {size:.2f} MB, but max_size_mb is {wanted.max_size_mb:g}")
    if wanted.max_latency_ms is not None and latency > wanted.max_latency_ms:
        problems.append(f"{one} takes {latency:.1f} ms here, but max_latency_ms is {wanted.max_latency_ms:g}")
    return problems


def _manifest(of: Run, job: _Job, conversion: Conversion, work: Path, scale: float) -> Manifest:
    """Returns the manifest; tolerances are relative to `scale`."""
    quantize, device, learnt = conversion.quantize, tasks.device(of.recipe.task), _learnt(of)
    is_exact, rounding = quantize == "none", device.rounding * scale
    tested = (of.record.metrics or {})["test"]
    guess, decided = tested.get("baseline"), of.record.model.get("decision")
    document = {
        "name": job.folder.name,
        "format": job.target.format,
        "quantize": quantize,
        "kept_float": conversion.keep_float,
        "target": job.target.name,
        "runtime": job.target.runtimes[0],
        "model": FORMATS[job.target.format].model,
        "task": of.recipe.task,
        "modality": device.modality.name,
        "learnt": learnt.name,
        **device.manifest(of.recipe, replace(job.wanted, quantize=quantize), job.form, work),
        "labels": learnt.labels(of.labels),
        "colors": of.colors,
        "metric": of.metric,
        "test": tested[of.metric],
        "baseline": guess and {"answer": guess["answer"], "value": guess[of.metric], "beaten": guess["beaten"]},
        "decision": decided and {"label": decided["label"], "threshold": decided["threshold"]},
        "tolerance": {
            "scale": scale,
            "golden_error": rounding if is_exact else None,
            "validation_error": rounding if is_exact and job.form.exact else None,
            "accuracy_drop": None if is_exact else job.limits.max_accuracy_drop,
        },
        "calibration": json.loads((work / "calibration.json").read_text()) if quantize in ("int8", "int16x8") else None,
        "preset": of.recipe.preset,
        "licence": _licence(of),
        "run": of.folder.name,
        "recipe_sha256": of.record.recipe_sha256,
        "versions": environment.versions(),
    }
    return manifests.parse(document)


def _joined(failures: list[KerastuneError]) -> KerastuneError:
    """Joins several errors; a failed proof outweighs a failed converter."""
    worst = next((e for e in failures if isinstance(e, VerificationError)), failures[0])
    return type(worst)("\n".join(e.message for e in failures), worst.hint)

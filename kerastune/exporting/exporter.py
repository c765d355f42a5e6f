"""From a run to artifacts: trace once, convert each in a child process, verify, and only then call it done."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from kerastune import assets, child, environment, files, run
from kerastune.data import Split, spread
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.exporting.extras import EXTRAS
from kerastune.formats import FORMATS, About, Conversion, support
from kerastune.progress import Progress
from kerastune.recipe import Export, export_name, target
from kerastune.recipe.target import Target
from kerastune.run import Run
from kerastune.tasks import scoring
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.artifact import Artifact
from kerastune.verifying.verifier import FLOAT_TOLERANCE, OTHER_KERNELS, refuse_failed, replay

GOLDEN_EXAMPLES = 16
GOLDEN_ANSWERS = 20
_TINTED_IMAGES = 8
CALIBRATION_EXAMPLES = 128

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
        files.refuse_existing(job.folder, force, "artifact")
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

    unit: str = "image"
    chat: bool = False
    backbone: str = ""

    @property
    def fixed(self) -> bool:
        """Whether it takes images of one size."""
        return self.unit == "image" and self.target.images == "fixed"

    @property
    def padded(self) -> bool:
        """Whether it takes texts of one length."""
        return (
            self.unit == "text"
            and not self.chat
            and self.target.format == "tflite"
            and support.fixed_length(self.backbone)
        )

    @property
    def signature(self) -> str:
        if self.target.format == "transformers":
            return "folder"
        if self.target.format == "saved_model":
            return "serving"
        if self.chat and self.target.format == "tflite":
            return "prefill+decode"
        if self.unit == "text":
            one = "fixed_length" if self.padded else "any_length"
            return one if self.target.format == "tflite" else "serving_default"
        if not self.fixed:
            return "any_size" if self.target.format == "tflite" else "serving_default"
        # The converter itself makes integer inputs of an int8 model; else a cast does.
        quantised = self.quantize in ("auto", "int8", "int16x8")
        return "fixed_float32" if quantised or self.target.io == "float32" else "fixed_uint8"

    def conversion(self, quantize: str, keep_float: tuple[str, ...] = ()) -> Conversion:
        io = self.target.io if self.fixed and quantize == "int8" else "float32"
        calibration = "calibration_fixed" if self.fixed or self.padded else "calibration"
        return Conversion(self.signature, quantize, io, calibration, keep_float)


def _resolve(of: Run, wanted: Export, out: str | Path | None) -> _Job:
    format, quantize = wanted.resolved
    where = target.load(wanted.target or FORMATS[format].target)
    fitting = tuple(name for name in where.runtimes if format in runtimes.RUNTIMES[name].formats)
    where = replace(where, format=format, runtimes=fitting)
    folder = files.absolute(out) if out else of.exports / export_name(wanted)
    data = of.recipe.data
    return _Job(where, quantize, folder, wanted, data.unit, data.target == "text", of.record.get("backbone", ""))


def _refuse_unsupported(of: Run, jobs: list[_Job]) -> None:
    backbone = of.record.get("backbone", "")
    refused = [target.refusal(job.target.name, job.unit, of.recipe.task) for job in jobs]
    refused += [support.refusal(backbone, job.target.format, job.quantize, job.unit) for job in jobs]
    if problems := list(filter(None, refused)):
        raise KerastuneError("\n".join(problems) + ".", "Choose another quantize, or another target.")
    own = {job.target.runtimes[0] for job in jobs}
    if missing := [
        f"{name} ({runtimes.RUNTIMES[name].install})" for name in sorted(own) if not runtimes.RUNTIMES[name].version
    ]:
        raise KerastuneError(f"An artifact is verified as it is made, and not installed are: {', '.join(missing)}.")


@contextmanager
def _traced(of: Run, wanted: set[str], progress: Progress) -> Iterator[Path]:
    """A scratch folder with the traced model, and the images to prove and calibrate it with."""
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        work, splits = Path(scratch), of.splits(progress)
        unit = of.recipe.data.unit
        golden = [_example(of, splits.validation, i) for i in spread(splits.validation, GOLDEN_EXAMPLES)]
        if of.recipe.data.target == "text":  # answers are proved on as many, however few there are to validate
            golden += [_example(of, splits.train, i) for i in spread(splits.train, GOLDEN_ANSWERS - len(golden))]
        if unit == "image":
            golden += [one for image in golden[:_TINTED_IMAGES] for one in _tinted(image)]
        calibration = spread(splits.train, CALIBRATION_EXAMPLES)
        _save_examples(work / "golden.npz", golden, unit)
        _save_examples(work / "calibration.npz", [_example(of, splits.train, i) for i in calibration], unit)
        digests = "".join(splits.train.digests[i] for i in calibration)
        record = {"examples": len(calibration), "sha256": hashlib.sha256(digests.encode()).hexdigest()}
        files.write_json(work / "calibration.json", record)
        files.write_json(work / "about.json", asdict(_about(of)))
        progress.say("Tracing the model")
        child.run("Tracing", ["-m", "kerastune.exporting.trace", str(of.folder), str(work), *sorted(wanted)])
        if unit == "text" and (checked := json.loads((work / "text.json").read_text("utf-8"))["checked"])["differ"]:
            progress.say(
                f"{checked['differ']} of {checked['texts']:,} texts (nasty ones included) become other tokens there "
                "than in KerasHub; the manifest quotes some"
            )
        yield work


def _about(of: Run) -> About:
    return About(
        of.recipe.name,
        f"{of.recipe.task.replace('_', ' ').capitalize()}, fine-tuned from {of.recipe.preset} with kerastune",
        of.folder.name,
        _licence(of),
        [] if _embeds(of) else list(of.labels),
        of.recipe.data.unit,
    )


def _embeds(of: Run) -> bool:
    return of.recipe.data.target in scoring.SIMILARITY


def _licence(of: Run) -> str:
    known = assets.ASSETS.get(of.recipe.preset)
    return known.licence if known else "that of the preset: see its model card"


def _example(of: Run, split: Split, i: int) -> artifact.Example:
    if (unit := of.recipe.data.unit) == "text":
        found = split.example(i, unit)
        return found[:1] if _embeds(of) else found  # an embedder takes one text at a time
    image = PillowImage.fromarray(split.image(i))
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return np.asarray(image)


def _tinted(pixels: artifact.Example) -> Iterator[artifact.Example]:
    """An image in red and the same in blue: grey data alone would not tell red from blue."""
    red = (pixels * np.array([1, 0.5, 0])).astype(np.uint8)
    yield from (red, np.ascontiguousarray(red[..., ::-1]))


def _save_examples(path: Path, examples: list[artifact.Example], unit: str) -> None:
    np.savez(path, allow_pickle=False, **{f"{n:03}/{unit}s": example for n, example in enumerate(examples)})


def _make(of: Run, job: _Job, work: Path, force: bool, progress: Progress) -> Artifact:
    with files.whole_folder(job.folder, force, "artifact") as partial:
        climbed: list[dict[str, Any]] = []
        for conversion in _rungs(job, work, progress):
            blamed = f", {len(conversion.keep_float)} layers left in float" if conversion.keep_float else ""
            progress.say(f"Converting {job.folder.name} ({job.target.format}, quantize {conversion.quantize}{blamed})")
            if job.padded:
                progress.say(
                    f"{job.folder.name} takes texts of one length, padded to the longest there may be: a "
                    f"{job.backbone.removesuffix('Backbone')} of any length needs operators that LiteRT lacks"
                )
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
        files.write_json(partial / artifact.REPORT, report)
    return artifact.load(job.folder)


def _rungs(job: _Job, work: Path, progress: Progress) -> Iterator[Conversion]:
    """What is asked for; under "auto", from the smallest model to the most exact one."""
    if job.quantize != "auto":
        yield job.conversion(job.quantize)
        return
    if job.unit == "text":  # int8 is not for texts: `support.refusal`
        yield job.conversion("dynamic")
        if job.target.format == "tflite":
            yield job.conversion("float16")
        yield job.conversion("none")
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
    files.empty(folder)
    format = FORMATS[job.target.format]
    path = folder / format.model
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [job.target.format, str(work), str(path), json.dumps(asdict(conversion))]
    peak_mb = child.run(f"The {job.target.format} converter", ["-m", "kerastune.formats", *options])
    with resources.as_file(resources.files("kerastune.targets")) as targets:
        for shared in ("classify.py", *(("chats.py",) if job.chat else ("texts.py",) if job.unit == "text" else ())):
            shutil.copy(targets / shared, folder)
        for source in sorted((targets / job.target.name).iterdir()):
            if source.suffix in (".py", ".html", ".js"):
                shutil.copy(source, folder)
    if job.unit == "text" and job.target.format != "transformers":
        shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)
        if (raw := work / f"{conversion.signature}_text").is_dir():
            shutil.copytree(raw, folder / RAW_TEXT, dirs_exist_ok=True)
    kind = "golden_fixed" if job.fixed else "golden"
    with np.load(work / f"{kind}.npz", allow_pickle=False) as stored:
        images = [stored[name] for name in stored.files]
    reference, more = np.load(work / f"{kind}.npy"), _answers(work) if job.chat else {}
    largest = float(np.abs(scoring.comparable(of.recipe.data.target, reference)).max())
    # Numbers of a vector are far below 1, and what is allowed with them.
    manifest = _manifest(of, job, conversion, work, max(0.0 if _embeds(of) else 1.0, largest))
    made = artifact.write(folder, manifest, images, reference, more=more)
    for name in job.target.extras:
        manifest |= EXTRAS[name](made, progress)
    made = artifact.write(folder, manifest, images, reference, more=more)
    report, found = replay(made, of, progress, runtimes.choose(manifest, _installed(job.target, manifest)))
    report["converter_peak_mb"] = peak_mb
    report["problems"] += _over_limits(job, report)
    report["passed"] = not report["problems"]
    if conversion.quantize != "none":
        # Other kernels may round a few output steps further than the ones measured here, not more.
        manifest["tolerance"]["golden_error"] = (
            report["golden"]["max_error"] + OTHER_KERNELS[conversion.quantize] * manifest["tolerance"]["scale"]
        )
        made = artifact.write(folder, manifest, images, reference, found, more)
    return made, report


def _answers(work: Path) -> dict[str, Any]:
    with np.load(work / "answers.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _installed(of: Target, manifest: dict[str, Any]) -> list[str]:
    """Where an artifact is verified as it is made: the target's own runtime, and its others that are there and fit."""
    own, *others = of.runtimes
    fit = [name for name in others if not runtimes.refusal(name, manifest)]
    return [own, *(name for name in fit if runtimes.RUNTIMES[name].version)]


def _over_limits(job: _Job, report: dict[str, Any]) -> list[str]:
    size, latency, wanted = report["size_bytes"] / 1e6, report["latency_ms"]["median"], job.wanted
    one = "a token" if job.chat else "a text" if job.unit == "text" else "an image"
    problems = []
    if wanted.max_size_mb is not None and size > wanted.max_size_mb:
        problems.append(f"it has {size:.2f} MB, and max_size_mb is {wanted.max_size_mb:g}")
    if wanted.max_latency_ms is not None and latency > wanted.max_latency_ms:
        problems.append(f"{one} takes {latency:.1f} ms here, and max_latency_ms is {wanted.max_latency_ms:g}")
    return problems


def _manifest(of: Run, job: _Job, conversion: Conversion, work: Path, scale: float) -> dict[str, Any]:
    """The contract; `scale` is the largest score, which is 1 or less but for numbers and vectors."""
    quantize = conversion.quantize
    batch = None if conversion.signature in ("serving", "serving_default") else 1
    if job.chat:
        contract = _of_chats(job, work)
    elif job.unit == "text":
        contract = _of_texts(of, job, work, batch)
    else:
        contract = _of_images(job, conversion, work, batch)
    return {
        "name": job.folder.name,
        "format": job.target.format,
        "quantize": quantize,
        "kept_float": list(conversion.keep_float),
        "target": job.target.name,
        "runtime": job.target.runtimes[0],
        "model": FORMATS[job.target.format].model,
        "task": of.recipe.task,
        "target_kind": of.recipe.data.target,
        "outputs": [
            {
                "name": "embeddings" if _embeds(of) else "scores",
                "shape": [batch, np.load(work / "golden.npy").shape[-1]],
                "dtype": conversion.io if quantize == "int8" else "float32",
                **(_VECTORS if _embeds(of) else _MEANINGS.get(of.recipe.data.target, {})),
            }
        ],
        **contract,
        "labels": [] if _embeds(of) else list(of.labels),
        "metric": of.metric,
        "tolerance": {
            "scale": scale,
            "golden_error": FLOAT_TOLERANCE * scale,
            # Pixels that a device has resized are whole numbers; in training they were not.
            "validation_error": None if job.fixed else FLOAT_TOLERANCE * scale,
            "accuracy_drop": None,
        }
        if quantize == "none"
        else {
            "scale": scale,
            "golden_error": None,
            "validation_error": None,
            "accuracy_drop": job.wanted.max_accuracy_drop,
        },
        "calibration": json.loads((work / "calibration.json").read_text()) if quantize in ("int8", "int16x8") else None,
        "preset": of.recipe.preset,
        "licence": _licence(of),
        "run": of.folder.name,
        "recipe_sha256": of.record["recipe_sha256"],
        f"test_{of.metric}": of.record["metrics"]["test"][of.metric],
        "versions": environment.versions(),
    }


_MEANINGS: dict[str, dict[str, Any]] = {
    "label": {
        "range": [0, 1],
        "meaning": "probability of each label, in the order of `labels`; they sum to 1. In an integer dtype: scale and "
        "zero point are in the file",
    },
    "labels": {"range": [0, 1], "meaning": "probability of each label for itself, in the order of `labels`"},
    "number": {"range": None, "meaning": "the number itself"},
}

_VECTORS = {"range": None, "meaning": "the text's vector, pooled and scaled as the preset says; cosines compare them"}


def _of_images(job: _Job, conversion: Conversion, work: Path, batch: int | None) -> dict[str, Any]:
    """What a manifest says of an image model's inputs."""
    settings, fixed = json.loads((work / "image.json").read_text("utf-8")), job.fixed
    height, width = settings["height"], settings["width"]
    resizing = f"resize to {height}x{width}, {settings['interpolation']}, as in training"
    io = job.target.io if fixed else "uint8"
    outside = ["decode the file to RGB", "apply its EXIF orientation", "put transparency on white"]
    serving = ["serving_default", "serve_bytes"]
    return {
        "signatures": serving if conversion.signature == "serving" else [conversion.signature],
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
        "preprocessing": {
            "inside": [*([] if fixed else [resizing]), "scale and offset", "softmax"],
            "outside": [*outside, *([resizing] if fixed else [])],
        },
    }


RAW_TEXT = "serving_text/1"
"""Where in an artifact the SavedModel stands that takes raw texts."""

_RAW = {"raw": RAW_TEXT, "raw_needs": "tensorflow_text"}

_ROWS = {
    "token_ids": "tokens of the text, as tokenizer.json numbers them, packed as `text` says",
    "padding_mask": "1 for a token, 0 for padding",
    "segment_ids": "0 for the first text of a pair, 1 for the second",
}


def _of_texts(of: Run, job: _Job, work: Path, batch: int | None) -> dict[str, Any]:
    """What a manifest says of a text model's inputs."""
    packing = json.loads((work / "text.json").read_text("utf-8"))
    more: dict[str, Any] = dict(_RAW)
    if job.target.format != "saved_model":
        more = {"length": packing["sequence_length"]} if job.padded else {}
    return {
        "signatures": [job.signature if batch else "serving_default"],
        "text": {**packing, **more},
        "inputs": [
            {
                "name": name,
                "shape": [batch, more.get("length")],
                "dtype": "int32",
                "range": None,
                "meaning": _ROWS[name],
            }
            for name in sorted(packing["inputs"])
        ],
        "preprocessing": {
            "inside": ["pooling"] if _embeds(of) else ["softmax or sigmoid of labels"],
            "outside": ["tokenise with tokenizer.json", "pack as `text` says"],
        },
    }


def _of_folder(chat: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of a language model that transformers runs, with a cache of its own."""
    tokens = {"dtype": "int64", "range": None, "meaning": "as tokenizer.json numbers them"}
    return {
        "signatures": ["forward"],
        "text": {"pairs": False, "checked": text["checked"]},
        "chat": {name: value for name, value in chat.items() if name not in ("cache", "prefill")},
        "inputs": [{"name": "input_ids", "shape": [1, None], **tokens}],
        "outputs": [_logits(chat)],
        "preprocessing": {"inside": [], "outside": ["PreTrainedTokenizerFast.apply_chat_template", "generate"]},
    }


def _of_chats(job: _Job, work: Path) -> dict[str, Any]:
    """What a manifest says of a language model."""
    chat, text = (json.loads((work / f"{name}.json").read_text("utf-8")) for name in ("chat", "text"))
    cache = {"shape": chat["cache"], "dtype": "float32", "range": None}
    if job.target.format == "transformers":
        return _of_folder(chat, text)
    raw = _RAW if job.target.format == "saved_model" and (work / "serving_text").is_dir() else {}
    return {
        "signatures": ["prefill", "decode"] if job.target.format == "tflite" else ["serving_default"],
        "text": {"pairs": False, "checked": text["checked"], **raw},
        "chat": chat,
        "inputs": [
            {"name": "tokens", "shape": [1, None], "dtype": "int32", "range": None, "meaning": _TOKENS},
            {
                "name": "position",
                "shape": [1],
                "dtype": "int32",
                "range": None,
                "meaning": "of the first of the tokens",
            },
            {"name": "kv_cache", **cache, "meaning": "keys and values of all tokens before; zeros in the beginning"},
        ],
        "outputs": [
            _logits(chat),
            {"name": "kv_cache_next", **cache, "meaning": "the next kv_cache"},
        ],
        "preprocessing": {
            "inside": [],
            "outside": ["render chat_template.jinja", "tokenise with tokenizer.json", "choose each next token"],
        },
    }


def _logits(chat: dict[str, Any]) -> dict[str, Any]:
    shape, meaning = [1, None, chat["vocabulary"]], "of what may follow each of the tokens"
    return {"name": "logits", "shape": shape, "dtype": "float32", "range": None, "meaning": meaning}


_TOKENS = "as tokenizer.json numbers them: `chat.prefill` of a prompt at a time, then one by one"


def _joined(failures: list[KerastuneError]) -> KerastuneError:
    """One error for several: a proof that failed outweighs a converter that did."""
    worst = next((e for e in failures if isinstance(e, VerificationError)), failures[0])
    return type(worst)("\n".join(e.message for e in failures), worst.hint)

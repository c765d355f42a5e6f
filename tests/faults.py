"""Faults planted in a run's artifacts, where a converter would make them, and the problems that `verify` finds.

    python tests/faults.py RUN > docs/faults.md

Only the graph is faulty. Everything else fits it: the hashes match, and the expected scores of a quantised artifact in
its own runtime come from the faulty file. So no checksum finds the fault.
"""

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerastune import environment, run
from kerastune.data import few
from kerastune.errors import KerastuneError
from kerastune.exporting import exporter
from kerastune.formats import FORMATS, graphs
from kerastune.progress import Progress
from kerastune.recipe import parse_export
from kerastune.verifying import artifact, comparing, runtimes, verifier
from kerastune.verifying.artifact import Artifact, Golden

IMAGES = 200  # of the validation split, to verify with
EXPORTS = [
    {"target": "linux"},
    {"target": "linux", "quantize": "int8"},
    {"target": "onnxruntime"},
    {"target": "onnxruntime", "quantize": "int8"},
    {"target": "linux", "quantize": "dynamic"},
    {"target": "microcontroller"},
    {"target": "tf-serving"},
]


def one_weight(task: Any) -> None:
    """The most influential weight of the last layer is 16 times as large: one bit of its exponent is flipped."""
    import keras

    head, converter = task.get_layer("predictions"), task.preprocessor.image_converter
    noise = np.random.default_rng(0).uniform(0, 255, (8, *converter.image_size, 3)).astype("float32")
    features = np.asarray(keras.Model(task.inputs, head.input)(converter(noise), training=False))  # [8, features]
    kernel = np.array(head.kernel)  # a weight of a feature that is always 0 changes nothing
    kernel.flat[(np.abs(features).mean(axis=0)[:, None] * np.abs(kernel)).argmax()] *= 16
    head.kernel.assign(kernel)


def scale_and_offset(task: Any) -> None:
    """The image converter's scale and offset are swapped."""
    converter = task.preprocessor.image_converter
    converter.scale, converter.offset = converter.offset, converter.scale


def red_and_blue(task: Any) -> None:
    """The model reads BGR: its first convolution takes the channels in reverse order (all are scaled alike)."""
    stem = next(weight for weight in task.backbone.weights if len(weight.shape) == 4 and weight.shape[2] == 3)
    stem.assign(np.array(stem)[:, :, ::-1])


def score_order(task: Any) -> None:
    """Each score is in the place of the next one."""
    for weight in (task.get_layer("predictions").kernel, task.get_layer("predictions").bias):
        weight.assign(np.roll(np.array(weight), 1, axis=-1))


FAULTS = {"one weight": one_weight, "scale and offset": scale_and_offset, "RGB and BGR": red_and_blue}
FAULTS["order of the scores"] = score_order
LABELS = "labels in the manifest"


def tracing(of: run.Run, job: Any, fault: str, work: Path) -> Path:
    """Traces the model with a fault ("": none) for a job, next to the references of the sound one in `work`."""
    from kerastune import tasks

    kind, folder, name = tasks.get(of.recipe.task), work / "planted" / (fault or "none"), job.form.signature
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for path in [*work.glob("*.npz"), work / "image.json", work / "calibration.json"]:
            (folder / path.name).symlink_to(path)
    if (folder / f"{name}.pb").exists() or (folder / name).exists():
        return folder
    task = kind.building.load(str(of.folder), of.recipe, "float32")
    if fault:
        FAULTS[fault](task)
    signatures = kind.signatures(of.recipe, task)
    if job.target.format == "onnx":
        graphs.frozen(name, signatures[name], folder)
    else:
        names = tasks.device(of.recipe.task).serving if job.target.format == "saved_model" else [name]
        graphs.saved_model({key: signatures[key] for key in names}, folder / name)
        graphs.write_dtypes(name, signatures[names[0]], folder)
    return folder


def references(of: run.Run) -> Any:
    """Makes a temporary folder with the images of any size and of one size, and Keras's outputs for them."""
    return exporter._traced(of, {"tflite/fixed_float32"}, Progress())


def artifact_of(of: run.Run, job: Any, work: Path, folder: Path) -> Artifact:
    """Makes the artifact that the exporter would have made of a traced model and accepted."""
    conversion, golden = job.conversion(job.quantize), job.form.golden
    path = folder / FORMATS[job.target.format].model
    path.parent.mkdir(parents=True)
    FORMATS[job.target.format].converter.write(work, path, conversion)
    with np.load(work / f"{golden}.npz") as stored, np.load(work / f"{golden}_expected.npz") as expected:
        proof = Golden([stored[name] for name in stored.files], {"scores": expected["scores"]})
    manifest = exporter._manifest(of, job, conversion, work, 1.0)
    made = artifact.write(folder, manifest, proof)
    if job.quantize == "none":
        return made
    found = runtimes.ask(made, job.target.runtimes[0], proof.examples).outputs
    error = comparing.largest_error(made.learnt, found, proof.expected) + 1e-6
    manifest = replace(manifest, tolerance=replace(manifest.tolerance, golden_error=error))
    return artifact.write(folder, manifest, replace(proof, found=found))


def with_labels_shifted(made: Artifact) -> Artifact:
    first, *others = made.manifest.labels
    return artifact.write(made.folder, replace(made.manifest, labels=(*others, first)), made.golden)


def problems(made: Artifact, of: run.Run | None) -> list[str]:
    """Returns the problems that verifying in the artifact's own runtime finds."""
    try:
        report, _ = verifier.replay(made, of, Progress(), [made.manifest.runtime])
    except KerastuneError as error:
        return [error.message]
    return list(report.problems)


def jobs(of: run.Run, exports: list[dict[str, Any]], folder: Path) -> list[Any]:
    return [exporter._resolve(of, parse_export(one), folder / str(n)) for n, one in enumerate(exports)]


def _row(name: str, fault: str, found: list[str]) -> str:
    """Returns a table row: the first two problems with the golden images, and the first two that need the run."""
    told = [problem.split(": ", 1)[1] if ": " in problem else problem for problem in found]
    golden = [one for one in told if "golden" in one]
    cells = ["; ".join(some[:2]) or "–" for some in (golden, [one for one in told if one not in golden])]
    return f"| {name} | {fault} | {cells[0]} | {cells[1]} |"


def _with_few_images(of: run.Run) -> run.Run:
    splits = of.splits(Progress())
    return run.Run(of.folder, [replace(splits, validation=few(splits.validation, IMAGES))])


def main(run_folder: str) -> None:
    of = _with_few_images(run.load(run_folder))
    planted, _, terms = (__doc__ or "").partition("\n\n    ")
    print(f"# Planted faults\n\n{planted}\n{terms.partition('.md')[2].strip()}\n")
    for fault, plant in FAULTS.items():
        print(f"- **{fault}**: {plant.__doc__}")
    print(f"- **{LABELS}**: each is in the place of the next one.\n")
    print(f"`make faults RUN=runs/{of.folder.name}`, {environment.machine()['cpu']}, {IMAGES} validation images:\n")
    print("| artifact | fault | found with golden images alone | found with its run |\n|---|---|---|---|")
    wrong = 0
    with references(of) as work:
        for n, (job, fault) in enumerate(itertools.product(jobs(of, EXPORTS, work), ["", *FAULTS])):
            name = f"{job.target.name}, {job.quantize}"
            made = artifact_of(of, job, tracing(of, job, fault, work), work / f"made-{n}")
            found = problems(made, of)
            print(_row(name, fault or "none", found), flush=True)
            wrong += bool(found) != bool(fault)
            if not fault:
                found = problems(with_labels_shifted(made), of)
                print(_row(name, LABELS, found), flush=True)
                wrong += not found
    if wrong:
        sys.exit(f"{wrong} faults were missed, or found where there are none")


if __name__ == "__main__":
    main(*sys.argv[1:])

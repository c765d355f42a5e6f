"""The artifact folder: one exported model with its contract and its proof. The only code that knows its file names.

ARTIFACT/model.tflite | model.onnx | model/1/    the model
ARTIFACT/manifest.json                           the contract: inputs, outputs, preprocessing, labels, hashes
ARTIFACT/golden.npz                              the proof: real inputs, and Keras's outputs for them
ARTIFACT/report.json                             results of each runtime
ARTIFACT/reader.py, artifact.py, …               runs it without kerastune
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import run
from kerastune.data import ragged
from kerastune.errors import KerastuneError, VerificationError, shortened
from kerastune.files import absolute, clear, is_hidden
from kerastune.modalities import MODALITIES, Example, Modality
from kerastune.tasks.learnt import LEARNT, Learnt
from kerastune.verifying import manifest as manifests
from kerastune.verifying import verification
from kerastune.verifying.manifest import File, Manifest
from kerastune.verifying.verification import VerificationReport

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
REPORT = "report.json"

_MADE_HERE = {"__pycache__", "js"}  # folders that appear when a reader runs or a page's runtime is installed
_LARGEST_PROOF = 2**31  # bytes, unpacked
_MOST = 20  # files in a message

Arrays = ragged.Arrays


@dataclass(frozen=True)
class Answers:
    """Keras's greedy answers, in place of the examples' own.

    Attributes:
        tokens: ids, int32 [n, most], padded with -1.
        margins: lead in nats of each token, including the end token, over the second most likely one, float32 [n,
            most + 1].
    """

    tokens: npt.NDArray[np.int32]
    margins: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Real examples, and the outputs for them.

    Attributes:
        expected: Keras's outputs by name.
        found: outputs of a quantised artifact in its own runtime at export.
        answers: Keras's answers, for a model that generates.
    """

    examples: Sequence[Example]
    expected: Arrays
    found: Arrays | None = None
    answers: Answers | None = None


@dataclass(frozen=True)
class Artifact:
    """An exported model."""

    folder: Path

    @cached_property
    def manifest(self) -> Manifest:
        """The contract.

        Raises:
            VerificationError: it is damaged.
        """
        return manifests.read(self.folder / MANIFEST)

    @property
    def run(self) -> Path | None:
        """The folder of the run that it lies in; None if it was moved."""
        above = self.folder.parent.parent  # of a folder at the root, the root again
        return above if run.is_run(above) else None

    @property
    def modality(self) -> Modality:
        """The kind of example."""
        return MODALITIES[self.manifest.modality]

    @property
    def learnt(self) -> Learnt:
        """The kind of output."""
        return LEARNT[self.manifest.learnt].in_colors(self.manifest.colors)

    @property
    def size_bytes(self) -> int:
        """The model's size: what a device has to hold, in one file or several."""
        model, kind = self.manifest.model, Path(self.manifest.model).suffix
        files = self.manifest.files.items()
        return sum(file.bytes for name, file in files if name.startswith(model) or (kind and Path(name).suffix == kind))

    @property
    def report(self) -> VerificationReport | None:
        """The last verification, or None.

        Raises:
            VerificationError: it is damaged.
        """
        path = self.folder / REPORT
        return verification.read(path) if path.is_file() else None

    @cached_property
    def golden(self) -> Golden:
        """The proof.

        Raises:
            VerificationError: golden.npz is damaged or incomplete.
        """
        try:
            return _golden(ragged.read(self.folder / GOLDEN, most=_LARGEST_PROOF), self.modality)
        except ValueError as error:
            raise VerificationError(f"{self.folder / GOLDEN} is damaged: {shortened(str(error))}.", _AGAIN) from error

    def check_files(self) -> None:
        """Raises VerificationError with the name of every changed, missing or added file."""
        changed = []
        for name, expected in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                changed.append(f"{name} is missing")
            elif (size := path.stat().st_size) != expected.bytes:
                changed.append(f"{name} has changed ({size:,} bytes, was {expected.bytes:,})")
            elif (found := _sha256(path)) != expected.sha256:
                changed.append(f"{name} has changed (sha256 {found[:12]}, was {expected.sha256[:12]})")
        changed += [f"{name} was added" for name in _files(self.folder) if name not in self.manifest.files]
        if changed:
            listed = "; ".join(map(shortened, changed[:_MOST])) + ("; …" if len(changed) > _MOST else "")
            raise VerificationError(f"{self.folder} has changed since its export: {listed}.", _AGAIN)


_AGAIN = "Export it again: kerastune export RUN --target NAME."


def is_artifact(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def load(folder: str | Path) -> Artifact:
    """Opens an artifact folder.

    Raises:
        KerastuneError: the folder is missing or not an artifact.
    """
    path = absolute(folder)
    for each in (path.parent, path):
        clear(each)
    if not is_artifact(path):
        what = "has no manifest.json, so it is not an artifact" if path.is_dir() else "is not a folder"
        raise KerastuneError(f"{path} {what}.", "kerastune export RUN --target NAME makes one (in RUN/exports/).")
    return Artifact(path)


def inside(folder: Path) -> list[Artifact]:
    """Returns the artifacts in a folder by name, without those still being written."""
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [Artifact(each) for each in folders if is_artifact(each) and not each.name.startswith(".")]


def write(folder: Path, manifest: Manifest, golden: Golden) -> Artifact:
    """Completes a folder that holds the model: writes golden.npz, and the manifest with every file's hash."""
    named: dict[str, npt.NDArray[Any]] = {f"{_EXAMPLE}{i:03}": example for i, example in enumerate(golden.examples)}
    named |= ragged.packed(golden.expected, _EXPECTED) | ragged.packed(golden.found or {}, _FOUND)
    if golden.answers:
        named |= {f"{_ANSWERS}tokens": golden.answers.tokens, f"{_ANSWERS}margins": golden.answers.margins}
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **named)
    return seal(folder, manifest)


def seal(folder: Path, manifest: Manifest) -> Artifact:
    """Writes the manifest with the hash of every file that the folder holds."""
    files = {name: File(sha256=_sha256(folder / name), bytes=(folder / name).stat().st_size) for name in _files(folder)}
    manifests.write(replace(manifest, files=files), folder / MANIFEST)
    return Artifact(folder)


_EXAMPLE, _EXPECTED, _FOUND, _ANSWERS = "example_", "expected/", "found/", "answers/"


def _golden(stored: Mapping[str, npt.NDArray[Any]], modality: Modality) -> Golden:
    """Returns the proof in the arrays of golden.npz; raises ValueError if there is none."""
    named = {name: stored[name] for name in sorted(stored) if name.startswith(_EXAMPLE)}
    examples = list(named.values())
    if not examples:
        raise ValueError("it holds no example")
    for name, array in stored.items():
        fits = modality.is_one(array) if name in named else array.dtype.kind in "biuf"
        if not fits:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    expected, found = (ragged.unpacked(stored, prefix) for prefix in (_EXPECTED, _FOUND))
    if not expected:
        raise ValueError("it holds no outputs of Keras")
    answers = {name.removeprefix(_ANSWERS): array for name, array in stored.items() if name.startswith(_ANSWERS)}
    if answers and {name: array.ndim for name, array in answers.items()} != {"tokens": 2, "margins": 2}:
        raise ValueError("its answers are incomplete")
    for name, rows in [*expected.items(), *found.items(), *answers.items()]:
        if (not isinstance(rows, ragged.Ragged) and not rows.ndim) or len(rows) != len(examples):
            raise ValueError(f"{name} does not have one row for each of {len(examples)} examples")
    if not _shapes(found).items() <= _shapes(expected).items():
        raise ValueError("its outputs at export do not have the shapes of Keras's")
    return Golden(examples, expected, found or None, Answers(**answers) if answers else None)


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: (one.values if isinstance(one, ragged.Ragged) else one).shape[1:] for name, one in arrays.items()}


def _files(folder: Path) -> list[str]:
    """Returns the paths of all files of an artifact, except its manifest and its report."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    inner = (path.relative_to(folder) for path in paths)
    return [
        path.as_posix()
        for path in inner
        if path.as_posix() not in (MANIFEST, REPORT)
        and path.parts[0] not in _MADE_HERE
        and not is_hidden(path.as_posix(), REPORT)  # another process verifies it at this moment
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The artifact folder: one exported model with its contract and its proof. The only code that knows its file names.

ARTIFACT/model.tflite | model.onnx | model/1/    the model
ARTIFACT/manifest.json                           the contract: inputs, outputs, preprocessing, labels, hashes
ARTIFACT/golden.npz                              the proof: real inputs, and what Keras said about them
ARTIFACT/report.json                             what the runtime said about them
ARTIFACT/reader.py, artifact.py, …               runs it without kerastune
"""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data import ragged
from kerastune.errors import KerastuneError, VerificationError, shortened
from kerastune.files import absolute
from kerastune.modalities import MODALITIES, Example, Modality
from kerastune.tasks.learnt import LEARNT, Learnt
from kerastune.verifying import manifest as manifests
from kerastune.verifying import verification
from kerastune.verifying.manifest import File, Manifest
from kerastune.verifying.verification import VerificationReport

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
REPORT = "report.json"

_MADE_HERE = {"__pycache__", "js"}  # folders that running a reader, or putting a page's runtime in place, makes
_LARGEST_PROOF = 2**31  # bytes, unpacked

Arrays = ragged.Arrays


@dataclass(frozen=True)
class Answers:
    """What Keras says greedily, where the examples hold an answer of their own.

    Attributes:
        tokens: ids, int32 [n, most], -1 behind the end.
        margins: by how much each token, and what ended it, was likelier than the next likeliest, in nats, float32 [n,
            most + 1].
    """

    tokens: npt.NDArray[np.int32]
    margins: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Real examples, and what was said about them.

    Attributes:
        expected: Keras's outputs by name.
        found: those of a quantised artifact's own runtime, when it was exported.
        answers: Keras's answers, of a model that generates them.
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
    def modality(self) -> Modality:
        """What an example is."""
        return MODALITIES[self.manifest.modality]

    @property
    def learnt(self) -> Learnt:
        """What its outputs are."""
        return LEARNT[self.manifest.learnt]

    @property
    def size_bytes(self) -> int:
        """The model's own size: what a device has to hold."""
        of_model = (file.bytes for name, file in self.manifest.files.items() if name.startswith(self.manifest.model))
        return sum(of_model)

    @property
    def report(self) -> VerificationReport | None:
        """The last verification, if there was one.

        Raises:
            VerificationError: it is damaged.
        """
        path = self.folder / REPORT
        return verification.read(path) if path.is_file() else None

    @cached_property
    def golden(self) -> Golden:
        """The proof.

        Raises:
            VerificationError: golden.npz is damaged, or is no proof.
        """
        try:
            with zipfile.ZipFile(self.folder / GOLDEN) as packed:
                size = sum(one.file_size for one in packed.infolist())
            if size > _LARGEST_PROOF:
                raise ValueError(f"it unpacks to {size:,} bytes")
            with np.load(self.folder / GOLDEN, allow_pickle=False) as stored:
                return _golden({name: stored[name] for name in stored.files})
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise VerificationError(
                f"{self.folder / GOLDEN} is damaged: {shortened(str(error) or type(error).__name__)}.", _AGAIN
            ) from error

    def check_files(self) -> None:
        """Raises VerificationError that names every file that is not as it was written, or was added."""
        changed = []
        for name, expected in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                changed.append(f"{name} is missing")
            elif (found := _sha256(path)) != expected.sha256:
                changed.append(f"{name} has changed (sha256 {found[:12]}, was {expected.sha256[:12]})")
        changed += [f"{name} was added" for name in _files(self.folder) if name not in self.manifest.files]
        if changed:
            raise VerificationError(f"{self.folder} is not what was exported: {'; '.join(changed)}.", _AGAIN)


_AGAIN = "Export it again: kerastune export RUN --target NAME."


def is_artifact(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def load(folder: str | Path) -> Artifact:
    """Opens an artifact folder.

    Raises:
        KerastuneError: the folder is not there, or is no artifact.
    """
    path = absolute(folder)
    if not is_artifact(path):
        what = "has no manifest.json, so it is no artifact" if path.is_dir() else "is not a folder"
        raise KerastuneError(f"{path} {what}.", "kerastune export RUN --target NAME makes one (in RUN/exports/).")
    return Artifact(path)


def inside(folder: Path) -> list[Artifact]:
    """The artifacts in a folder, by name; none of those that are still being written."""
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [Artifact(each) for each in folders if is_artifact(each) and not each.name.startswith(".")]


def write(folder: Path, manifest: Manifest, golden: Golden) -> Artifact:
    """Completes a folder that already holds the model: golden.npz, and the manifest with every file's hash."""
    named: dict[str, npt.NDArray[Any]] = {f"{_EXAMPLE}{i:03}": example for i, example in enumerate(golden.examples)}
    named |= ragged.packed(golden.expected, _EXPECTED) | ragged.packed(golden.found or {}, _FOUND)
    if golden.answers:
        named |= {f"{_ANSWERS}tokens": golden.answers.tokens, f"{_ANSWERS}margins": golden.answers.margins}
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **named)
    files = {name: File(sha256=_sha256(folder / name), bytes=(folder / name).stat().st_size) for name in _files(folder)}
    manifests.write(replace(manifest, files=files), folder / MANIFEST)
    return Artifact(folder)


_EXAMPLE, _EXPECTED, _FOUND, _ANSWERS = "example_", "expected/", "found/", "answers/"


def _golden(stored: Mapping[str, npt.NDArray[Any]]) -> Golden:
    """The proof among the arrays of golden.npz; raises ValueError where they are none."""
    examples = [stored[name] for name in sorted(stored) if name.startswith(_EXAMPLE)]
    if not examples:
        raise ValueError("it holds no example")
    if foreign := sorted(name for name, array in stored.items() if array.dtype.kind not in "biufU"):
        raise ValueError(f"{foreign[0]} is {stored[foreign[0]].dtype}")
    expected, found = (ragged.unpacked(stored, prefix) for prefix in (_EXPECTED, _FOUND))
    if not expected:
        raise ValueError("it holds nothing that Keras said")
    answers = {name.removeprefix(_ANSWERS): array for name, array in stored.items() if name.startswith(_ANSWERS)}
    if answers and {name: array.ndim for name, array in answers.items()} != {"tokens": 2, "margins": 2}:
        raise ValueError("its answers are not whole")
    for name, array in [*expected.items(), *found.items(), *answers.items()]:
        if (not isinstance(array, ragged.Ragged) and not array.ndim) or len(array) != len(examples):
            raise ValueError(f"{name} is not one row for each of {len(examples)} examples")
    return Golden(examples, expected, found or None, Answers(**answers) if answers else None)


def _files(folder: Path) -> list[str]:
    """The paths of all that belongs to an artifact, but for its manifest and its report."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    inner = (path.relative_to(folder) for path in paths)
    return [
        path.as_posix()
        for path in inner
        if path.as_posix() not in (MANIFEST, REPORT) and path.parts[0] not in _MADE_HERE
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The artifact folder: one exported model with its contract and its proof. The only code that knows its file names.

ARTIFACT/model.tflite | model.onnx | model/1/    the model
ARTIFACT/manifest.json                           the contract: inputs, outputs, preprocessing, labels, hashes
ARTIFACT/golden.npz                              the proof: real inputs, and what Keras said about them
ARTIFACT/report.json                             what the runtime said about them
ARTIFACT/reader.py, classify.py                  runs it without kerastune
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.errors import KerastuneError, VerificationError
from kerastune.files import absolute, write_json

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
REPORT = "report.json"

Image = npt.NDArray[np.uint8]
Example = npt.NDArray[Any]
"""An image, uint8 [H, W, 3]; a text or a pair of texts, str [1 or 2]; or a conversation, turns of role and content, str
[T, 2]."""
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Artifact:
    """An exported model."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        return manifest

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.manifest["labels"])

    @property
    def size_bytes(self) -> int:
        """The model's own size: what a device has to hold."""
        return sum(
            file["bytes"] for name, file in self.manifest["files"].items() if name.startswith(self.manifest["model"])
        )

    @property
    def report(self) -> dict[str, Any] | None:
        """The last verification, if there was one."""
        path = self.folder / REPORT
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    @property
    def unit(self) -> str:
        """What an example is: "image" or "text"."""
        return "text" if "text" in self.manifest else "image"

    @property
    def modality(self) -> str:
        """The kind of example that it takes: the name of a row of `kerastune.modalities.MODALITIES`."""
        return modality(self.manifest)

    @property
    def target_kind(self) -> str:
        """What its scores are, as in `kerastune.tasks.scoring`."""
        return str(self.manifest.get("target_kind", "label"))

    def golden(self) -> tuple[list[Example], Scores]:
        """Real validation examples, and Keras's scores on them, float32 [n, K]."""
        with np.load(self.folder / GOLDEN, allow_pickle=False) as stored:
            scores = stored["scores"]
            return [stored[f"{self.unit}_{i}"] for i in range(len(scores))], scores

    def golden_answers(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Of a language model, the answers and margins of `causal_lm.golden_answers`."""
        with np.load(self.folder / GOLDEN, allow_pickle=False) as stored:
            return stored["answers"], stored["margins"]

    def own_scores(self) -> Scores | None:
        """What a quantised artifact's own runtime said about the golden images, float32 [n, K]."""
        with np.load(self.folder / GOLDEN, allow_pickle=False) as stored:
            return stored["found"] if "found" in stored.files else None

    def check_files(self) -> None:
        """Raises VerificationError that names every file that is not as it was written."""
        changed = []
        for name, expected in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file():
                changed.append(f"{name} is missing")
            elif _sha256(path) != expected["sha256"]:
                changed.append(f"{name} has changed (sha256 {_sha256(path)[:12]}, was {expected['sha256'][:12]})")
        if not changed:
            with np.load(self.folder / GOLDEN, allow_pickle=False) as stored:
                if stored["labels"].tolist() != list(self.labels):
                    changed.append(f"{MANIFEST} has other labels than {GOLDEN}")
        if changed:
            raise VerificationError(
                f"{self.folder} is not what was exported: {'; '.join(changed)}.",
                "Export it again: kerastune export RUN --target NAME.",
            )


def modality(manifest: Mapping[str, Any]) -> str:
    """The name of an artifact's modality, such as "image"; older manifests tell by the settings that they hold."""
    return str(manifest.get("modality") or next(name for name, key in _SETTINGS.items() if key in manifest))


_SETTINGS = {"conversation": "chat", "text": "text", "image": "image"}  # modality -> its settings in a manifest


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


def write(
    folder: Path,
    manifest: dict[str, Any],
    examples: Sequence[Example],
    scores: Scores,
    found: Scores | None = None,
    more: dict[str, npt.NDArray[Any]] | None = None,
) -> Artifact:
    """Completes a folder that already holds the model: golden.npz, and the manifest with every file's hash.

    Args:
        found: what a quantised model's own runtime says; other runtimes must say nearly the same.
        more: what Keras says besides scores, by name.
    """
    unit = "text" if "text" in manifest else "image"
    named: dict[str, npt.NDArray[Any]] = {f"{unit}_{i}": example for i, example in enumerate(examples)} | (more or {})
    if found is not None:
        named["found"] = found
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, scores=scores, labels=manifest["labels"], **named)
    files = {
        str(path.relative_to(folder).as_posix()): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, REPORT)
    }
    write_json(folder / MANIFEST, {**manifest, "files": files})
    return Artifact(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

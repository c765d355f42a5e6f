"""Labels for new inputs, from a run (in Keras) or from an artifact (in its own runtime)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kerastune import artifact, run, runtimes
from kerastune.artifact import Artifact, Image
from kerastune.data import images
from kerastune.errors import DataError, KerastuneError
from kerastune.run import Run


@dataclass(frozen=True)
class Prediction:
    """What the model says about one file: labels with probabilities, the most probable first."""

    file: str
    labels: tuple[tuple[str, float], ...]


def predict(
    of: Run | Artifact | str | Path, paths: str | Path | Sequence[str | Path], top: int = 3
) -> list[Prediction]:
    """The `top` most probable labels of each image file, read as in training.

    Raises:
        DataError: files that cannot be read, all of them at once.
        KerastuneError: `of` is neither a run nor an artifact.
        ConverterError: the artifact's runtime failed.
    """
    if isinstance(of, str | Path):
        of = _open(run.absolute(of))
    paths = [paths] if isinstance(paths, str | Path) else paths
    pixels = _read(paths)
    if isinstance(of, Artifact):
        of.check_files()
        scores = runtimes.ask(of, of.manifest["runtime"], pixels).scores
    else:
        from kerastune.tasks import TASKS

        task_kind = TASKS[of.recipe.task]
        scores = task_kind.reference(task_kind.load(str(of.folder)), pixels)
    ranked = (-scores).argsort(axis=-1, kind="stable")[:, :top]
    return [
        Prediction(str(path), tuple((of.labels[i], float(row[i])) for i in order))
        for path, row, order in zip(paths, scores, ranked, strict=True)
    ]


def _open(folder: Path) -> Run | Artifact:
    if artifact.is_artifact(folder):
        return artifact.load(folder)
    if run.is_run(folder):
        return run.load(folder)
    raise KerastuneError(
        f"{folder} is neither a run nor an artifact." if folder.exists() else f"There is no folder {folder}.",
        "kerastune run RECIPE makes a run folder; its artifacts are in RUN/exports/.",
    )


def _read(paths: Sequence[str | Path]) -> list[Image]:
    pixels, problems = [], []
    for path in paths:
        try:
            encoded = Path(path).read_bytes()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if problem := images.check(encoded, str(path)).problem:
            problems.append(f"{path}: {problem}")
        else:
            pixels.append(images.decode(encoded))
    if problems:
        raise DataError("\n".join(["Some files cannot be read:", *problems]), "Mend them or leave them out.")
    return pixels

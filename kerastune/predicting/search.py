"""Searches texts by meaning, or photos by what they show, with vectors from a run or an artifact."""

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kerastune import files
from kerastune.data import cells
from kerastune.data.source import Problem, counted
from kerastune.data.sources.rows import rows
from kerastune.data.sources.table import cleaned, in_column
from kerastune.errors import DataError, KerastuneError, listed, printable
from kerastune.predicting.catalogue import photos_in
from kerastune.predicting.inference import device_of, learnt_by, opened, outputs
from kerastune.progress import Progress
from kerastune.run import Run
from kerastune.tasks.learnt.vectors import VECTORS, unit
from kerastune.verifying.artifact import Artifact

Vectors = npt.NDArray[np.float32]
Model = Run | Artifact | str | Path


@dataclass(frozen=True)
class Hit:
    """A found text, or the path of a photo in its folder, and the cosine of its vector and the query's."""

    found: str
    similarity: float


def embed(of: Model, asked: str | Path | Sequence[str | Path]) -> Vectors:
    """Returns the vectors of texts, or of image files, float32 [n, D]; of length 1 if a text preset normalises them.

    Raises:
        DataError: a text is empty, or files cannot be read (names them all).
        KerastuneError: `of` makes no vectors.
    """
    return _embedded(opened(of), [asked] if isinstance(asked, str | Path) else asked)[0]


def search(
    of: Model,
    index: str | Path,
    query: str | Path,
    *,
    top: int = 5,
    column: str = "text",
    save: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Hit]:
    """Returns the `top` texts of a file, or photos of a folder, that are most similar to a query, by cosine.

    Args:
        index: a .csv, .jsonl or .parquet file with a column of texts, a .txt file with one text per line (each text is
            found once), a folder of photos, or an .npz file written by `save`.
        query: a text, or an image file.
        save: a new .npz file for the vectors of `index`.

    Raises:
        DataError: the texts or photos cannot be read (names every bad one), or the query is empty.
        KerastuneError: `of` makes no vectors; the index was made with another model; `save` exists.
    """
    progress, path, of = progress or Progress(), files.absolute(index), opened(of)
    if save is not None:
        _refuse_save(files.absolute(save), path)
    if path.suffix == ".npz":
        names, vectors, model = _read_index(path)
        asked, now = _embedded(of, [query])
        if model != now:
            raise KerastuneError(
                f"{path} was made with another model ({model[:12]}, this one is {now[:12]}), so its vectors cannot be "
                "compared.",
                "Build it again with this model: --index FILE --save INDEX.npz",
            )
    else:
        _require_vectors(of)
        modality = device_of(of).modality
        read = _photos if modality.is_picture else partial(_texts, column=column)
        names, examples = read(path, progress)
        progress.say(f"Embedding {len(names):,} {modality.plural}")
        found, now = _embedded(of, [query, *examples])
        asked, vectors = found[:1], found[1:]
    if save is not None:
        _write_index(files.absolute(save), names, vectors, now)
    near = unit(vectors) @ unit(asked)[0]
    return [Hit(names[i], float(near[i])) for i in np.argsort(-near, kind="stable")[:top]]


def makes_vectors(of: Run | Artifact) -> bool:
    """Returns whether a run or an artifact makes vectors."""
    return learnt_by(of) in VECTORS


def _require_vectors(of: Run | Artifact) -> None:
    if not makes_vectors(of):
        raise KerastuneError(
            f"{of.folder} does not make vectors.",
            'A recipe with task = "text_embedding" or "image_embedding" trains a model that does.',
        )


def _embedded(of: Run | Artifact, asked: Sequence[str | Path]) -> tuple[Vectors, str]:
    """Returns the vectors of texts or image files, and a hash of the model that made them."""
    _require_vectors(of)
    found = outputs(of, device_of(of).modality.ask(asked, 1).examples, {})
    return np.asarray(found["embeddings"]), _fingerprint(of)


def _fingerprint(of: Run | Artifact) -> str:
    """Returns a sha256 of the model and its preprocessing; vectors of different models cannot be compared."""
    if isinstance(of, Artifact):
        return of.manifest.sha256
    found = hashlib.sha256()
    for path in sorted(path for pattern in _MODEL for path in of.folder.glob(pattern) if path.is_file()):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


_MODEL = ("*.weights.h5", "task.json", "config.json", "preprocessor.json", "tokenizer.json", "assets/**/*")


def _photos(folder: Path, progress: Progress) -> tuple[list[str], list[str | Path]]:
    """Returns the paths of the photos in a folder, as they are found and as they are opened."""
    paths = photos_in(folder)
    return [path.relative_to(folder).as_posix() for path in paths], [*paths]


def _texts(path: Path, progress: Progress, column: str) -> tuple[list[str], list[str | Path]]:
    """Returns the distinct texts of a file, in its order, as they are found and as they are asked; says what is left
    out."""
    notes = Counter[str]()
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    kind = path.suffix[1:].lower()
    if kind == "txt":
        try:
            found = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}.") from error
        texts = [line.strip() for line in found if line.strip()]
    elif kind in ("csv", "jsonl", "parquet"):
        texts, problems = _column(path, kind, column, notes)
        if problems:
            raise DataError(
                f"{printable(path.name)} has rows that cannot be read:\n{listed(problems)}", "Mend or remove them."
            )
    else:
        raise DataError(f"{path} is not a .csv, .jsonl, .parquet, .txt or .npz file.")
    if not texts:
        raise DataError(f"{path} holds no texts.")
    distinct = list(dict.fromkeys(texts))
    if repeated := len(texts) - len(distinct):
        notes["the same text as an earlier one, left out"] += repeated
    for what, count in notes.items():
        progress.say(f"note: {counted(count, 'line' if kind == 'txt' else 'row')}: {what}")
    return distinct, [*distinct]


def _column(path: Path, kind: str, column: str, notes: Counter[str]) -> tuple[list[str], list[Problem]]:
    """Returns the texts of a column, and the problems of the others."""
    texts, problems = [], []
    for number, row in rows(str(path), kind, {"--column": column}, notes):
        found = Problem("", row) if isinstance(row, str) else in_column(column, cells.text(row[column], "text"))
        if isinstance(found, Problem):
            problems.append(Problem(f"{'row' if kind == 'parquet' else 'line'} {number}", found.text))
        else:
            texts.append(cleaned(notes, found))
    return texts, problems


# --- an index that is kept -----------------------------------------------------------------------------------


def _refuse_save(save: Path, index: Path) -> None:
    if save.suffix != ".npz" or index.suffix == ".npz":
        raise KerastuneError(
            "An index is saved of a file of texts or a folder of photos, in a new .npz file.", "--save INDEX.npz"
        )
    if save.exists():
        raise KerastuneError(f"{save} already exists.", "Give another name to --save, or use it: --index.")
    if not save.parent.is_dir():
        raise KerastuneError(f"There is no folder {save.parent} to save the index in.")


def _write_index(path: Path, texts: Sequence[str], vectors: Vectors, model: str) -> None:
    """Writes vectors float32 [n, D], the texts as JSON bytes (an array would make each as wide as the longest), and the
    model's hash."""
    said = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    with files.whole_file(path) as file:
        np.savez(file, allow_pickle=False, vectors=vectors, texts=said, model=np.array(model))


def _read_index(path: Path) -> tuple[list[str], Vectors, str]:
    try:
        # NumPy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            texts, vectors, model = json.loads(stored["texts"].tobytes()), stored["vectors"], str(stored["model"])
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(f"{len(texts)} texts and vectors {vectors.dtype} {vectors.shape}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise KerastuneError(
            f"{path} is not an index saved by kerastune: {error}.", "--index FILE --save INDEX.npz makes one."
        ) from error
    return texts, vectors, model

"""Adds a catalogue of products to an artifact of vectors, which then names the product in a photo, or says "unknown".

Nothing is trained: the artifact's own runtime makes the vectors.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import files
from kerastune.errors import DataError, KerastuneError
from kerastune.modalities.image import EXTENSIONS, IMAGE
from kerastune.predicting.inference import learnt_by, opened, outputs
from kerastune.progress import Progress
from kerastune.run import Run
from kerastune.targets import catalogue as reader
from kerastune.tasks.learnt.vectors import VECTORS
from kerastune.verifying import artifact
from kerastune.verifying.artifact import Artifact

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

KEPT = 0.98
"""Share of the five nearest photos of each photo that int8 vectors must keep; otherwise they stay in float32."""


_CARD = """
## Catalogue

`python reader.py . photo.jpg` names {products} products, from {photos} photos, by the nearest vector. It says "unknown"
below a cosine of {threshold:.4f}, which about {false_accepts:.0%} of photos of other products exceed.
"""


@dataclass(frozen=True)
class Facts:
    """What is known about a catalogue from its own photos. Cosines are those of their vectors.

    Attributes:
        threshold: a photo whose best cosine is lower is of an unknown product.
        false_accepts: the share of photos of unknown products that the threshold was chosen to let pass: each photo was
            compared with the photos of all other products.
        enough: whether there were enough photos for that share.
        recognised: the share of photos that are nearest to another one of their own product, above the threshold; None
            if no product has two.
        dtype: "int8" or "float32", of the vectors.
        kept: the share of the five nearest photos that int8 keeps.
    """

    products: int
    photos: int
    threshold: float
    false_accepts: float
    enough: bool
    recognised: float | None
    dtype: str
    kept: float


def index(
    of: Artifact | Run | str | Path,
    photos: str | Path,
    out: str | Path,
    *,
    false_accepts: float = 0.05,
    progress: Progress | None = None,
) -> tuple[Artifact, Facts]:
    """Writes a copy of an artifact with a catalogue of the photos, added to the catalogue that it has.

    Args:
        of: an artifact of image vectors; or a run with one artifact.
        photos: a folder with a folder of photos for each product, or with a photo for each product.
        out: the new artifact's folder.
        false_accepts: the share of photos of unknown products that may be taken for a known one, above 0 and below 1.

    Raises:
        DataError: photos cannot be read (names them all), or there are fewer than two products.
        KerastuneError: `of` makes no vectors of images, or `out` exists.
    """
    progress, source, folder = progress or Progress(), _artifact(opened(of)), files.absolute(out)
    files.refuse_existing(folder, False, "artifact")
    if not 0 < false_accepts < 1:
        raise KerastuneError(f"false_accepts = {false_accepts} is not between 0 and 1.")
    paths = photos_in(files.absolute(photos))
    named = _products(files.absolute(photos), paths)
    asked = IMAGE.ask(paths, 1)
    with progress.working(f"embedding {len(paths):,} photos"):
        vectors = np.asarray(outputs(source, asked.examples, {})["embeddings"], np.float32)
    names: list[str] = []
    products, known = np.zeros(0, np.int32), np.zeros((0, vectors.shape[-1]), np.float32)
    if (source.folder / reader.FILE).is_file():
        names, products, known = reader.opened(source.folder)
    number = {name: i for i, name in enumerate(dict.fromkeys([*names, *named]))}
    if len(number) < 2:
        raise DataError(f"{photos} holds one product.", "A catalogue needs at least two, to tell them apart.")
    vectors = np.concatenate([known, reader.unit(vectors)]).astype(np.float32)
    products = np.concatenate([products, [number[name] for name in named]]).astype(np.int32)
    stored, scales, kept = _quantised(vectors)
    facts = _facts(reader.unit(stored * scales[:, None]), products, false_accepts, stored.dtype.name, kept)
    with files.whole_folder(folder, kind="artifact") as partial:
        shutil.copytree(source.folder, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        said = np.frombuffer(json.dumps(list(number)).encode(), np.uint8)
        arrays: dict[str, npt.NDArray[Any]] = {"names": said, "products": products, "vectors": stored, "scales": scales}
        np.savez(partial / reader.FILE, allow_pickle=False, **arrays)
        with resources.as_file(resources.files("kerastune.targets") / "catalogue.py") as module:
            shutil.copy(module, partial)
        with (partial / "README.md").open("a", encoding="utf-8") as card:
            card.write(_CARD.format(**asdict(facts)))
        extras = {**source.manifest.extras, "catalogue": asdict(facts)}
        artifact.seal(partial, replace(source.manifest, extras=extras))
    return artifact.load(folder), facts


def _artifact(of: Run | Artifact) -> Artifact:
    if isinstance(of, Run):
        made = artifact.inside(of.exports)
        if len(made) != 1:
            there = ", ".join(str(one.folder) for one in made) or "none"
            raise KerastuneError(
                f"{of.folder} has {len(made)} artifacts: {there}.", "Name the one to add a catalogue to."
            )
        (of,) = made
    if learnt_by(of) not in VECTORS or of.modality is not IMAGE:
        raise KerastuneError(
            f"{of.folder} does not make vectors of images.",
            'A recipe with task = "image_embedding" trains a model that does.',
        )
    of.check_files()
    return of


def photos_in(folder: Path) -> list[Path]:
    """Returns the photos in a folder and those below it, sorted, without hidden ones.

    Raises:
        DataError: there is no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} of photos.")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower().lstrip(".") in EXTENSIONS]
    seen = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not seen:
        raise DataError(f"{folder} holds no photo.", f"Photos end with {', '.join(EXTENSIONS)}.")
    return seen


def _products(folder: Path, photos: Sequence[Path]) -> list[str]:
    """Returns the product of each photo: the name of its folder, or its own."""
    below = [path.relative_to(folder).parts for path in photos]
    return [parts[0] if len(parts) > 1 else Path(parts[0]).stem for parts in below]


def _quantised(vectors: Vectors) -> tuple[npt.NDArray[Any], Vectors, float]:
    """Returns vectors in int8 with a scale each, if they keep who is near whom, and the share that they keep."""
    scales = (np.abs(vectors).max(-1) / 127).astype(np.float32)
    rounded = np.round(vectors / np.maximum(scales, 1e-12)[:, None]).astype(np.int8)
    kept = _agreement(vectors, reader.unit(rounded * scales[:, None]))
    if kept >= KEPT:
        return rounded, scales, kept
    return vectors, np.ones(len(vectors), np.float32), kept


def _agreement(vectors: Vectors, others: Vectors) -> float:
    """Returns the share of each vector's five nearest other ones that are among those in the other form."""
    ours, theirs = (_nearest(each, min(5, len(vectors) - 1)) for each in (vectors, others))
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(ours, theirs, strict=True)]))


def _nearest(vectors: Vectors, count: int) -> list[list[int]]:
    return [np.argsort(-_near(vectors, i), kind="stable")[:count].tolist() for i in range(len(vectors))]


def _near(vectors: Vectors, i: int) -> Vectors:
    near: Vectors = vectors @ vectors[i]
    near[i] = -np.inf  # itself
    return near


def _facts(vectors: Vectors, products: Ints, false_accepts: float, dtype: str, kept: float) -> Facts:
    own, other = [], []
    for i, product in enumerate(products):
        near, is_own = _near(vectors, i), products == product
        own.append(near[is_own].max(initial=-np.inf))
        other.append(near[~is_own].max())
    impostors, matches = np.sort(other)[::-1], np.array(own)
    may_pass = int(false_accepts * (len(other) + 1))  # split-conformal: ranks among the photos and a new one
    threshold = float(np.nextafter(impostors[max(may_pass - 1, 0)], np.float32(2)))
    has = np.isfinite(matches)
    right = (matches >= threshold) & (matches > np.array(other))
    return Facts(
        products=len(set(products.tolist())),
        photos=len(products),
        threshold=threshold,
        false_accepts=false_accepts,
        enough=may_pass > 0,
        recognised=float(right[has].mean()) if has.any() else None,
        dtype=dtype,
        kept=kept,
    )

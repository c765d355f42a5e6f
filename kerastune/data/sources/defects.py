"""Reads pictures of good and defective pieces from folders, CSV files and TFDS; and masks."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kerastune import assets, files
from kerastune.data.source import Example, Outlined, Problem, Progress, Source, asset_folder, counted
from kerastune.data.sources import csv, folder, tfds
from kerastune.data.truths import OUTLINE, outline
from kerastune.errors import DataError, printable
from kerastune.modalities.image import LARGEST, decode
from kerastune.recipe.image_sources import CsvDefects, FolderDefects, TfdsDefects

MASKS = "ground_truth"
"""The folder of masks beside the splits, as in MVTec AD."""


def examples(settings: FolderDefects | CsvDefects | TfdsDefects, progress: Progress) -> Source:
    """Lists the pictures. Defective ones never train.

    Raises:
        DataError: the pictures are not there, are laid out otherwise, or none is good.
    """
    source, masks = _READERS[settings.source](settings, progress)
    labels = {str(example.label) for example in source.examples}
    if settings.good not in labels:
        raise DataError(
            f"{source.where[0].upper()}{source.where[1:]} holds no {settings.good!r} for good pictures, "
            f"but {', '.join(sorted(map(printable, labels)))}.",
            "In folders, put the good ones into PATH/good (or PATH/train/good …); or name them: data.good.",
        )
    found, problems, outlined = list[Example](), list(source.problems), 0
    for example in source.examples:
        if example.label == settings.good:
            found.append(example)
            continue
        if example.split == "train":
            problems.append(Problem(example.id, "is defective and in train, where only good pictures are learnt"))
            continue
        try:
            mask = _mask(masks, example) if masks else None
        except (OSError, ValueError) as error:
            problems.append(Problem(example.id, f"has a mask that cannot be read: {error}"))
            continue
        outlined += mask is not None
        label = example.label if mask is None else Outlined(str(example.label), outline(mask))
        found.append(replace(example, label=label, trains=False))
    defective = sum(not example.trains for example in found)
    if masks and getattr(settings, "masks", None) and not outlined:
        raise DataError(
            f"{printable(str(masks))} holds a mask of none of the {counted(defective, 'defective picture')}.",
            "Expected masks/<kind>/NAME.png or masks/<kind>/NAME_mask.png for the picture <kind>/NAME.jpg.",
        )
    kept = {example.id for example in found}
    read = [i for i, example in enumerate(source.examples) if example.id in kept]
    return replace(
        source,
        examples=found,
        read=lambda i: source.read(read[i]),
        labels=(settings.good, *sorted(labels - {settings.good})),
        problems=tuple(problems),
        notes=(*source.notes, *([f"{outlined:,} of {defective:,} defective pictures have masks"] if outlined else [])),
    )


def _in_folders(settings: FolderDefects, progress: Progress) -> tuple[Source, Path]:
    root = asset_folder(settings.path) if settings.path in assets.ASSETS else settings.path
    masks = settings.masks or os.path.join(root, MASKS)
    apart = os.path.basename(masks) if os.path.dirname(masks) == root else None
    return folder.examples(settings.model_copy(update={"path": root}), progress, apart), Path(masks)


def _in_csv(settings: CsvDefects, progress: Progress) -> tuple[Source, Path]:
    root = settings.images or os.path.dirname(settings.path)
    return csv.examples(settings, progress), Path(settings.masks or os.path.join(root, MASKS))


def _in_tfds(settings: TfdsDefects, progress: Progress) -> tuple[Source, None]:
    """Returns the data set; its train split is where validation and test are taken from, so defects may be there."""
    source = tfds.examples(settings, progress)
    loose = [
        replace(one, split=None) if one.split == "train" and one.label != settings.good else one
        for one in source.examples
    ]
    return replace(source, examples=loose), None


_READERS: dict[str, Callable[[Any, Progress], tuple[Source, Path | None]]] = {
    "folder": _in_folders,
    "csv": _in_csv,
    "tfds": _in_tfds,
}
"""Functions that list the pictures and say where masks may be, by source."""


def _mask(masks: Path, example: Example) -> npt.NDArray[np.bool_] | None:
    """Returns a defective picture's mask, bool [OUTLINE, OUTLINE], or None if there is none.

    A cell is in the mask if any of its pixels is.
    """
    name = Path(example.id)
    for parent in (masks / str(example.split) / str(example.label), masks / str(example.label)):
        for path in (parent / f"{name.stem}.png", parent / f"{name.stem}_mask.png"):
            if path.is_file():
                pixels = decode(files.read_bounded(path, LARGEST, "an image"))[..., 0] > 127  # [H, W]
                return _reduced(pixels)
    return None


def _reduced(pixels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Returns a mask of another size as bool [OUTLINE, OUTLINE], without losing small parts."""
    rows, columns = (np.arange(size) * OUTLINE // size for size in pixels.shape)
    if min(pixels.shape) < OUTLINE:  # enlarged: every cell takes the pixel at its place
        scaled = Image.fromarray(pixels).resize((OUTLINE, OUTLINE), Image.Resampling.NEAREST)
        return np.asarray(scaled, np.bool_)
    found = np.zeros((OUTLINE, OUTLINE), np.bool_)
    y, x = np.nonzero(pixels)
    found[rows[y], columns[x]] = True
    return found

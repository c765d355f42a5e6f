"""Reads pictures of good and defective pieces: a folder of good ones, a folder for each kind of defect, and masks."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from kerastune import assets, files
from kerastune.data.source import Example, Outlined, Problem, Progress, Source, asset_folder, counted
from kerastune.data.sources import folder
from kerastune.data.truths import OUTLINE, outline
from kerastune.errors import DataError, printable
from kerastune.modalities.image import LARGEST, decode
from kerastune.recipe.sources import DefectData

MASKS = "ground_truth"
"""The folder of masks beside the splits, as in MVTec AD."""


def examples(settings: DefectData, progress: Progress) -> Source:
    """Lists the pictures below a folder. Defective ones never train.

    Raises:
        DataError: there is no such folder or fetched asset, its layout is another, or no picture is good.
    """
    root = settings.path
    if root in assets.ASSETS:
        root = asset_folder(root)
    masks = settings.masks or os.path.join(root, MASKS)
    apart = os.path.basename(masks) if os.path.dirname(masks) == root else None
    source = folder.examples(settings.model_copy(update={"path": root}), progress, apart)
    labels = {str(example.label) for example in source.examples}
    if settings.good not in labels:
        raise DataError(
            f"{source.where[0].upper()}{source.where[1:]} holds no folder {settings.good!r} with good pictures, "
            f"but {', '.join(sorted(map(printable, labels)))}.",
            "Put the good ones into PATH/good (or PATH/train/good …), or name their folder: data.good.",
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
            mask = _mask(Path(masks), example)
        except (OSError, ValueError) as error:
            problems.append(Problem(example.id, f"has a mask that cannot be read: {error}"))
            continue
        outlined += mask is not None
        label = example.label if mask is None else Outlined(str(example.label), outline(mask))
        found.append(replace(example, label=label, trains=False))
    defective = sum(not example.trains for example in found)
    if settings.masks and not outlined:
        raise DataError(
            f"{printable(masks)} holds a mask of none of the {counted(defective, 'defective picture')}.",
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

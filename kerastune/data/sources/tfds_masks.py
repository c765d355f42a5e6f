"""Reads pictures with masks from a TensorFlow Datasets data set: an image, and one with the class of each pixel."""

import os
from typing import Any

import numpy as np

from kerastune.data.source import Example, Problem, Progress, Source
from kerastune.data.sources import tfds as records
from kerastune.data.sources.masks import masked
from kerastune.errors import DataError
from kerastune.modalities import image
from kerastune.recipe.mask_sources import TfdsMasks


def examples(settings: TfdsMasks, progress: Progress) -> Source:
    """Reads the wanted splits of a TFDS data set.

    Raises:
        DataError: the data set, a split or a feature does not exist, or it cannot be downloaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is first imported
    import tensorflow_datasets as tfds

    builder = records.prepared(tfds, settings, progress)
    _require_features(tfds, builder, settings)
    found, problems, spool = list[Example](), list[Problem](), records.Spool()
    splits, notes = records.wanted_splits(builder, settings)
    with records.reading(builder, settings), spool.writing() as append:
        for split, spec in splits.items():
            for id, record in records.pictures(tfds, builder, settings, spec, settings.mask_key, progress):
                data = record[settings.image_key]
                pixels = np.asarray(record[settings.mask_key])
                pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
                group = records.group(record, settings)
                if isinstance(group, Problem):
                    problems.append(Problem(id, group.text))
                    continue
                try:
                    label = masked(settings, pixels, image.upright_size(data), "its picture")
                except ValueError as error:
                    problems.append(Problem(f"{id}, {settings.mask_key}", str(error)))
                    continue
                append(data)
                found.append(Example(id, label, split, group))
    return Source(
        where=f"the TFDS data set {settings.name}",
        examples=found,
        read=spool.read,
        labels=settings.classes,
        colors=settings.colors,
        mendable=False,
        problems=tuple(problems),
        notes=notes,
    )


def _require_features(tfds: Any, builder: Any, settings: TfdsMasks) -> None:
    """Raises DataError if the data set has no such features."""
    features = dict(builder.info.features.items())
    there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    for what, key in (("image", settings.image_key), ("mask", settings.mask_key)):
        if not isinstance(features.get(key), tfds.features.Image):
            raise DataError(
                f"{settings.name} has no {what} called {key!r}.", f"data.{what}_key names it. Features: {there}."
            )
    group = settings.group_key and features.get(settings.group_key)
    if settings.group_key and (not group or group.shape != ()):
        raise DataError(f"{settings.name} has no feature called {settings.group_key!r}.", f"Features: {there}.")

"""Reads pictures with boxes from a TensorFlow Datasets data set: a sequence of objects, each with a box and a label."""

import os
from collections.abc import Iterator
from typing import Any

from kerastune.data.source import Box, Boxed, Example, Problem, Progress, Source
from kerastune.data.sources import tfds as records
from kerastune.data.sources.boxes import Drawn, Examined
from kerastune.errors import DataError
from kerastune.modalities import image
from kerastune.recipe.box_sources import TfdsBoxes


def examples(settings: TfdsBoxes, progress: Progress) -> Source:
    """Reads the wanted splits of a TFDS data set.

    Raises:
        DataError: the data set, a split or a feature does not exist, or it cannot be downloaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is first imported
    import tensorflow_datasets as tfds

    builder = records.prepared(tfds, settings, progress)
    names = _names(tfds, builder, settings)
    examined, found, spool = Examined(settings), list[Example](), records.Spool()
    problems = list[Problem]()
    splits, notes = records.wanted_splits(builder, settings)
    with records.reading(builder, settings), spool.writing() as append:
        for split, spec in splits.items():
            for id, record in records.pictures(tfds, builder, settings, spec, settings.objects_key, progress):
                data = record[settings.image_key]
                group = records.group(record, settings)
                if isinstance(group, Problem):
                    problems.append(Problem(id, group.text))
                    continue
                size = image.upright_size(data)
                drawn = list(_drawn(record[settings.objects_key], names, settings, id, size or (1, 1)))
                label = examined.picture(id, size, drawn) if size else Boxed((), 1, 1)
                if label is not None:
                    append(data)
                    found.append(Example(id, label, split, group))
    return Source(
        where=f"the TFDS data set {settings.name}",
        examples=found,
        read=spool.read,
        labels=names,
        mendable=False,
        problems=(*problems, *examined.problems),
        notes=(*notes, *examined.notes()),
    )


def _names(tfds: Any, builder: Any, settings: TfdsBoxes) -> tuple[str, ...]:
    """Returns the label names in the data set's own order.

    Raises:
        DataError: it has no such features.
    """
    features = dict(builder.info.features.items())
    there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    if not isinstance(features.get(settings.image_key), tfds.features.Image):
        raise DataError(f"{settings.name} has no image called {settings.image_key!r}.", f"Features: {there}.")
    group = settings.group_key and features.get(settings.group_key)
    if settings.group_key and (not group or group.shape != ()):
        raise DataError(f"{settings.name} has no feature called {settings.group_key!r}.", f"Features: {there}.")
    objects = getattr(features.get(settings.objects_key), "feature", None) or {}
    inside = {key: objects[key] for key in (settings.box_key, settings.label_key) if key in objects}
    if not isinstance(inside.get(settings.box_key), tfds.features.BBoxFeature):
        raise DataError(
            f"{settings.name} has no boxes called {settings.objects_key!r} / {settings.box_key!r}.",
            f"data.objects_key and data.box_key name them. Features: {there}.",
        )
    label = inside.get(settings.label_key)
    if not isinstance(label, tfds.features.ClassLabel):
        raise DataError(
            f"{settings.name} has no label called {settings.objects_key!r} / {settings.label_key!r}.",
            f"data.label_key names it. Features: {there}.",
        )
    return tuple(label.int2str(i) for i in range(label.num_classes))


def _drawn(
    objects: dict[str, Any], names: tuple[str, ...], settings: TfdsBoxes, id: str, size: tuple[int, int]
) -> Iterator[Drawn]:
    """Yields the boxes of a record; TFDS has them in shares of the picture, as ymin, xmin, ymax, xmax."""
    width, height = size
    rows = zip(objects[settings.box_key].tolist(), objects[settings.label_key].tolist(), strict=True)
    for n, ((top, left, bottom, right), number) in enumerate(rows):
        box = Box(names[number], left * width, top * height, right * width, bottom * height)
        yield Drawn(f"{id}, object {n}", box)

"""Reads pictures with boxes in the layout of Ultralytics: images/ and labels/ in parallel, and a data.yaml.

A label file has a line for each box: class, and centre x, centre y, width and height in shares of the picture. Longer
lines are the corners of a polygon, which give its box.
"""

import os
from collections.abc import Iterator
from typing import Any

import yaml

from kerastune import assets, files
from kerastune.data import limits
from kerastune.data.source import (
    Box,
    Boxed,
    Example,
    Problem,
    Progress,
    Source,
    asset_folder,
    counted,
    inside,
    named,
    relative,
    some,
)
from kerastune.data.sources.boxes import Drawn, Examined, size_of
from kerastune.errors import DataError, quoted
from kerastune.modalities.image import EXTENSIONS, LARGEST
from kerastune.recipe.box_sources import YoloData

_KEYS = {"train": "train", "val": "validation", "test": "test"}
_LAYOUT = (
    "Expected data.yaml with   names: [tree, car]   train: images/train   val: images/val   beside images/train/1.jpg "
    "and labels/train/1.txt."
)
_LARGEST_LABELS = 2**24  # bytes of a label file or of data.yaml


def examples(settings: YoloData, progress: Progress) -> Source:
    """Lists the pictures that data.yaml names. One without a label file shows nothing that is looked for.

    Raises:
        DataError: data.yaml is not there, is not valid, or names folders without pictures.
    """
    path = asset_folder(settings.path) if settings.path in assets.ASSETS else settings.path
    if os.path.isdir(path):
        path = next((p for p in (os.path.join(path, f"data.{e}") for e in ("yaml", "yml")) if os.path.isfile(p)), path)
    if not os.path.isfile(path):
        raise DataError(f"There is no file {named(os.path.join(path, 'data.yaml'))}.", _LAYOUT)
    document = _document(path)
    root = os.path.normpath(os.path.join(os.path.dirname(path), document.get("path") or "."))
    names = _class_names(document, path)
    examined, paths, found, problems, unlabelled = Examined(settings), list[str](), list[Example](), [], list[str]()
    parts = {split: document[key] for key, split in _KEYS.items() if document.get(key)}
    for split, places in parts.items():
        pictures = [
            one for place in ([places] if isinstance(places, str) else places) for one in _pictures(root, place)
        ]
        if not pictures:
            raise DataError(f"{named(path)}: {split} names {quoted(places)}, where there is no picture.", _LAYOUT)
        for n, picture in enumerate(pictures, start=1):
            progress(f"reading labels of {split}", n, len(pictures))
            id = relative(picture, root)
            if not inside(os.path.realpath(picture), os.path.realpath(root)):
                problems.append(Problem(id, f"is a link that leads outside {named(root)}"))
                continue
            size, labels = size_of(picture), _labels_of(picture)
            drawn = list[Drawn]()
            if os.path.isfile(labels):
                before = len(problems)
                drawn = list(_drawn(labels, root, names, size or (1, 1), problems))
                if len(problems) > before:
                    continue
            else:
                unlabelled.append(id)
            label = examined.picture(id, size, drawn) if size else Boxed((), 1, 1)
            if label is not None:
                paths.append(picture)
                declared = split if len(parts) > 1 else None
                found.append(Example(id, label, declared))
    problems += examined.problems
    if not problems and not any(isinstance(one.label, Boxed) and one.label.boxes for one in found):
        raise DataError(f"None of {counted(len(found), 'picture')} of {named(path)} has a box.", _LAYOUT)
    nothing = (
        f"{counted(len(unlabelled), 'picture')} without a label file, read as showing nothing ({some(unlabelled)})"
    )
    return Source(
        where=named(path),
        examples=found,
        read=lambda i: files.read_bounded(paths[i], LARGEST, "an image"),
        labels=tuple(dict.fromkeys(names)),
        problems=tuple(problems),
        notes=(*([nothing] if unlabelled else []), *examined.notes()),
    )


def _document(path: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(files.read_bounded(path, _LARGEST_LABELS, "data.yaml").decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"The file {named(path)} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{named(path)} is not valid YAML: {named(' '.join(str(error).split()))}.", _LAYOUT) from error
    if not isinstance(document, dict) or not document.get("train"):
        raise DataError(f"{named(path)} does not name the pictures of `train`.", _LAYOUT)
    for key in ("path", *_KEYS):
        value = document.get(key)
        is_list = key in _KEYS and isinstance(value, list) and all(isinstance(one, str) for one in value)
        if value is not None and not isinstance(value, str) and not is_list:
            raise DataError(f"{named(path)}: {key} is {quoted(value)}, not a path.", _LAYOUT)
    return document


def _class_names(document: dict[str, Any], path: str) -> list[str]:
    names = document.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str | int) and str(n).strip() for n in names):
        raise DataError(f"{named(path)}: names is {quoted(names)}, not a list of class names.", _LAYOUT)
    return [str(name) for name in names]


def _pictures(root: str, place: str) -> Iterator[str]:
    """Yields the pictures in a folder, or those that a .txt file lists."""
    full = os.path.normpath(os.path.join(root, place))
    if not os.path.exists(full) and place.startswith("../"):  # as Roboflow writes it
        full = os.path.normpath(os.path.join(root, place.removeprefix("../")))
    if not inside(full + os.sep, root):
        raise DataError(f"{named(place)} leads outside {named(root)}; paths in data stay inside their folder.")
    if os.path.isfile(full):
        listed = files.read_bounded(full, limits.TABLE, "a list of pictures").decode("utf-8-sig", "replace")
        for line in filter(None, map(str.strip, listed.splitlines())):
            picture = os.path.normpath(os.path.join(root, line))
            if not inside(picture, root) or not os.path.isfile(picture):
                raise DataError(f"{named(full)} lists {named(line)}, which is not a file in {named(root)}.")
            yield picture
        return
    for folder, folders, names in os.walk(full):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower().lstrip(".") in EXTENSIONS and not name.startswith("."):
                yield os.path.join(folder, name)


def _labels_of(picture: str) -> str:
    """Returns the label file of a picture: the last folder images/ of its path is labels/ there."""
    folder, name = os.path.split(picture)
    head, found, tail = f"{folder}/".rpartition("/images/")
    folder = f"{head}/labels/{tail}" if found else folder
    return os.path.join(folder, os.path.splitext(name)[0] + ".txt")


def _drawn(path: str, root: str, names: list[str], size: tuple[int, int], problems: list[Problem]) -> Iterator[Drawn]:
    """Yields the boxes of a label file."""
    try:
        text = files.read_bounded(path, _LARGEST_LABELS, "a label file").decode("utf-8-sig")
    except (OSError, ValueError) as error:
        problems.append(Problem(relative(path, root), f"cannot be read: {getattr(error, 'strerror', None) or error}"))
        return
    for n, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{relative(path, root)}, line {n}"
        try:
            number, *values = map(float, line.split())
        except ValueError:
            problems.append(Problem(where, f"holds {quoted(line)}, not numbers"))
            continue
        why = None
        if number not in range(len(names)):
            why = f"has the class {number:g}, but names has {len(names)}, counted from 0"
        elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
            why = f"has {1 + len(values)} numbers, not a class and 4 (or the corners of a polygon)"
        elif any(abs(value) > 2 for value in values):
            why = f"holds {quoted(line)}, which are no shares of the picture"
        if why:
            problems.append(Problem(where, why))
            continue
        yield Drawn(where, _box(names[int(number)], values, size))


def _box(label: str, values: list[float], size: tuple[int, int]) -> Box:
    width, height = size
    if len(values) > 4:
        xs, ys = values[::2], values[1::2]
        return Box(label, min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
    x, y, w, h = values
    # Six decimals are usual in these files; half a hundredth of a pixel across the border is rounding.
    edges = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    limits_ = (width, height, width, height)
    left, top, right, bottom = (
        float(min(max(edge, 0.0), most)) if -0.01 < edge < most + 0.01 else edge
        for edge, most in zip(edges, limits_, strict=True)
    )
    return Box(label, left, top, right, bottom)

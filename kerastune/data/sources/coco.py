"""Lists the pictures of COCO files: one JSON file with "images", "annotations" and "categories" per split.

A task says what it makes of the annotations: see `Truth`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from kerastune import assets, files
from kerastune.data import limits
from kerastune.data.source import (
    SPLITS,
    Example,
    Label,
    Problem,
    Progress,
    Source,
    asset_folder,
    counted,
    named,
    relative,
    some,
    unreachable,
)
from kerastune.data.sources.boxes import size_of
from kerastune.errors import DataError, printable, quoted
from kerastune.modalities.image import LARGEST
from kerastune.recipe.coco_sources import CocoImages

_NAMES = ("annotations.json", "_annotations.coco.json")
LAYOUT = (
    'Expected {"images": [{"id": 1, "file_name": "1.jpg"}, …], "categories": [{"id": 1, "name": "tree"}, …], '
    '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, y, width, height], '
    '"segmentation": [[x1, y1, x2, y2, …]]}, …]}, in pixels.'
)


class Truth(Protocol):
    """What a task makes of annotations."""

    unread: Label
    """The truth of a picture that cannot be read, which is a problem of its own."""

    def known(self, path: str, categories: list[str]) -> None:
        """Raises DataError if a file does not have the categories that are asked for."""

    def annotation(self, one: dict[str, Any], where: str, label: str) -> Any:
        """Returns what is needed of an annotation.

        Raises:
            ValueError: it has not what it takes; the message follows `where`.
        """

    def picture(self, id: str, size: tuple[int, int], drawn: list[Any]) -> Label | None:
        """Returns the truth of a picture of a width and height, or None if an annotation is a problem."""


@dataclass
class Found:
    """The pictures of COCO files."""

    settings: CocoImages
    truth: Truth
    root: str  # all files lie below it
    paths: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)

    def source(self, labels: tuple[str, ...], problems: Iterable[Problem], notes: Iterable[str]) -> Source:
        """Returns the source, with problems and notes on annotations besides those of the files."""
        return Source(
            where=named(self.settings.path),
            examples=self.examples,
            read=lambda i: files.read_bounded(self.paths[i], LARGEST, "an image"),
            labels=labels,
            problems=(*self.problems, *problems),
            notes=(*self.notes, *notes),
        )


def listed(settings: CocoImages, truth: Truth, progress: Progress) -> Found:
    """Lists the pictures, those without annotations too.

    Raises:
        DataError: a file is not there or is no COCO file, or two files name their categories otherwise.
    """
    parts = _files(settings)
    found = Found(settings, truth, os.path.commonpath([os.path.dirname(path) for path in parts]))
    for path, split in parts.items():
        _read(path, split, found, progress)
    return found


def _files(settings: CocoImages) -> dict[str, str | None]:
    """Returns the JSON files and the split in each; None if it is not declared."""
    path = asset_folder(settings.path) if settings.path in assets.ASSETS else settings.path
    declared = {"validation": settings.validation, "test": settings.test}
    if os.path.isfile(path):
        more = {file: split for split, file in declared.items() if file}
        return {path: "train" if more else None, **more}
    if any(declared.values()):
        raise DataError(f"{named(path)} is no file, but data.validation or data.test name the files of other splits.")
    if not os.path.isdir(path):
        raise DataError(f"There is no file or folder {named(path)}.", LAYOUT)
    folders = {split: (split,) if split != "validation" else (split, "valid", "val") for split in SPLITS}
    found: dict[str, str | None] = {}
    for split, names in folders.items():
        for candidate in (os.path.join(path, folder, name) for folder in names for name in _NAMES):
            if os.path.isfile(candidate):
                found[candidate] = split
    if "train" in found.values():
        return found
    alone = [os.path.join(path, name) for name in _NAMES if os.path.isfile(os.path.join(path, name))]
    if not alone:
        raise DataError(f"The folder {named(path)} holds no {_NAMES[0]}, and no train/{_NAMES[0]}.", LAYOUT)
    return {alone[0]: None}


def _read(path: str, split: str | None, found: Found, progress: Progress) -> None:
    document = _document(path)
    name = relative(path, found.root)
    known = {int(one["id"]): str(one["name"]) for one in document["categories"]}
    if found.categories and known != found.categories:
        raise DataError(
            f"{named(path)} has other categories than the file of the training split: {quoted(known)} instead of "
            f"{quoted(found.categories)}.",
            "Give all files the same ids and names.",
        )
    found.categories = known
    found.truth.known(path, list(known.values()))
    if twice := [label for label in set(known.values()) if list(known.values()).count(label) > 1]:
        found.notes.append(f"{name}: several categories of one name, read as one ({some(sorted(twice))})")
    drawn = _drawn(document, name, known, found)
    folder = found.settings.images or os.path.dirname(path)
    real, seen = os.path.realpath(folder), set[int]()
    for n, image in enumerate(document["images"], start=1):
        progress(f"reading {name}", n, len(document["images"]))
        number = image["id"]
        if number in seen:
            found.problems.append(Problem(name, f"has two images with the id {quoted(number)}"))
            continue
        seen.add(number)
        _add(image, drawn.pop(number, []), split, os.path.normpath(folder), real, found)
    if drawn:
        lost = sum(map(len, drawn.values()))
        ids = some([str(one) for one in drawn])
        found.problems.append(Problem(name, f"{counted(lost, 'annotation')} of images that it does not list: {ids}"))


def _add(image: dict[str, Any], drawn: list[Any], split: str | None, folder: str, real: str, found: Found) -> None:
    """Adds one picture."""
    full = os.path.normpath(os.path.join(folder, image["file_name"]))
    id = relative(full, found.root) if full.startswith(found.root) else printable(image["file_name"])
    if why := unreachable(image["file_name"], full, folder, real):
        found.problems.append(Problem(f"image {quoted(image['id'])}", why))
        return
    size = size_of(full)
    if size is None:
        found.paths.append(full)  # what is wrong with it is said where all examples are read
        found.examples.append(Example(id, found.truth.unread, split))
        return
    if why := _other_size(image, size):
        found.problems.append(Problem(id, why))
        return
    key = found.settings.group_key
    group = image.get(key) if key else None
    if key and group is None:
        found.problems.append(Problem(id, f"has no {quoted(key)}, which data.group_key names"))
        return
    label = found.truth.picture(id, size, drawn)
    if label is not None:
        found.paths.append(full)
        found.examples.append(Example(id, label, split, None if group is None else str(group)))


def _other_size(image: dict[str, Any], size: tuple[int, int]) -> str | None:
    """Returns how a picture's size differs from the one that it was annotated at, or None."""
    said = image.get("width"), image.get("height")
    if None in said or said == size:
        return None
    turned = "; its EXIF orientation turns it, so save it upright, as it was annotated" if said[::-1] == size else ""
    return f"was annotated at {said[0]} x {said[1]} pixels, but has {size[0]} x {size[1]}{turned}"


def _drawn(document: dict[str, Any], name: str, known: dict[int, str], found: Found) -> dict[Any, list[Any]]:
    """Returns what is annotated in each image, by its id."""
    drawn: dict[Any, list[Any]] = defaultdict(list)
    for n, one in enumerate(document["annotations"], start=1):
        where = f"{name}, annotation {one.get('id', f'number {n}')}"
        try:
            if one.get("category_id") not in known:
                there = some([str(i) for i in sorted(known)], 10)
                raise ValueError(
                    f"has the category_id {quoted(one.get('category_id'))}, but the categories are {there}"
                )
            drawn[one["image_id"]].append(found.truth.annotation(one, where, known[one["category_id"]]))
        except ValueError as error:
            found.problems.append(Problem(where, str(error)))
    zero = sum(one.get("id") == 0 for one in document["annotations"])
    if zero:
        found.notes.append(f"{name}: annotation id 0, which pycocotools would take for no match; kerastune does not")
    return drawn


def _document(path: str) -> dict[str, Any]:
    """Returns the content of a COCO file, with the keys and types that are needed.

    Raises:
        DataError: it has others.
    """
    try:
        document = json.loads(files.read_bounded(path, limits.TABLE, "a file of annotations"))
    except OSError as error:
        raise DataError(f"The file {named(path)} cannot be read: {error.strerror}.", LAYOUT) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{named(path)} is not valid JSON ({error}).", LAYOUT) from error
    if not isinstance(document, dict):
        raise DataError(f"{named(path)} is not a COCO file: it is no JSON object.", LAYOUT)
    for key, check in _CHECKS.items():
        entries = document.get(key)
        if not isinstance(entries, list):
            raise DataError(f'{named(path)} is not a COCO file: it has no list "{key}".', LAYOUT)
        odd = next((one for one in entries if not (isinstance(one, dict) and check(one))), None)
        if odd is not None:
            raise DataError(f'{named(path)}: "{key}" holds {quoted(odd)}.', LAYOUT)
    return document


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_box(value: Any) -> bool:
    return not value or (isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)))


_CHECKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "images": lambda one: _is_id(one.get("id")) and isinstance(one.get("file_name"), str),
    "categories": lambda one: isinstance(one.get("id"), int) and isinstance(one.get("name"), str) and one["name"],
    "annotations": lambda one: _is_id(one.get("image_id")) and _is_box(one.get("bbox")),
}

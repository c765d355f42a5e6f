"""Reads images or sounds from one folder per label: path/<label>/*, or path/{train,validation,test}/<label>/*."""

import os
from collections import Counter
from dataclasses import dataclass, field, replace

from kerastune import assets
from kerastune.data import limits
from kerastune.data.columns import Examples, Strings
from kerastune.data.source import (
    SPLITS,
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
from kerastune.data.sources.rows import MEANT
from kerastune.errors import DataError, printable
from kerastune.modalities import MODALITIES, Modality
from kerastune.modalities.contract import Stored
from kerastune.recipe.sources import FolderData

_CLUTTER = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir")  # and names with a leading dot


@dataclass
class _Found:
    root: str
    modality: Modality
    stored: Stored
    grouped: bool  # whether folders inside label folders are groups
    paths: Strings = field(default_factory=Strings)
    examples: Examples = field(default_factory=Examples)
    problems: list[Problem] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)  # extension → files left out
    empty: list[str] = field(default_factory=list)  # label folders without an example
    clutter: list[str] = field(default_factory=list)  # hidden files and folders, and system files
    ungrouped: list[str] = field(default_factory=list)  # examples next to the groups' folders

    @property
    def layout(self) -> str:
        """Returns the two layouts, for messages."""
        file = self.modality.asked_as
        return (
            f"Expected layout: path/<label>/{file}; or, with declared splits,\n"
            f"path/train/<label>/{file}, path/validation/<label>/…, path/test/<label>/…"
        )


def examples(settings: FolderData, progress: Progress, apart: str | None = None) -> Source:
    """Lists the examples below a folder, by label and by declared split.

    Args:
        apart: name of a folder beside the labels or splits that holds something else.

    Raises:
        DataError: there is no such folder or fetched asset, or its layout is neither of the two.
    """
    modality = MODALITIES[settings.modality]
    assert modality.stored
    unit, stored = modality.name, modality.stored
    root = asset_folder(settings.path) if settings.path in assets.ASSETS else settings.path
    found = _Found(root, modality, stored, settings.group_folders)
    for split, folder in _split_folders(root, apart, found.layout).items():
        for entry in _entries(folder, found.layout, found.clutter):
            if entry.name == apart and folder == root:
                continue
            if _is_dir(entry):
                _label_folder(entry, split, found)
            elif _extension(entry.name) in stored.extensions:
                found.problems.append(Problem(relative(entry.path, found.root), "is in no label folder"))
            else:
                found.foreign[_extension(entry.name)] += 1
            progress(f"listing {modality.plural}", len(found.paths), 0)
    if not found.examples and not any(p.text != "is in no label folder" for p in found.problems):
        what = counted(len(found.problems), unit) + " but no label folder" if found.problems else f"no {unit}"
        raise DataError(f"The folder {named(root)} holds {what}{_foreign(found)}.", found.layout)
    paths = found.paths
    return Source(
        where=f"the folder {named(root)}",
        examples=found.examples,
        read=lambda i: stored.read(paths[i], modality.one),
        problems=tuple(found.problems),
        notes=_notes(found),
    )


def _entries(folder: str, layout: str, clutter: list[str] | None = None) -> list[os.DirEntry[str]]:
    """Returns the content of a folder, sorted by name; hidden and system files go to `clutter`."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        where = "data.path is relative to the working directory."
        raise DataError(f"There is no folder {named(folder)}.", f"{where} {layout}") from None
    except NotADirectoryError:
        raise DataError(f"{named(folder)} is a file, not a folder.", layout) from None
    except OSError as error:
        raise DataError(f"The folder {named(folder)} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the path
        raise DataError(f"There is no folder {named(folder)}: {error}.") from error
    hidden = [e for e in found if e.name.startswith(".") or e.name.lower() in _CLUTTER]
    if clutter is not None:
        clutter += [e.path for e in hidden]
    return [entry for entry in found if entry not in hidden]


def _split_folders(root: str, apart: str | None, layout: str) -> dict[str | None, str]:
    """Returns the parent of the label folders by split; a single entry None for the layout path/<label>/."""
    folders = {entry.name: entry.path for entry in _entries(root, layout) if _is_dir(entry) and entry.name != apart}
    meant = {name: MEANT.get(name.lower(), name.lower()) for name in folders}
    others = [name for name in folders if meant[name] not in SPLITS]
    if not folders or (others and not _holds_folders(folders.get("train"), layout)):
        return {None: root}  # labels, even if one of them is called "train" or "test"
    for name, split in meant.items():
        if split in SPLITS and name != split:
            raise DataError(
                f"The folder {named(root)} holds {named(name)}/, which looks like a split.",
                f"Rename {named(name)} to {split}. {layout}",
            )
    if others:
        raise DataError(
            f"The folder {named(root)} holds train/ with label folders, and next to it "
            f"{some([named(name) for name in others])}.",
            f"Move everything but splits elsewhere. {layout}",
        )
    if "train" not in folders:
        raise DataError(f"The folder {named(root)} holds {' and '.join(folders)} but no train folder.", layout)
    for path in folders.values():
        if not inside(os.path.realpath(path), os.path.realpath(root)):
            raise DataError(f"{named(path)} is a link that leads outside {named(root)}.", layout)
    return {split: folders[split] for split in SPLITS if split in folders}


def _holds_folders(path: str | None, layout: str) -> bool:
    return path is not None and any(_is_dir(entry) for entry in _entries(path, layout))


def _label_folder(entry: os.DirEntry[str], split: str | None, found: _Found) -> None:
    before = len(found.examples) + len(found.problems)
    _collect(entry, _Where(printable(entry.name), split), found)
    if len(found.examples) + len(found.problems) == before:
        found.empty.append(relative(entry.path, found.root))


@dataclass(frozen=True)
class _Where:
    """Label, split and group of an example from its folders."""

    label: str
    split: str | None
    depth: int = 0  # folders inside each other, below the label's
    group: str | None = None


def _collect(entry: os.DirEntry[str], where: _Where, found: _Found) -> None:
    """Adds one entry of a label folder: an example, or a folder of them."""
    problem = _unusable(entry, found.root)
    if not _is_dir(entry) and _extension(entry.name) in found.stored.foreign:
        cure = f"is in the format {_extension(entry.name).upper()}; convert it to {found.stored.convert}"
        found.problems.append(Problem(relative(entry.path, found.root), cure))
    elif not _is_dir(entry) and _extension(entry.name) not in found.stored.extensions:
        found.foreign[_extension(entry.name)] += 1
    elif problem:
        found.problems.append(Problem(relative(entry.path, found.root), problem))
    elif _is_dir(entry):
        _collect_folder(entry, where, found)
    else:
        id = relative(entry.path, found.root)
        if found.grouped and where.group is None:
            found.ungrouped.append(id)
        found.paths.append(entry.path)
        found.examples.append(Example(id, where.label, where.split, where.group))


def _collect_folder(entry: os.DirEntry[str], where: _Where, found: _Found) -> None:
    if where.depth > limits.DEPTH:
        problem = Problem(relative(entry.path, found.root), f"lies more than {limits.DEPTH} folders deep")
        found.problems.append(problem)
        return
    try:
        entries = _entries(entry.path, found.layout, found.clutter)
    except DataError as error:
        found.problems.append(Problem(relative(entry.path, found.root), error.message))
        return
    for inner in entries:
        group = printable(inner.name) if found.grouped and where.depth == 0 and _is_dir(inner) else where.group
        _collect(inner, replace(where, depth=where.depth + 1, group=group), found)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # circular or inaccessible links
        return False


def _unusable(entry: os.DirEntry[str], root: str) -> str | None:
    if entry.is_symlink():
        target, real_root = os.path.realpath(entry.path), os.path.realpath(root)
        if target != real_root and not inside(target, real_root):
            return f"is a link to {named(target)}; paths in data stay inside their folder"
        if _is_dir(entry):
            return "is a link to a folder, which could be circular; put the files there"
    try:
        return None if _is_dir(entry) or entry.is_file() else "is not a file that can be read"
    except OSError as error:
        return f"cannot be read: {error.strerror}"  # circular links


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower().lstrip(".")


def _foreign(found: _Found) -> str:
    if not found.foreign:
        return ""
    kinds = [f"{n:,} {'.' + named(e) if e else 'without extension'}" for e, n in found.foreign.most_common(5)]
    return f" (files left out: {', '.join(kinds)})"


def _notes(found: _Found) -> tuple[str, ...]:
    notes = []
    if found.foreign:
        count = counted(sum(found.foreign.values()), "file")
        notes.append(f"{count} left out, not {', '.join(found.stored.extensions)}{_foreign(found)}")
    if found.empty:
        notes.append(f"{counted(len(found.empty), 'label folder')} without {found.modality.one}: {some(found.empty)}")
    if found.clutter:
        names = some([relative(path, found.root) for path in found.clutter])
        count = counted(len(found.clutter), "hidden or system file or folder", "hidden or system files and folders")
        notes.append(f"{count} left out: {names}")
    if found.ungrouped:
        count = counted(len(found.ungrouped), found.modality.name)
        notes.append(f"{count} in no group folder, each a group of its own: {some(found.ungrouped)}")
    return tuple(notes)

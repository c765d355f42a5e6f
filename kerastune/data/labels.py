"""Normalises labels and groups where nothing is lost, and reports those that look alike."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from kerastune.data.columns import Examples
from kerastune.data.source import Boxed, Example, Label, Outlined, Source, counted, some
from kerastune.errors import printable, quoted, shortened


def normal(label: Label) -> Label:
    """Returns names in Unicode's composed form (NFC) without surrounding spaces; any other truth stays unchanged."""
    if isinstance(label, Outlined):
        return replace(label, label=str(normal(label.label)))
    if isinstance(label, Boxed):
        return replace(label, boxes=tuple(replace(box, label=str(normal(box.label))) for box in label.boxes))
    if isinstance(label, str):
        return unicodedata.normalize("NFC", label).strip()
    return tuple(sorted({str(normal(name)) for name in names})) if (names := _names(label)) else label


def normalised(source: Source) -> Source:
    """Returns the source with normalised labels and groups, and notes on those that changed or look alike."""
    found, notes, changed, count = Examples(), [], set(), 0
    labels, groups = set[str](), set[str]()
    for example in source.examples:
        made = _normal(example)
        if made.label != example.label:
            count += 1
            changed.add(quoted(", ".join(_names(made.label))))
        labels.update(_names(made.label))
        if made.group is not None:
            groups.add(made.group)
        found.append(made)
    if changed:
        what = f"label without outer spaces and in Unicode's composed form ({some(sorted(changed))})"
        notes.append(f"{counted(count, 'example')}: {what}")
    notes += [*_alike("labels", labels), *_alike("groups", groups)]
    order = source.labels and tuple(str(normal(name)) for name in source.labels)
    return replace(source, examples=found, labels=order, notes=(*source.notes, *notes))


def _normal(example: Example) -> Example:
    label, group = normal(example.label), example.group and str(normal(example.group))
    is_same = label == example.label and group == example.group
    return example if is_same else replace(example, label=label, group=group)


def _names(label: Label) -> tuple[str, ...]:
    if isinstance(label, str | Outlined):
        return (label if isinstance(label, str) else label.label,)
    if isinstance(label, Boxed):
        return tuple(sorted({box.label for box in label.boxes}))
    return label if isinstance(label, tuple) and all(isinstance(name, str) for name in label) else ()


def _alike(what: str, names: Iterable[str]) -> list[str]:
    """Returns a note on names that differ only in ways that people would not intend."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike[_seen(name)].append(f"'{shortened(printable(name))}'")
    sets = [" and ".join(several) for several in alike.values() if len(several) > 1]
    return [f"{what} that look alike, kept apart: {some(sets)}"] if sets else []


def _seen(name: str) -> str:
    """Returns a name without case, kinds of spaces, invisible characters and compatibility forms."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join(visible.split()).lower()

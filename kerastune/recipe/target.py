"""Deployment targets: the folders in export/, and the settings in each."""

import difflib
import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from kerastune.errors import KerastuneError, quoted


@dataclass(frozen=True)
class Target:
    """A deployment target: export/<name>/target.toml.

    Attributes:
        format: a format of `kerastune.formats`.
        other_formats: formats that it also supports, on request.
        quantize: the default quantisation.
        images: "any" (uint8 of any size; the model resizes them) or "fixed" (one image of the training size).
        io: "uint8", "int8" or "float32": the dtype of an image and, in int8 models, of the scores.
        runtimes: names in `verifying.runtimes` that verify an artifact: the first always, the others if installed.
            Those of another format are skipped.
        extras: files that an artifact gets besides the model: names in `exporting.extras.EXTRAS`.
        modalities: the supported rows of `kerastune.modalities.MODALITIES`.
    """

    name: str
    summary: str
    format: str
    quantize: str
    images: Literal["any", "fixed"]
    io: str
    runtimes: tuple[str, ...]
    other_formats: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("image",)


def refusal(name: str, modality: str) -> str | None:
    """Returns why a target does not take models of a modality, or None."""
    taken = load(name).modalities
    return None if modality in taken else f"target {name} is for {' and '.join(one + 's' for one in taken)}"


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(sorted(d.name for d in files("kerastune.targets").iterdir() if d.joinpath("target.toml").is_file()))


def summaries() -> str:
    """Returns the targets and what each is for, one per line."""
    width = max(map(len, names()))
    return "\n".join(f"  {name:{width}}  {load(name).summary}" for name in names())


@functools.cache
def load(name: str) -> Target:
    """Reads a target.

    Raises:
        KerastuneError: there is no such target.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise KerastuneError(f"There is no target {quoted(name)}{guess}.", f"The targets are:\n{summaries()}")
    values = tomllib.loads((files("kerastune.targets") / name / "target.toml").read_text("utf-8"))
    listed = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Target(**{"name": name, **values, **listed})


def readme(name: str) -> str:
    """Returns how to deploy to a target, in Markdown."""
    return (files("kerastune.targets") / load(name).name / "README.md").read_text("utf-8")

"""Deployment targets: the folders in export/, and what each says a place needs."""

import difflib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from kerastune.errors import KerastuneError


@dataclass(frozen=True)
class Target:
    """A place a model goes: export/<name>/target.toml.

    Attributes:
        format: a format of `kerastune.formats`.
        other_formats: that the place takes, too, where they are asked for.
        quantize: the quantisation it gets unless another is asked for.
        images: "any" (uint8 of any size; the model resizes them) or "fixed" (one image of the size it was trained at).
        io: "uint8", "int8" or "float32": how the place holds an image and, in int8 models, the scores.
        runtimes: of `verifying.runtimes`, that an artifact for this place is verified in: the first always, the
            others where they are installed. Those of another format are passed over.
        extras: what an artifact gets beside the model: names in `exporting.extras.EXTRAS`.
        modalities: what it takes models of: rows of `kerastune.modalities.MODALITIES`.
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
    """Why a target takes no models of a modality; None where it does."""
    taken = load(name).modalities
    return None if modality in taken else f"target {name} is for {' and '.join(one + 's' for one in taken)}"


def names() -> list[str]:
    return sorted(d.name for d in files("kerastune.targets").iterdir() if d.joinpath("target.toml").is_file())


def load(name: str) -> Target:
    """Reads a target.

    Raises:
        KerastuneError: there is no such target.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise KerastuneError(f"There is no target {name!r}{guess}.", f"Targets: {', '.join(names())}.")
    values = tomllib.loads((files("kerastune.targets") / name / "target.toml").read_text("utf-8"))
    listed = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Target(**{"name": name, **values, **listed})


def readme(name: str) -> str:
    """How to deploy to a target, in Markdown."""
    return (files("kerastune.targets") / load(name).name / "README.md").read_text("utf-8")

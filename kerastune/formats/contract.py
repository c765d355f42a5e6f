"""The contract of a format's module: its `CONVERTER`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastune.formats.conversion import Conversion
from kerastune.formats.graphs import Signature


@dataclass(frozen=True)
class Traced:
    """A live model as functions, from which each format makes what its converter starts from.

    Attributes:
        work: the folder that gets it.
        signatures: what the model may answer to, by name.
        serving: the names of those that a server answers to.
        raw: those of raw texts that stand in a model of their own, by the names they get there; often none.
        tokenizer: KerasHub's, where `raw` uses it.
        folder: writes the model into a folder without any graph, where the task can.
    """

    work: Path
    signatures: Mapping[str, Signature]
    serving: tuple[str, ...] = ("serving_default",)
    raw: Mapping[str, Signature] | None = None
    tokenizer: Any = None
    folder: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Converter:
    """What a format does. Converters crash and do not give memory back, so each step runs in a process of its own.

    Attributes:
        trace: (traced, name of a signature) writes what `write` reads into the work folder.
        write: (work folder, path, conversion) makes the model at `path`, quantisation included.
        inspect: path -> what in a model file no device's runtime has, and the names of its inputs.
        layer_errors: (work folder, conversion) -> how far each layer of the quantised model is off, the worst first, as
            a list of {"layer", "op", "error"}; None where layers cannot stay in float.
    """

    trace: Callable[[Traced, str], None]
    write: Callable[[Path, Path, Conversion], None]
    inspect: Callable[[Path], tuple[list[str], list[str]]]
    layer_errors: Callable[[Path, Conversion], list[dict[str, Any]]] | None = None

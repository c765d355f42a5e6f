"""The contract of a format's module: its `CONVERTER`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastune.formats.conversion import Conversion
from kerastune.formats.graphs import Signature


@dataclass(frozen=True)
class Traced:
    """A live model as functions, ready to be traced for a converter.

    Attributes:
        work: the folder that traces are written to.
        signatures: the model's signatures by name.
        serving: names of the signatures that a server answers to.
        raw: signatures of raw texts, which go into a second model, by their names there; often none.
        tokenizer: KerasHub's tokenizer, if `raw` uses it.
        folder: writes the model into a folder without tracing it; None if the task cannot.
    """

    work: Path
    signatures: Mapping[str, Signature]
    serving: tuple[str, ...] = ("serving_default",)
    raw: Mapping[str, Signature] | None = None
    tokenizer: Any = None
    folder: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Converter:
    """The functions of a format. Converters crash and leak memory, so each runs in its own process.

    Attributes:
        trace: (traced, name of a signature) writes the input of `write` into the work folder.
        write: (work folder, path, conversion) makes the model at `path`, quantisation included.
        inspect: path -> problems, such as operators that no device has; and the names of the inputs.
        layer_errors: (work folder, conversion) -> the error of each quantised layer, worst first: a list of {"layer",
            "op", "error"}. None if single layers cannot stay in float.
    """

    trace: Callable[[Traced, str], None]
    write: Callable[[Path, Path, Conversion], None]
    inspect: Callable[[Path], tuple[list[str], list[str]]]
    layer_errors: Callable[[Path, Conversion], list[dict[str, Any]]] | None = None

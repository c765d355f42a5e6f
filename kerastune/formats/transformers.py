"""A Hugging Face folder, as the task wrote it: config, safetensors and tokenizer; a chat template, or a front end."""

import json
import shutil
from pathlib import Path

from kerastune.formats.contract import Converter, Traced
from kerastune.formats.conversion import Conversion


def trace(traced: Traced, name: str) -> None:
    """Has the task write the folder."""
    assert traced.folder
    traced.folder(traced.work / name)


def write(work: Path, path: Path, conversion: Conversion) -> None:
    """Copies the folder; `path` is that of the weights in it."""
    shutil.copytree(work / conversion.signature, path.parent, dirs_exist_ok=True)


def inspect(path: Path) -> tuple[list[str], list[str]]:
    """Returns problems (custom code, weights that are not float32), and the name of the input."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    config = json.loads(path.with_name("config.json").read_text("utf-8"))
    dtypes = {row["dtype"] for name, row in header.items() if name != "__metadata__"}
    problems = [f"weights in {', '.join(sorted(dtypes - {'F32'}))}"] if dtypes != {"F32"} else []
    problems += ["config.json names code of its own: auto_map"] if "auto_map" in config else []
    hears = path.with_name("preprocessor_config.json").is_file()
    return problems, ["input_features" if hears else "input_ids"]


CONVERTER = Converter(trace, write, inspect)

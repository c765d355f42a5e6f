"""Traces a live Keras model into the graphs that every format starts from. Runs in its own process.

`model.export` is unsuitable: it traces with `training=None`, and a preprocessing layer's default then switches every
later layer to training mode (Keras 3.15: SegFormer off by 3.8). Every signature here sets `training=False`.

    WORK/golden.npz, WORK/calibration.npz      in: examples to prove and to calibrate with
    WORK/audited.json                          in: texts whose tokens are compared with KerasHub's
    WORK/golden_fixed.npz, …_fixed.npz         out: images of the model's size, resized as devices do
    WORK/calibration.npz, …_fixed.npz          out: for texts, their tokens, and tokens padded to the maximum length
    WORK/golden_expected.npz, …_fixed_…        out: Keras's outputs for them, by name of the output
    WORK/image.json | WORK/text.json           out: how the model resizes, or how tokens become its inputs
    WORK/chat.json, WORK/answers.npz           out: for a language model, how to call it, and Keras's answers
    WORK/tokenizer/                            out: files that tokenise texts on devices
    WORK/SIGNATURE/                            out, for tflite: a SavedModel with that signature, or with "ONE+OTHER"
    WORK/serving/                              out, for saved_model: a SavedModel with the signatures for TF Serving
    WORK/serving_text/                         out, for saved_model of texts: one that takes strings, if possible
    WORK/folder/                               out, for transformers: a Hugging Face folder
    WORK/SIGNATURE.pb, WORK/SIGNATURE.json     out, for onnx: frozen GraphDef; tensor names -> the names users see
    WORK/SIGNATURE.dtypes.json                 out: names of the inputs -> their dtypes
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kerastune import run, tasks
from kerastune.data import ragged
from kerastune.formats import FORMATS
from kerastune.formats.contract import Traced

_RAW = {"serving_default": "serve_texts", "serve_scores": "serve_scores"}


def main(run_folder: str, work_folder: str, *wanted: str) -> None:
    """Traces for each of `wanted`, a format and its signature: "tflite/any_size"."""
    work, of = Path(work_folder), run.load(run_folder)
    recipe, task, device = of.recipe, tasks.get(of.recipe.task), tasks.device(of.recipe.task)
    model = task.building.load(str(of.folder), recipe, "float32")
    examples = {work / "golden.npz": _stored(work / "golden.npz")}
    task.trace(recipe, model, work, wanted)
    examples |= {path: _stored(path) for path in work.glob("golden_fixed.npz")}
    for path, some in examples.items():
        expected = task.reference(recipe, model, some)
        np.savez(path.with_name(f"{path.stem}_expected.npz"), allow_pickle=False, **ragged.packed(expected))
    signatures = task.signatures(recipe, model)
    raw = {key: signatures[asked] for key, asked in _RAW.items() if asked in signatures}
    if raw and not _is_plain(examples[work / "golden.npz"]):
        raw = {}
    tokenizer = model.preprocessor.tokenizer if raw else None
    folder = partial(task.folder, recipe, model, work) if task.folder else None
    traced = Traced(work, signatures, device.serving, raw, tokenizer, folder)
    for format, name in (one.split("/") for one in wanted):
        FORMATS[format].converter.trace(traced, name)


def _is_plain(golden: list[Any]) -> bool:
    """Returns whether every golden example is one text, or one prompt and one answer, so that the raw-text model can
    be verified."""
    return all(one.ndim == 1 or [role for role, _ in one] == ["user", "assistant"] for one in golden)


def _stored(path: Path) -> list[Any]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One live Keras model, traced into graphs: the waist that every format starts from. Runs in a process of its own.

`model.export` is not used: it traces with `training=None`, and a preprocessing layer's default then switches
every later layer to training mode (Keras 3.15: SegFormer off by 3.8). Every signature here says `training=False`.

    WORK/golden.npz, WORK/calibration.npz      in: images or texts to prove and to calibrate with
    WORK/golden_fixed.npz, …_fixed.npz         out: images at the size that the model sees, resized as devices do
    WORK/calibration.npz, …_fixed.npz          out: of texts, their tokens, and these padded to the longest there may be
    WORK/golden.npy, WORK/golden_fixed.npy     out: what Keras itself says about them
    WORK/image.json | WORK/text.json           out: how the model resizes, or how tokens become its inputs
    WORK/chat.json, WORK/answers.npz           out: of a language model, how it is asked, and what Keras answers
    WORK/tokenizer/                            out: the files that tokenise texts on devices
    WORK/SIGNATURE/                            out, for tflite: a SavedModel with that signature, or with "ONE+OTHER"
    WORK/serving/                              out, for saved_model: a SavedModel with what TF Serving answers to
    WORK/serving_text/                         out, for saved_model of texts: one that takes strings, if there can be
    WORK/folder/                               out, for transformers: a Hugging Face folder
    WORK/SIGNATURE.pb, WORK/SIGNATURE.json     out, for onnx: frozen GraphDef; tensor names -> the names users see
    WORK/SIGNATURE.dtypes.json                 out: names of the inputs -> their dtypes
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kerastune import files, run
from kerastune.exporting import hugging_face, tokenizer
from kerastune.formats import graphs
from kerastune.progress import Progress
from kerastune.targets import classify

_BLOCK = 4096  # texts that are tokenised at a time
_SHOWN = 10  # texts that a manifest quotes, of those that devices tokenise in another way


def main(run_folder: str, work_folder: str, *wanted: str) -> None:
    """Each of `wanted` is a format and the signature that it is made from: "tflite/any_size"."""
    from kerastune import tasks

    work, of = Path(work_folder), run.load(run_folder)
    kind = tasks.get(of.recipe.task)
    task = kind.load(str(of.folder))
    if of.recipe.data.unit == "text":
        _tokenise(work, of, kind, task)
        if kind.GENERATES:
            files.write_json(work / "chat.json", kind.contract(task))
            kind.write_beside(task, work / "tokenizer")
            np.savez(
                work / "answers.npz", allow_pickle=False, **kind.golden_answers(task, _stored(work / "golden.npz"))
            )
    else:
        settings = kind.resizing(task)
        files.write_json(work / "image.json", settings)
        if any("/fixed" in one for one in wanted):
            _resize(work, settings)
    for path in work.glob("golden*.npz"):
        np.save(path.with_suffix(".npy"), kind.reference(of.recipe, task, _stored(path)))
    signatures = kind.signatures(of.recipe, task)
    for format, name in (one.split("/") for one in wanted):
        if format == "transformers":
            hugging_face.write(task, kind.contract(task), work / "tokenizer", work / name)
        elif format == "saved_model":
            graphs.saved_model({key: signatures[key] for key in kind.SERVING}, work / name)
            raw = {key: signatures[asked] for key, asked in _RAW.items() if asked in signatures}
            if raw and _is_plain(kind, _stored(work / "golden.npz")):
                graphs.saved_model(raw, work / f"{name}_text", task.preprocessor.tokenizer)
        elif format == "tflite":
            several = {one: signatures[one] for one in name.split("+")}
            graphs.saved_model(several, work / name)
            graphs.write_dtypes(name, next(iter(several.values())), work)
        else:
            graphs.frozen(name, signatures[name], work)


_RAW = {"serving_default": "serve_texts", "serve_scores": "serve_scores"}


def _is_plain(kind: Any, golden: list[Any]) -> bool:
    """Whether what the run is about is said in a text alone, or in a prompt and its answer: what is proved as it is."""
    return not kind.GENERATES or all([role for role, _ in turns] == ["user", "assistant"] for turns in golden)


def _stored(path: Path) -> list[Any]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def _tokenise(work: Path, of: Any, kind: Any, task: Any) -> None:
    """Writes what tokenises texts on devices, and the calibration texts as tokens."""
    (work / "tokenizer").mkdir()
    packing, pairs = tokenizer.write(task.preprocessor, work / "tokenizer"), getattr(of.recipe.data, "paired", False)
    splits = of.splits(Progress())
    every = [(split, i) for split in (splits.train, splits.validation, splits.test) for i in range(len(split))]
    if kind.GENERATES:
        parts = [[turn["content"]] for split, i in every for turn in split.messages(i)]
    else:
        parts = [split.texts(i) for split, i in every]
    if not (pairs or kind.GENERATES):  # an embedder's examples have several texts, which it takes one by one
        parts = [[text] for texts in parts for text in texts]
    parts += [[text] * (1 + pairs) for text in tokenizer.NASTY]
    blocks = [parts[at : at + _BLOCK] for at in range(0, len(parts), _BLOCK)]
    differences = partial(tokenizer.differences, task.preprocessor, work / "tokenizer", packing)
    apart = [one for block in blocks for one in differences(block)]
    checked = {"texts": len(parts), "differ": len(apart), "examples": [one["text"] for one in apart[:_SHOWN]]}
    files.write_json(work / "text.json", {**packing, "pairs": pairs, "checked": checked})
    rows = kind.inputs(task, [text.tolist() for text in _stored(work / "calibration.npz")])
    named = {f"{i:03}/{key}": row for i, one in enumerate(rows) for key, row in one.items()}
    np.savez(work / "calibration.npz", allow_pickle=False, **named)
    if not kind.GENERATES:
        padded = {key: _padded(row, packing, key.endswith("token_ids")) for key, row in named.items()}
        np.savez(work / "calibration_fixed.npz", allow_pickle=False, **padded)


def _padded(row: Any, packing: dict[str, Any], is_tokens: bool) -> Any:
    room = packing["sequence_length"] - len(row)
    return np.pad(row, (0, room), constant_values=packing["pad"] if is_tokens else 0)


def _resize(work: Path, settings: dict[str, Any]) -> None:
    if settings["antialias"] or settings["interpolation"] not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"no device resizes as this model does ({settings}); use a target with images of any size")
    manifest = {"image": {**settings, "resize": "outside"}}
    for name in ("golden", "calibration"):
        with np.load(work / f"{name}.npz", allow_pickle=False) as stored:
            images = {key: classify.fit(stored[key], manifest) for key in stored.files}
        if name == "calibration":
            # int8 inputs must span 0..255 exactly, so that a pixel's byte is its int8 value.
            next(iter(images.values()))[0, :2] = [[0], [255]]
        np.savez(work / f"{name}_fixed.npz", allow_pickle=False, **images)


if __name__ == "__main__":
    main(*sys.argv[1:])

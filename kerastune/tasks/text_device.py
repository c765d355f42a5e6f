"""Texts as devices see them: tokens of tokenizer.json, packed into rows of ints. Without TensorFlow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.data import Split, spread
from kerastune.formats import support
from kerastune.modalities import Example
from kerastune.tasks.contract import Form, Questions, Record, Wanted

GOLDEN = 16
SERVING = ("serving_default",)
"""`serve_texts` uses operators that TensorFlow Serving may lack, so it is separate."""
RAW = "serving_text/1"
"""Path in an artifact of the SavedModel that takes raw texts."""

_ROWS = {
    "token_ids": "tokens of the text, as tokenizer.json numbers them, packed as `reading` says",
    "padding_mask": "1 for a token, 0 for padding",
    "segment_ids": "0 for the first text of a pair, 1 for the second",
}


def padded(wanted: Wanted) -> bool:
    """Returns whether a file takes texts of one length, because LiteRT lacks operators for any length."""
    return wanted.style == "single" and support.fixed_length(wanted.backbone)


def form(recipe: Any, wanted: Wanted) -> Form:
    """Returns a form for rows of any length, or of one length if the format supports no other."""
    if not padded(wanted):
        signature = {"serving": "serving", "graph": "serving_default", "single": "any_length", "folder": "folder"}
        return Form(signature[wanted.style])
    family = wanted.backbone.removesuffix("Backbone")
    why = f"padded to the maximum: for any length, a {family} needs operators that LiteRT lacks"
    return Form("fixed_length", calibration="calibration_fixed", note=f"takes texts of one length, {why}")


def refusal(recipe: Any, wanted: Wanted) -> str | None:
    """Returns why text models cannot be exported in int8, or None: the padding mask takes all resolution."""
    return support.texts_refusal(wanted.quantize)


def candidates(wanted: Wanted) -> tuple[str, ...]:
    """Returns candidates without int8 (see `refusal`)."""
    return ("dynamic", "float16", "none")


def golden(recipe: Any, splits: Any) -> list[Example]:
    """Returns validation examples, spread over the labels."""
    return [splits.validation.example(i) for i in spread(splits.validation, GOLDEN)]


def calibration(recipe: Any, split: Split, i: int) -> Example:
    """Returns the unchanged example."""
    return split.example(i)


def audited(recipe: Any, splits: Any) -> list[list[str]]:
    """Returns all texts of the data."""
    every = [(split, i) for split in (splits.train, splits.validation, splits.test) for i in range(len(split))]
    return [list(map(str, split.example(i))) for split, i in every]


def questions(recipe: Any, split: Split, chosen: Sequence[int]) -> Questions:
    """Returns one question for each example."""
    return Questions((split.example(i) for i in chosen), np.arange(len(chosen)))


def manifest(wanted: Wanted, form: Form, work: Path, inside: list[str], output: Record) -> Record:
    """Returns the manifest's entries for a text model with one output."""
    packing = json.loads((work / "text.json").read_text("utf-8"))
    more: Record = {"raw": RAW, "raw_needs": "tensorflow_text"} if wanted.style == "serving" else {}
    if padded(wanted):
        more = {"length": packing["sequence_length"]}
    batch = batch_of(form)
    return {
        "signatures": [form.signature if batch else "serving_default"],
        "reading": {**packing, **more},
        "inputs": [
            {
                "name": name,
                "shape": [batch, more.get("length")],
                "dtype": "int32",
                "range": None,
                "meaning": _ROWS[name],
            }
            for name in sorted(packing["inputs"])
        ],
        "outputs": [output],
        "preprocessing": {
            "inside": inside,
            "outside": ["tokenise with tokenizer.json", "pack as `reading` says"],
        },
    }


def batch_of(form: Form) -> int | None:
    """Returns the batch axis of inputs and outputs: any number of examples, or one."""
    return None if form.signature in ("serving", "serving_default") else 1

"""Texts: one, or several that form one example. Their bytes are a JSON list of strings."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from kerastune.errors import DataError, printable
from kerastune.modalities.contract import Asked, Example, Modality, Report

EXCERPT = 300  # characters of a text that a report shows


def check(data: bytes, id: str) -> Report:
    """Accepts every text, because sources check texts when reading them."""
    return Report()


def decode(data: bytes) -> Example:
    """Returns the texts of an example, str [sides]."""
    return np.array(json.loads(data))


def preview(texts: Example, alternative: str) -> Markup:
    """Returns the beginning of the texts on one line."""
    return Markup("<bdi>{}</bdi>").format(printable(" / ".join(map(str, texts)))[:EXCERPT])


def ask(texts: Sequence[str | Path], sides: int) -> Asked:
    """Takes every `sides` consecutive arguments as one example.

    Raises:
        DataError: a text is empty, or is missing its partner in a pair.
    """
    if len(texts) % sides:
        raise DataError(
            f"This model takes pairs of texts, but there are {len(texts)} texts.", "Give two texts for each pair."
        )
    if empty := [i for i, text in enumerate(texts, start=1) if not str(text).strip()]:
        raise DataError(f"Text {', '.join(map(str, empty))} is empty.", "Leave it out.")
    rows = [list(map(str, texts[at : at + sides])) for at in range(0, len(texts), sides)]
    return Asked([" | ".join(row) for row in rows], [np.array(row) for row in rows])


TEXT = Modality(
    name="text",
    plural="texts",
    one="a text",
    check=check,
    decode=decode,
    is_one=lambda array: array.dtype.kind == "U" and array.shape in ((1,), (2,)),
    preview=preview,
    ask=ask,
    asked_as='"a text"',
    is_picture=False,
    readers=("texts.py",),
    packages=("tokenizers",),
)

"""Conversations: turns of a role and what it says. Their bytes are a JSON list of {"role", "content"}."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from kerastune.errors import DataError, printable
from kerastune.modalities.contract import Asked, Example, Modality
from kerastune.modalities.text import EXCERPT, check

Message = dict[str, str]
"""A turn: its "role" and its "content"."""


def messages(data: bytes) -> list[Message]:
    """The turns of a conversation."""
    found: list[Message] = json.loads(data)
    return found


def decode(data: bytes) -> Example:
    """The turns of a conversation as an array, str [T, 2]: role and content."""
    return np.array([[turn["role"], turn["content"]] for turn in messages(data)])


def preview(turns: Example, alternative: str) -> Markup:
    """The end of a conversation, on one line."""
    return Markup("<bdi>{}</bdi>").format(printable(" / ".join(str(content) for _, content in turns))[-EXCERPT:])


def ask(prompts: Sequence[str | Path], sides: int) -> Asked:
    """Takes each argument as what a user says first.

    Raises:
        DataError: a prompt is empty.
    """
    if empty := [i for i, prompt in enumerate(prompts, start=1) if not str(prompt).strip()]:
        raise DataError(f"Prompt {empty[0]} is empty.")
    return Asked(list(map(str, prompts)), [np.array([["user", str(prompt).strip()]]) for prompt in prompts])


CONVERSATION = Modality(
    name="conversation",
    plural="conversations",
    one="a conversation",
    check=check,
    decode=decode,
    preview=preview,
    ask=ask,
    asked_as='"a prompt"',
    is_picture=False,
    readers=("chats.py",),
    packages=("tokenizers", "jinja2"),
    question=lambda turns: turns[:-1],
)

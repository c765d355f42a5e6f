"""Conversations: turns of a role and its message.

Their bytes are a JSON list of {"role", "content"}; an answer that is not to be learnt also has "weight": 0.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from kerastune.errors import DataError, printable
from kerastune.modalities.contract import Asked, Example, Modality
from kerastune.modalities.text import EXCERPT, check
from kerastune.targets import chats

Message = dict[str, Any]
"""One turn: "role" and "content", and "weight": 0 if it is not to be learnt."""


def messages(data: bytes) -> list[Message]:
    """Returns the turns of a conversation."""
    found: list[Message] = json.loads(data)
    return found


def decode(data: bytes) -> Example:
    """Returns the turns of a conversation as an array, str [T, 2]: role and content, for `chats.messages_of`."""
    return np.array([[turn["role"] + chats.UNLEARNT * ("weight" in turn), turn["content"]] for turn in messages(data)])


def preview(turns: Example, alternative: str) -> Markup:
    """Returns the end of a conversation on one line."""
    return Markup("<bdi>{}</bdi>").format(printable(" / ".join(str(content) for _, content in turns))[-EXCERPT:])


def ask(prompts: Sequence[str | Path], sides: int) -> Asked:
    """Takes each argument as a user's first message.

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
    is_one=lambda array: array.dtype.kind == "U" and array.ndim == 2 and len(array) > 0 and array.shape[1] == 2,
    preview=preview,
    ask=ask,
    asked_as='"a prompt"',
    is_picture=False,
    readers=("chats.py", "templates.py"),
    packages=("tokenizers", "jinja2"),
    question=lambda turns: turns[:-1],
)

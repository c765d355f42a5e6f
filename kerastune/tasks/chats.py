"""Conversations as KerasHub's tokens, by the preset's own chat template; export/chats.py does the same on devices."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jinja2 import TemplateError
from keras_hub.src.utils.preset_utils import get_file

from kerastune import assets
from kerastune.errors import DataError, RecipeError, printable
from kerastune.targets import chats as reader

Tokenizer: TypeAlias = Any  # a keras_hub.models.Tokenizer; KerasHub has no types
Message = dict[str, str]

PLAIN = """\
{% for message in messages %}{{ message.role|capitalize }}: {{ message.content }}\
{{ eos_token if message.role == "assistant" }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
"""The template of presets that bring none: "User: …", and "Assistant: …" up to the token that ends a text."""


@dataclass(frozen=True)
class Spoken:
    """A conversation as tokens.

    Attributes:
        ids: all of them.
        scored: of each, whether it is the assistant's: the words of its turns, and what ends them.
    """

    ids: list[int]
    scored: list[bool]


class Chat(reader.Chat):  # type: ignore[misc]  # export/ has no types
    """A chat template and the tokenizer that it belongs to.

    Args:
        source: the template, in Jinja.
        origin: names it in messages: "chat_template.jinja", "tokenizer_config.json" or "plain".
        starts: whether a text begins with the tokenizer's start token, if the template does not say so itself.
        system: what the system says in conversations where it says nothing.

    Raises:
        RecipeError: the template is no Jinja, or no special token ends an answer.
    """

    def __init__(self, source: str, origin: str, tokenizer: Tokenizer, starts: bool, system: str | None) -> None:
        self.origin, self.tokenizer = origin, tokenizer
        # KerasHub 0.32 splits words as GPT-2 does in a tf.data pipeline, and as Llama 3 does when it is called
        # directly: a model would be asked in other tokens than it was trained in. This way both are the first.
        tokenizer._allow_python_workflow = False
        start = tokenizer.start_token_id
        known = [*tokenizer.special_tokens, *(getattr(tokenizer, "unsplittable_tokens", None) or ())]
        self.settings: dict[str, Any] = {
            "names": {f"{a}_token": getattr(tokenizer, f"{b}_token", None) or "" for a, b in _NAMES},
            # Tokens that are written as they are and stand for no words; SentencePiece would cut them into letters.
            "special": {str(token): int(tokenizer.token_to_id(token)) for token in known},
            "start": int(start) if starts and start is not None else None,
            "system": system,
        }
        try:
            super().__init__(source, self.settings, self._tokens, self._words)
        except TemplateError as error:
            raise RecipeError(f"The chat template ({origin}) is no Jinja: {error}.") from error
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (probe,) = self.conversations([turns])
        self.stop = [i for i, on in zip(probe.ids, probe.scored, strict=True) if on][-1]

    def render(self, messages: Sequence[Message], answering: bool = False) -> str:
        """The conversation as a text; `answering` adds what an answer of the assistant begins with.

        Raises:
            RecipeError: the template refuses it, or tries to do what the sandbox does not allow.
        """
        try:
            return str(super().render(messages, answering))
        except Exception as error:  # a template may fail in any way that Python knows
            raise RecipeError(
                f"The chat template ({self.origin}) fails: {printable(str(error))}.",
                f"Mend the preset's {reader.TEMPLATE}, or use another preset.",
            ) from error

    def conversations(self, conversations: Sequence[Sequence[Message]]) -> list[Spoken]:
        """Conversations as tokens.

        Raises:
            RecipeError: the template does not continue its own prompts, or no special token ends an answer.
        """
        try:
            return [Spoken(*one) for one in self.spoken(conversations)]
        except ValueError as error:
            raise RecipeError(
                f"The chat template ({self.origin}) {error}.",
                f"Mend the preset's {reader.TEMPLATE}, or use another preset.",
            ) from error

    def _tokens(self, texts: list[str]) -> Sequence[Sequence[int]]:
        found: Any = self.tokenizer(texts)
        rows: Sequence[Sequence[int]] = found.to_list() if hasattr(found, "to_list") else found
        return rows

    def _words(self, ids: list[int]) -> str:
        return str(self.tokenizer.detokenize(np.array([ids], np.int32))[0])

    def refuse_special(self, ids: Sequence[str], conversations: Sequence[Sequence[Message]]) -> None:
        """Raises DataError for conversations whose words would be read as the template's own marks."""
        bad = [
            f"  {id}: holds {token!r}"
            for id, turns in zip(ids, conversations, strict=True)
            for token in self.special
            if any(token in turn["content"] for turn in turns)
        ]
        if bad:
            raise DataError(
                "\n".join([f"{len(bad)} texts hold marks of the chat template:", *bad[:50]]),
                "Whoever writes them could speak as somebody else; take them out.",
            )


_NAMES = (("bos", "start"), ("eos", "end"), ("pad", "pad"), ("unk", "unk"))


def chat_of(preset: str, preprocessor: Any, system: str | None) -> Chat:
    """The chat template of a preset: its chat_template.jinja, or that in its tokenizer_config.json, or PLAIN."""
    source, origin = _template(preset)
    starts = bool(getattr(preprocessor, "add_start_token", False))
    return Chat(source, origin, preprocessor.tokenizer, starts, system)


def _template(preset: str) -> tuple[str, str]:
    if (path := file_of(preset, reader.TEMPLATE)) is not None:
        return path.read_text("utf-8"), reader.TEMPLATE
    if (path := file_of(preset, "tokenizer_config.json")) is not None:
        given = json.loads(path.read_text("utf-8")).get("chat_template")
        if isinstance(given, list):  # several, by name
            given = next((one["template"] for one in given if one.get("name") == "default"), None)
        if isinstance(given, str):
            return given, path.name
    return PLAIN, "plain"


def file_of(preset: str, name: str) -> Path | None:
    """A file of a preset, wherever that is; None where it has none."""
    try:
        with assets.reaching(preset):
            return Path(get_file(preset, name))
    except (FileNotFoundError, ValueError):
        return None

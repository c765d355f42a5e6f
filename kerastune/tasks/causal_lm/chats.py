"""Conversations as KerasHub's tokens, by the preset's own chat template; export/chats.py does the same on devices."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from jinja2 import TemplateError

from kerastune import assets, keras_private
from kerastune.data.source import Problem
from kerastune.errors import DataError, RecipeError, listed, printable, shortened
from kerastune.modalities.conversation import Message
from kerastune.recipe.sources import ChatData
from kerastune.targets import chats as reader

Tokenizer: TypeAlias = Any  # a keras_hub.models.Tokenizer; KerasHub has no types

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
        today: the date that a template is told, if it asks for one: "2026-01-31".

    Raises:
        RecipeError: the template is no Jinja, or no special token ends an answer.
    """

    def __init__(
        self, source: str, origin: str, tokenizer: Tokenizer, starts: bool, system: str | None, today: str
    ) -> None:
        self.origin, self.tokenizer = origin, tokenizer
        keras_private.split_in_graph(tokenizer)  # or a model would be asked in other tokens than it was trained in
        start = tokenizer.start_token_id
        known = [*tokenizer.special_tokens, *(getattr(tokenizer, "unsplittable_tokens", None) or ())]
        self.settings: dict[str, Any] = {
            "names": {f"{a}_token": getattr(tokenizer, f"{b}_token", None) or "" for a, b in _NAMES},
            # Tokens that are written as they are and stand for no words; SentencePiece would cut them into letters.
            "special": {str(token): int(tokenizer.token_to_id(token)) for token in known},
            "start": int(start) if starts and start is not None else None,
            "system": system,
            "today": today,
        }
        try:
            super().__init__(source, self.settings, self._tokens, self._words)
        except TemplateError as error:
            raise RecipeError(f"The chat template ({origin}) is no Jinja that can be used: {error}.") from error
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
            Problem(id, f"holds {token!r}")
            for id, turns in zip(ids, conversations, strict=True)
            for token in self.special
            if any(token in turn["content"] for turn in turns)
        ]
        silent = [
            Problem(id, "what a tool says is not written by the chat template")
            for id, turns in zip(ids, conversations, strict=True)
            if (tools := [turn["content"] for turn in turns if turn["role"] == "tool"])
            and not all(said in self.render(turns) for said in tools)
        ]
        if silent:
            raise DataError(
                f"{len(silent)} conversations have turns that the model would not see:\n{listed(silent)}",
                "Leave out the turns of tools, or use a preset whose template writes them.",
            )
        if bad:
            raise DataError(
                f"{len(bad)} texts hold marks of the chat template:\n{listed(bad)}",
                "Whoever writes them could speak as somebody else; take them out.",
            )


# --- in a graph --------------------------------------------------------------------------------------------

_PLACES = ("\ue000", "\ue001")  # private characters, where a rendered template is to hold the prompt and the answer
_BLANK = r"[\s\v\x1c-\x1f\x85\p{Z}]"  # what Python's strip takes away


@dataclass(frozen=True)
class Frame:
    """A prompt, or a prompt and its answer, as a template writes them.

    Attributes:
        parts: ids, or the pieces of a text that is tokenised as one; those in `_PLACES` are yet to be said.
        trims: whether the template takes spaces away around what is said.
    """

    parts: list[list[int] | list[str]]
    trims: bool


def frame(chat: Chat, answered: bool = False) -> Frame:
    """How the template writes a prompt, and its answer where it is `answered`.

    Raises:
        ValueError: the template changes what is said, so that it must be rendered for each conversation.
    """

    def rendered(*said: str) -> str:
        turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=False)]
        return chat.render(turns, answering=not answered)

    places, probe = _PLACES[: 1 + answered], (" A b.\nc ", " D  e, f\n")[: 1 + answered]
    text = rendered(*places)

    def filled(said: Sequence[str]) -> str:
        return "".join(dict(zip(places, said, strict=True)).get(piece, piece) for piece in _pieces(text))

    trims = (found := rendered(*probe)) == filled([words.strip() for words in probe])
    if not (trims or found == filled(probe)):
        raise ValueError(f"the chat template ({chat.origin}) changes what is said")
    parts = chat.parts(text)
    if answered:  # up to what ends the answer
        parts = parts[: max(i for i, part in enumerate(parts) if part in chat.special) + 1]
    framed: list[list[int] | list[str]] = [
        pieces if set(pieces := _pieces(part)) & set(places) else chat.encode([part])[0] for part in parts
    ]
    starts = chat.start is None or framed[0][:1] == [chat.start]
    return Frame(framed if starts else [[chat.start], *framed], trims)


def _pieces(text: str) -> list[str]:
    return [piece for piece in re.split(f"([{''.join(_PLACES)}])", text) if piece]


def encoded(chat: Chat, by: Frame, *said: tf.Tensor) -> tf.RaggedTensor:
    """Prompts, string [B], and their answers, in a frame: int32 [B, None]."""
    if by.trims:
        said = tuple(tf.strings.regex_replace(words, rf"\A{_BLANK}+|{_BLANK}+\z", "") for words in said)
    words, count, rows = dict(zip(_PLACES, said, strict=False)), tf.shape(said[0])[0], []
    for part in by.parts:
        if isinstance(part[0], str):
            rows.append(tf.cast(chat.tokenizer(tf.strings.join([words.get(one, one) for one in part])), tf.int32))
        else:
            rows.append(tf.RaggedTensor.from_tensor(tf.tile([part], [count, 1])))
    return tf.concat(rows, axis=1)


def checked(value: tf.Tensor, holds: tf.Tensor, why: str) -> tf.Tensor:
    """The value; running the graph fails with `why` where it does not hold."""
    with tf.control_dependencies([tf.debugging.Assert(holds, [why])]):
        return tf.identity(value)


def unmarked(chat: Chat, said: tf.Tensor) -> tf.Tensor:
    """Texts, string [B], that must not be read as the template's own marks."""
    marks = "|".join(map(re.escape, chat.special))
    bad = tf.strings.regex_full_match(said, f"(?s).*({marks}).*")
    return checked(said, ~tf.reduce_any(bad), "a text holds a mark of the chat template")


_NAMES = (("bos", "start"), ("eos", "end"), ("pad", "pad"), ("unk", "unk"))


TODAY = "chat_today.txt"
"""Beside a template that asks for the date: the one that the model was trained with."""


def chat_of(preset: str, preprocessor: Any, data: ChatData) -> Chat:
    """The chat template of a preset: its chat_template.jinja, or that in its tokenizer_config.json, or PLAIN.

    Raises:
        RecipeError: it cannot be read or used.
    """
    source, origin = _template(preset)
    starts = bool(getattr(preprocessor, "add_start_token", False))
    path = file_of(preset, TODAY)
    today = data.today or (path.read_text("utf-8").strip() if path else datetime.now().date().isoformat())
    return Chat(source, origin, preprocessor.tokenizer, starts, data.system, today)


def write(chat: Chat, folder: Path) -> None:
    """Writes the template, and the date that it was told."""
    (folder / reader.TEMPLATE).write_text(chat.source, "utf-8")
    if "strftime_now" in chat.source:
        (folder / TODAY).write_text(chat.settings["today"] + "\n", "utf-8")


def _template(preset: str) -> tuple[str, str]:
    if (path := file_of(preset, reader.TEMPLATE)) is not None:
        return _read(path), reader.TEMPLATE
    if (path := file_of(preset, "tokenizer_config.json")) is not None:
        try:
            given = json.loads(_read(path)).get("chat_template")
            if isinstance(given, list):  # several, by name
                given = next((one["template"] for one in given if one.get("name") == "default"), None)
        except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
            raise RecipeError(f"{path} holds no settings of a tokenizer: {shortened(str(error))}.") from error
        if isinstance(given, str):
            return given, path.name
    return PLAIN, "plain"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except ValueError as error:
        raise RecipeError(f"{path} is not UTF-8: {shortened(str(error))}.") from error


def file_of(preset: str, name: str) -> Path | None:
    """A file of a preset, wherever that is; None where it has none."""
    try:
        with assets.reaching(preset):
            return keras_private.preset_file(preset, name)
    except ValueError:
        return None

"""Turns conversations into KerasHub's tokens with the preset's chat template, as export/chats.py does on devices."""

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
from kerastune.tasks import tokens, traces

Tokenizer: TypeAlias = Any  # a keras_hub.models.Tokenizer; KerasHub has no types

PLAIN = """\
{% for message in messages %}{{ message.role|capitalize }}: {{ message.content }}\
{{ eos_token if message.role == "assistant" }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
"""Template for presets without one: "User: …", and "Assistant: …" up to the end-of-text token."""


_LONGEST_REASON = 500  # characters of a template's own message


@dataclass(frozen=True)
class Spoken:
    """A conversation as tokens.

    Attributes:
        ids: all token ids.
        scored: for each token, whether it belongs to an assistant turn, including its end token.
    """

    ids: list[int]
    scored: list[bool]


class Chat(reader.Chat):  # type: ignore[misc]  # export/ has no types
    """A chat template and its tokenizer.

    Args:
        source: the template, in Jinja.
        origin: the template's name in messages: "chat_template.jinja", "tokenizer_config.json" or "plain".
        starts: whether a text begins with the tokenizer's start token, if the template does not add it.
        system: the system message of conversations that have none.
        today: the date for templates that use one: "2026-01-31".

    Raises:
        RecipeError: the template is not valid Jinja, or no special token ends an answer.
    """

    def __init__(
        self, source: str, origin: str, tokenizer: Tokenizer, starts: bool, system: str | None, today: str
    ) -> None:
        self.origin, self.tokenizer = origin, tokenizer
        self.graphs: traces.Kept = {}  # of the model that speaks
        keras_private.split_in_graph(tokenizer)  # so that prediction uses the tokens of training
        start = tokenizer.start_token_id
        known = [*tokenizer.special_tokens, *(getattr(tokenizer, "unsplittable_tokens", None) or ())]
        self.settings: dict[str, Any] = {
            "names": {f"{a}_token": getattr(tokenizer, f"{b}_token", None) or "" for a, b in _NAMES},
            # Literal tokens that are not words; SentencePiece would split them into letters.
            "special": {str(token): int(tokenizer.token_to_id(token)) for token in known},
            "start": int(start) if starts and start is not None else None,
            "system": system,
            "today": today,
        }
        try:
            super().__init__(source, self.settings, self._tokens, self._words)
        except TemplateError as error:
            why = shortened(printable(str(error)), _LONGEST_REASON)
            raise RecipeError(f"The chat template ({origin}) is not usable Jinja: {why}.") from error
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (probe,) = self.conversations([turns])
        self.stop = [i for i, on in zip(probe.ids, probe.scored, strict=True) if on][-1]

    @property
    def asks_for_today(self) -> bool:
        """Returns whether the template writes the date."""
        return "strftime_now" in self.source

    def render(self, messages: Sequence[Message], answering: bool = False) -> str:
        """Renders the conversation as text; `answering` adds the beginning of an assistant turn.

        Raises:
            RecipeError: the template rejects it, or does something that the sandbox forbids.
        """
        try:
            return str(super().render(messages, answering))
        except Exception as error:  # a template can raise anything
            raise RecipeError(
                f"The chat template ({self.origin}) fails: {shortened(printable(str(error)), _LONGEST_REASON)}.",
                f"Mend the preset's {reader.TEMPLATE}, or use another preset.",
            ) from error

    def conversations(self, conversations: Sequence[Sequence[Message]]) -> list[Spoken]:
        """Tokenises conversations.

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
        return tokens.ids(self.tokenizer, texts)

    def _words(self, ids: list[int]) -> str:
        return str(self.tokenizer.detokenize(np.array([ids], np.int32))[0])

    def refuse_special(self, ids: Sequence[str], conversations: Sequence[Sequence[Message]]) -> None:
        """Raises DataError for conversations whose words would be read as the template's markers."""
        bad = [
            Problem(id, f"holds {token!r}")
            for id, turns in zip(ids, conversations, strict=True)
            for token in self.special
            if any(token in turn["content"] for turn in turns)
        ]
        silent = [
            Problem(id, "the chat template does not write tool messages")
            for id, turns in zip(ids, conversations, strict=True)
            if (tools := [turn["content"] for turn in turns if turn["role"] == "tool"])
            and not all(said in self.render(turns) for said in tools)
        ]
        if silent:
            raise DataError(
                f"{len(silent)} conversations have turns that the model would not see:\n{listed(silent)}",
                "Leave out tool turns, or use a preset whose template writes them.",
            )
        if bad:
            raise DataError(
                f"{len(bad)} texts hold markers of the chat template:\n{listed(bad)}",
                "They could impersonate another role; remove them.",
            )


# --- in a graph --------------------------------------------------------------------------------------------

_PLACES = ("\ue000", "\ue001")  # private characters, placeholders of the prompt and the answer in a rendered template
_BLANK = r"[\s\v\x1c-\x1f\x85\p{Z}]"  # what Python's strip removes


@dataclass(frozen=True)
class Frame:
    """A template's text around a prompt, or around a prompt and its answer.

    Attributes:
        parts: ids, or pieces of a text that is tokenised as a whole; those in `_PLACES` are placeholders.
        trims: whether the template strips spaces around messages.
    """

    parts: list[list[int] | list[str]]
    trims: bool


def frame(chat: Chat, answered: bool = False) -> Frame:
    """Returns the template's text around a prompt, and around its answer if `answered`.

    Raises:
        ValueError: the template changes messages, so it must be rendered for each conversation.
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
        raise ValueError(f"the chat template ({chat.origin}) changes messages")
    parts = chat.parts(text)
    if answered:  # up to the end of the answer
        parts = parts[: max(i for i, part in enumerate(parts) if part in chat.special) + 1]
    framed: list[list[int] | list[str]] = [
        pieces if set(pieces := _pieces(part)) & set(places) else chat.encode([part])[0] for part in parts
    ]
    starts = chat.start is None or framed[0][:1] == [chat.start]
    return Frame(framed if starts else [[chat.start], *framed], trims)


def _pieces(text: str) -> list[str]:
    return [piece for piece in re.split(f"([{''.join(_PLACES)}])", text) if piece]


def encoded(chat: Chat, by: Frame, *said: tf.Tensor) -> tf.RaggedTensor:
    """Encodes prompts, string [B], and their answers in a frame: int32 [B, None]."""
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
    """Returns the value; the graph fails with `why` if `holds` is false."""
    with tf.control_dependencies([tf.debugging.Assert(holds, [why])]):
        return tf.identity(value)


def unmarked(chat: Chat, said: tf.Tensor) -> tf.Tensor:
    """Returns texts, string [B]; the graph fails if one holds the template's markers."""
    marks = "|".join(map(re.escape, chat.special))
    bad = tf.strings.regex_full_match(said, f"(?s).*({marks}).*")
    return checked(said, ~tf.reduce_any(bad), "a text holds a marker of the chat template")


_NAMES = (("bos", "start"), ("eos", "end"), ("pad", "pad"), ("unk", "unk"))


TODAY = "chat_today.txt"
"""File next to a template that uses the date: the date of training."""


def chat_of(preset: str, preprocessor: Any, data: ChatData) -> Chat:
    """Returns a preset's chat template: chat_template.jinja, the one in tokenizer_config.json, or PLAIN.

    Raises:
        RecipeError: it cannot be read or used.
    """
    source, origin = _template(preset)
    starts = bool(getattr(preprocessor, "add_start_token", False))
    path = file_of(preset, TODAY)
    today = data.today or (path.read_text("utf-8").strip() if path else datetime.now().date().isoformat())
    return Chat(source, origin, preprocessor.tokenizer, starts, data.system, today)


def write(chat: Chat, folder: Path) -> None:
    """Writes the template, and its date."""
    (folder / reader.TEMPLATE).write_text(chat.source, "utf-8")
    if chat.asks_for_today:
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
            raise RecipeError(f"{path} does not hold a tokenizer's settings: {shortened(str(error))}.") from error
        if isinstance(given, str):
            return given, path.name
    return PLAIN, "plain"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except ValueError as error:
        raise RecipeError(f"{path} is not UTF-8: {shortened(str(error))}.") from error


def file_of(preset: str, name: str) -> Path | None:
    """Returns a file of a preset, local or not, or None."""
    try:
        with assets.reaching(preset):
            return keras_private.preset_file(preset, name)
    except ValueError:
        return None

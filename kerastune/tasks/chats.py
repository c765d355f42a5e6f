"""Conversations as tokens, by the preset's own chat template, and which of the tokens are the assistant's.

Templates come with foreign presets, so they run in Jinja's sandbox: they see the messages, and nothing of Python.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from keras_hub.src.utils.preset_utils import get_file

from kerastune import assets
from kerastune.errors import DataError, RecipeError, printable

Tokenizer: TypeAlias = Any  # a keras_hub.models.Tokenizer; KerasHub has no types
Message = dict[str, str]

TEMPLATE = "chat_template.jinja"  # Hugging Face's name for it
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


class Chat:
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
        self.source, self.origin, self.tokenizer, self.system = source, origin, tokenizer, system
        # KerasHub 0.32 splits words as GPT-2 does in a tf.data pipeline, and as Llama 3 does when it is called
        # directly: a model would be asked in other tokens than it was trained in. This way both are the first.
        tokenizer._allow_python_workflow = False
        self._start = tokenizer.start_token_id if starts else None
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers has it
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise RecipeError(f"The chat template ({origin}) is no Jinja: {error}.") from error
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (probe,) = self.spoken([turns])
        self.stop = [i for i, on in zip(probe.ids, probe.scored, strict=True) if on][-1]

    def render(self, messages: Sequence[Message], answering: bool = False) -> str:
        """The conversation as a text; `answering` adds what an answer of the assistant begins with.

        Raises:
            RecipeError: the template refuses it, or tries to do what the sandbox does not allow.
        """
        if self.system and not (messages and messages[0]["role"] == "system"):
            messages = [{"role": "system", "content": self.system}, *messages]
        names = {f"{a}_token": getattr(self.tokenizer, f"{b}_token", None) or "" for a, b in _NAMES}
        try:
            return self._template.render(messages=messages, add_generation_prompt=answering, **names)
        except Exception as error:  # a template may fail in any way that Python knows
            raise RecipeError(
                f"The chat template ({self.origin}) fails: {printable(str(error))}.",
                f"Mend the preset's {TEMPLATE}, or use another preset.",
            ) from error

    def spoken(self, conversations: Sequence[Sequence[Message]]) -> list[Spoken]:
        """Conversations as tokens. Whose they are is seen by rendering each with and without each answer.

        Raises:
            RecipeError: the template does not continue its own prompts, or no special token ends an answer.
        """
        ends = [[k for k, turn in enumerate(one) if turn["role"] == "assistant"] for one in conversations]
        texts = [
            text
            for one, answers in zip(conversations, ends, strict=True)
            for k in answers
            for text in (self.render(one[:k], answering=True), self.render(one[: k + 1]))
        ]
        encoded = iter(self.encode(texts))
        found = []
        for answers in ends:
            spans, whole = [], list[int]()
            for _ in answers:
                before, after = next(encoded), next(encoded)
                if before[: len(whole)] != whole or after[: len(before)] != before:
                    raise RecipeError(
                        f"The chat template ({self.origin}) does not continue its own prompt, so it cannot be told "
                        "which tokens are the assistant's.",
                        "Use a preset whose template leaves earlier turns as they are.",
                    )
                spans.append((len(before), self._end(after, len(before))))
                whole = after
            scored = [any(a <= i < b for a, b in spans) for i in range(len(whole))]
            found.append(Spoken(whole[: spans[-1][1]], scored[: spans[-1][1]]))
        return found

    def _end(self, ids: list[int], start: int) -> int:
        """Where an answer ends: after its last special token."""
        special = set(self.special.values())
        end = next((i for i in range(len(ids) - 1, start - 1, -1) if ids[i] in special), None)
        if end is None:
            raise RecipeError(
                f"The chat template ({self.origin}) ends an answer with none of the tokenizer's special tokens, so the "
                "model could not learn to stop.",
                f"Let it end with eos_token, in the preset's {TEMPLATE}.",
            )
        return end + 1

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that an answer is to go on from."""
        return self.encode([self.render(messages, answering=True)])[0]

    @cached_property
    def special(self) -> dict[str, int]:
        """Tokens that are written as they are and stand for no words, and their ids."""
        known = [*self.tokenizer.special_tokens, *(getattr(self.tokenizer, "unsplittable_tokens", None) or ())]
        return {str(token): int(self.tokenizer.token_to_id(token)) for token in known}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as ids, special tokens among them; SentencePiece would cut those into letters."""
        pattern = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or "(?!)")
        cut = [_cut(pattern, text) for text in texts]
        plain = sorted({part for parts in cut for part in parts if part not in self.special})
        known = {token: [number] for token, number in self.special.items()}
        known |= {part: [int(i) for i in ids] for part, ids in zip(plain, self._tokens(plain), strict=True)}
        start = [] if self._start is None else [int(self._start)]
        whole = [[i for part in parts for i in known[part]] for parts in cut]
        return [ids if ids[:1] == start else start + ids for ids in whole]

    def _tokens(self, texts: list[str]) -> Sequence[Sequence[int]]:
        found: Any = self.tokenizer(texts) if texts else []
        rows: Sequence[Sequence[int]] = found.to_list() if hasattr(found, "to_list") else found
        return rows

    def decode(self, ids: Sequence[int]) -> str:
        special = set(self.special.values())
        words = [i for i in ids if i not in special]
        found = self.tokenizer.detokenize(np.array([words], np.int32)) if words else [""]
        return str(found[0]).strip()

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


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _cut(pattern: re.Pattern[str], text: str) -> list[str]:
    """A text in parts: special tokens, and what is between them."""
    parts, at = [], 0
    for match in pattern.finditer(text):
        parts += [text[at : match.start()], match.group()]
        at = match.end()
    return [part for part in [*parts, text[at:]] if part]


def chat_of(preset: str, preprocessor: Any, system: str | None) -> Chat:
    """The chat template of a preset: its chat_template.jinja, or that in its tokenizer_config.json, or PLAIN."""
    source, origin = _template(preset)
    starts = bool(getattr(preprocessor, "add_start_token", False))
    return Chat(source, origin, preprocessor.tokenizer, starts, system)


def _template(preset: str) -> tuple[str, str]:
    if (path := _file(preset, TEMPLATE)) is not None:
        return path.read_text("utf-8"), TEMPLATE
    if (path := _file(preset, "tokenizer_config.json")) is not None:
        given = json.loads(path.read_text("utf-8")).get("chat_template")
        if isinstance(given, list):  # several, by name
            given = next((one["template"] for one in given if one.get("name") == "default"), None)
        if isinstance(given, str):
            return given, path.name
    return PLAIN, "plain"


def _file(preset: str, name: str) -> Path | None:
    try:
        with assets.reaching(preset):
            return Path(get_file(preset, name))
    except (FileNotFoundError, ValueError):
        return None

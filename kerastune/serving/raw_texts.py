"""A signature of raw texts: tokenises them as the artifact's reader does, then computes the signature of tokens.

TF Serving answers raw texts from the artifact's second SavedModel, which not every artifact has.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerastune.serving.signatures import Arrays, Refused, Signature, Specs
from kerastune.targets import chats, texts
from kerastune.verifying.artifact import Artifact

NAME = "serve_texts"


def signature(of: Artifact, tokens: Signature) -> Signature | None:
    """Makes a signature of strings; None if the artifact does not take texts."""
    make = _MODALITIES.get(of.manifest.modality)
    return make(of, tokens) if make else None


def _texts(of: Artifact, tokens: Signature) -> Signature:
    packing = of.manifest.reading
    names = ("texts", "pairs") if packing["pairs"] else ("texts",)
    tokenised = texts.load(of.folder, packing)
    return Signature(_strings(names), tokens.outputs, lambda given: tokens.compute(tokenised(_rows(names, given))))


def _prompts(of: Artifact, tokens: Signature) -> Signature:
    """Answers prompts greedily, with as many tokens as the golden answers."""
    settings = of.manifest.reading
    chat = chats.load(of.folder, settings)

    def step(tokens_: Any, position: Any, kv_cache: Any) -> tuple[Any, Any]:
        found = tokens.compute({"tokens": tokens_, "position": position, "kv_cache": kv_cache})
        return found["logits"], found["kv_cache_next"]

    def answer(prompt: str) -> bytes:
        if marks := chat.marks(prompt):
            raise Refused(f"a prompt holds {marks[0]!r}, a marker of the chat template")
        ids = chat.prompt([{"role": "user", "content": prompt.strip()}])
        if why := chats.too_long(ids, settings):
            raise Refused(f"the prompt {why}")
        return str(chat.decode(chats.generate(step, settings, ids, settings["max_tokens"]))).encode()

    def compute(given: Arrays) -> Arrays:
        return {"answers": np.array([answer(prompt) for (prompt,) in _rows(("prompts",), given)], object)}

    return Signature(_strings(("prompts",)), _strings(("answers",)), compute)


def _strings(names: Sequence[str]) -> Specs:
    return {name: tf.TensorSpec([None], tf.string, name) for name in sorted(names)}


def _rows(names: Sequence[str], given: Arrays) -> list[list[str]]:
    columns = [[text.decode() for text in given[name]] for name in names]
    if len(set(map(len, columns))) > 1:
        raise Refused(f"inputs {' and '.join(names)} have different numbers of texts")
    return [list(row) for row in zip(*columns, strict=True)]


_MODALITIES: dict[str, Callable[[Artifact, Signature], Signature]] = {"text": _texts, "conversation": _prompts}

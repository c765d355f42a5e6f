"""Answers of a language model."""

import math
from collections.abc import Sequence
from functools import partial

import keras_hub
import numpy as np
import tensorflow as tf

from kerastune.data import Splits, spread
from kerastune.errors import KerastuneError
from kerastune.modalities.conversation import Message, messages
from kerastune.targets import chats as reader
from kerastune.tasks import traces
from kerastune.tasks.causal_lm.chats import Chat
from kerastune.tasks.causal_lm.settings import CausalLM
from kerastune.tasks.contract import Model


def sampled(recipe: CausalLM, splits: Splits) -> list[list[Message]]:
    """Returns the validation conversations that the model answers for the recipe's samples."""
    wanted = recipe.samples.count
    return [messages(splits.validation.read(i)) for i in sorted(spread(splits.validation, wanted))]


def samples(recipe: CausalLM, model: Model, splits: Splits) -> list[str]:
    """Returns the model's greedy answer in place of the last turn of each sampled conversation."""
    prompts = [turns[:-1] for turns in sampled(recipe, splits)]
    return answers(model, prompts, recipe.samples.max_tokens) if prompts else []


def answers(
    model: Model, conversations: Sequence[Sequence[Message]], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """Returns the model's next message in each conversation, without the prompt.

    KerasHub's `generate` tokenises differently from training, and stops before its first token if the end token also
    pads, so tokens are made and padded here.

    Args:
        max_tokens: maximum length of an answer.
        temperature: 0 takes the most likely token; above 0, tokens are sampled (1: from the model's distribution).
        seed: the sampling seed.

    Raises:
        KerastuneError: a prompt leaves no room for an answer.
    """
    chat: Chat = model.chat
    chat.refuse_special([f"prompt {i}" for i in range(1, len(conversations) + 1)], conversations)
    said = answer_ids(model, chat.prompts(conversations), max_tokens, temperature, seed)
    return [chat.decode(ids) for ids in said]


def answer_ids(
    model: Model, prompts: Sequence[list[int]], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[list[int]]:
    """Returns the ids of the model's next messages after the ids of prompts, without end tokens."""
    longest = max(map(len, prompts))
    most = getattr(model.backbone, "max_sequence_length", None) or math.inf
    if longest >= most:
        raise KerastuneError(f"A prompt has {longest} tokens, but the model takes {most}, including the answer.")
    width = int(min(longest + max_tokens, most))
    stops = end_ids(model)
    filler = next(i for i in range(len(stops) + 1) if i not in stops)
    ids = np.full((len(prompts), width), filler, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    mask = np.arange(width) < np.array([[len(prompt)] for prompt in prompts])
    samplers = keras_hub.samplers
    drawn = samplers.RandomSampler(temperature=temperature, seed=seed) if temperature else None
    model.sampler = drawn or samplers.GreedySampler()  # a prompt of another length is traced with it again
    graphs = {} if temperature else model.chat.graphs  # where tokens are drawn, a seed starts anew
    generate = partial(model.generate_step, stop_token_ids=stops)
    step = traces.kept(graphs, "answer", model.weights, lambda: tf.function(generate))
    said = step({"token_ids": ids, "padding_mask": mask})["token_ids"].numpy()
    return [
        reader.until(row[len(prompt) : len(prompt) + max_tokens].tolist(), stops)
        for row, prompt in zip(said, prompts, strict=True)
    ]


def end_ids(model: Model) -> list[int]:
    """Returns the ids that end an answer."""
    return sorted({model.chat.stop, int(model.preprocessor.tokenizer.end_token_id)})

"""Converses with an exported language model, without kerastune: numpy, the tokenizers package and Jinja.

A model is a function of tokens, and of a cache of everything it has read before:

    step(tokens int32 [1, N], position int32 [1], kv_cache) -> logits float32 [1, N, vocabulary], the next kv_cache

`position` is that of the first token. A prompt is read `prefill` tokens at a time, and an answer is generated token by
token. manifest.json has the other settings under "reading":

    names, special   the template's names of special tokens; their ids
    start            the id that texts begin with, or null
    system           the system message of conversations that have none, or null
    today            the date for templates that use one: "2026-01-31"
    stops            ids that end an answer
    prefill          number of prompt tokens to read at a time
    cache            shape of kv_cache [1, …], zeros at the beginning
    length           number of tokens in kv_cache: prompt and answer
    vocabulary       size of the logits
    scored           maximum scored tokens of a conversation, as in training
    max_tokens       maximum tokens of the golden answers

Templates are untrusted, so templates.py renders them in a sandbox with limits.
"""

import re
from importlib import import_module
from pathlib import Path

import numpy as np

templates = import_module(f"{__package__}.templates" if __package__ else "templates")  # next to this file

TEMPLATE = "chat_template.jinja"  # Hugging Face's name for it


class Chat:
    """A chat template and its tokenizer.

    Args:
        source: the template, in Jinja.
        settings: `names`, `special`, `start`, `system` and `today`, as in a manifest.
        tokens: texts without special tokens -> a list of ids for each.
        words: a list of ids -> the text.
    """

    def __init__(self, source, settings, tokens, words):
        self.source, self.tokens, self.words = source, tokens, words
        self.names, self.special = settings["names"], settings["special"]
        self.start, self.system = settings["start"], settings["system"]
        specials = "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or "(?!)"
        self._specials = re.compile(f"({specials})")
        self._template = templates.Template(source, settings["today"])

    def render(self, messages, answering=False):
        """Renders the conversation as text; `answering` adds the beginning of an assistant turn."""
        said = [{"role": turn["role"], "content": turn["content"]} for turn in self.opened(messages)]
        known = {"messages": said, "tools": None, "documents": None, "add_generation_prompt": answering}
        return self._template.render(known | self.names)

    def opened(self, messages):
        """Returns the conversation with its system message."""
        if self.system and not (messages and messages[0]["role"] == "system"):
            return [{"role": "system", "content": self.system}, *messages]
        return messages

    def spoken(self, conversations):
        """Returns each conversation's ids, and whether each id is to be learnt: assistant turns, including their end.

        Finds out by rendering the conversation with and without each answer. Answers of weight 0 are not learnt.

        Raises:
            ValueError: the template does not continue its own prompts, or no special token ends an answer.
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
        for one, answers in zip(conversations, ends, strict=True):
            spans, whole = [], []
            for k in answers:
                before, after = next(encoded), next(encoded)
                if before[: len(whole)] != whole or after[: len(before)] != before:
                    raise ValueError("does not continue its own prompt, so the assistant's tokens cannot be identified")
                spans.append((len(before), self._end(after, len(before)), one[k].get("weight", 1)))
                whole = after
            scored = [any(a <= i < b and weight for a, b, weight in spans) for i in range(len(whole))]
            found.append((whole[: spans[-1][1]], scored[: spans[-1][1]]))
        return found

    def _end(self, ids, start):
        """Returns where an answer ends: after its last special token."""
        special = set(self.special.values())
        end = next((i for i in range(len(ids) - 1, start - 1, -1) if ids[i] in special), None)
        if end is None:
            raise ValueError(
                "does not end an answer with a special token of the tokenizer, so the model could not learn to stop; "
                "end it with eos_token"
            )
        return end + 1

    def prompt(self, messages):
        """Returns the ids of the prompt for an answer."""
        return self.prompts([messages])[0]

    def prompts(self, conversations):
        """Returns the ids of the prompt for an answer in each conversation."""
        return self.encode([self.render(messages, answering=True) for messages in conversations])

    def encode(self, texts):
        """Encodes texts as ids, including special tokens."""
        parts = [self.parts(text) for text in texts]
        plain = sorted({part for some in parts for part in some if part not in self.special})
        known = {token: [number] for token, number in self.special.items()}
        known |= dict(zip(plain, self.tokens(plain) if plain else [], strict=True))
        start = [] if self.start is None else [self.start]
        whole = [[int(i) for part in some for i in known[part]] for some in parts]
        return [ids if ids[:1] == start else start + ids for ids in whole]

    def parts(self, text):
        """Splits a text into special tokens and the parts between them."""
        return [part for part in self._specials.split(text) if part]

    def marks(self, text):
        """Returns the template's markers in a text, which could impersonate another role."""
        return [token for token in self.special if token in text]

    def decode(self, ids):
        """Decodes ids, without special tokens."""
        special = set(self.special.values())
        said = [i for i in ids if i not in special]
        return self.words(said).strip() if said else ""


# --- an exported model -------------------------------------------------------------------------------------


class Refused(ValueError):
    """A conversation that the model cannot take."""


def asked(arguments, settings):
    """Returns the given prompts: a name for each, and a conversation of one turn."""
    return ((prompt, np.array([["user", prompt.strip()]])) for prompt in arguments)


def taking(predict, folder, settings):
    """Returns None: `predict` takes conversations, turns of role and content, str [T, 2]."""
    return lambda turns: turns


def load(folder, settings):
    """Returns the `Chat` of an artifact's folder."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))

    def tokens(texts):
        return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]

    source = Path(folder, TEMPLATE).read_text("utf-8")
    return Chat(source, settings, tokens, lambda ids: tokenizer.decode(ids, skip_special_tokens=False))


def predicting(run, folder, manifest, options):
    """Returns `predict` for a model that `run` runs: as a step, on strings, or as a whole conversation."""
    settings = manifest["reading"]
    if getattr(run, "converses", False):
        return run
    if getattr(run, "takes_strings", False):
        return speaking_strings(run, settings, options)

    def step(tokens, position, kv_cache):
        found = run({"tokens": tokens, "position": position, "kv_cache": kv_cache})
        return found["logits"], found["kv_cache_next"]

    def answer(ids, most):
        return generate(step, settings, ids, most, options.temperature, options.seed)

    return speaking(load(folder, settings), settings, options, lambda ids: read(step, settings, ids)[0], answer)


def speaking(chat, settings, options, logits, answer):
    """Returns a reader's `predict`, which scores a conversation or answers it.

    It takes turns, str [T, 2] of role and content. If the last one is the assistant's, returns "sums", float32 [1, 3]:
    cross-entropy in nats, number of correct tokens, number of scored tokens. Otherwise returns an answer: its ids,
    "tokens" int64 [1, most], padded with -1, and its text, "texts" str [1].

    Args:
        logits: ids -> logits of the token after each, float32 [len(ids), vocabulary].
        answer: (ids of a prompt, maximum number of tokens) -> ids of the answer, with or without its end token.
    """
    asked = options.max_tokens or settings["max_tokens"]

    def predict(turns, most=asked):
        messages = messages_of(turns)
        if messages[-1]["role"] == "assistant":
            return {"sums": score(logits, chat, settings, messages)[None]}
        if marks := [mark for turn in messages if turn["role"] == "user" for mark in chat.marks(turn["content"])]:
            raise Refused(
                f"the prompt holds {marks[0]!r}, a marker of the chat template, which could impersonate another role"
            )
        prompt = chat.prompt(messages)
        if why := too_long(prompt, settings):
            raise Refused(f"the prompt {why}")
        ids = until(answer(prompt, most), settings["stops"])
        return {"tokens": np.array([ids + [-1] * (most - len(ids))]), "texts": np.array([chat.decode(ids)])}

    predict.converses = True
    return predict


def speaking_strings(run, settings, options):
    """Returns `speaking` for a model that takes strings: `run({name: strings})` -> its outputs by name."""
    if options.max_tokens not in (0, settings["max_tokens"]) or options.temperature:
        raise ValueError(f"a model of raw texts answers greedily, with at most {settings['max_tokens']} tokens")

    def predict(turns, most=settings["max_tokens"]):
        prompt, *answer = [turn["content"] for turn in messages_of(turns)]
        if answer:
            return run({"prompts": [prompt], "answers": answer})
        found = run({"prompts": [prompt]})
        return {"tokens": found["tokens"], "texts": np.array([found["answers"][0].decode()])}

    return predict


UNLEARNT = "/0"  # behind the role of an answer of weight 0


def messages_of(turns):
    """Converts turns, str [T, 2] of role and content, to messages."""
    return [message(str(role), str(content)) for role, content in turns]


def message(role, content):
    if role.endswith(UNLEARNT):
        return {"role": role.removesuffix(UNLEARNT), "content": content, "weight": 0}
    return {"role": role, "content": content}


def too_long(prompt, settings):
    """Returns why a prompt's ids leave no room for an answer, or None."""
    if len(prompt) < settings["length"]:
        return None
    return f"has {len(prompt)} tokens, but the model takes {settings['length']}, including the answer"


def until(ids, stops):
    """Returns the ids before the first one that ends an answer."""
    return ids[: next((i for i, one in enumerate(ids) if one in stops), len(ids))]


def score(logits, chat, settings, messages):
    """Returns cross-entropy in nats, number of correct tokens, and number of scored tokens: float32 [3]."""
    ((ids, scored),) = chat.spoken([messages])
    count = min(len(ids) - 1, settings["scored"])  # the last token has no next one
    found = logits(ids[:count])[scored[1 : count + 1]].astype(np.float64)
    targets = np.array(ids[1 : count + 1])[scored[1 : count + 1]]
    largest = found.max(-1)
    surprise = largest + np.log(np.exp(found - largest[:, None]).sum(-1)) - found[np.arange(len(targets)), targets]
    return np.array([surprise.sum(), (found.argmax(-1) == targets).sum(), len(targets)], np.float32)


def generate(step, settings, ids, max_tokens, temperature=0.0, seed=0):
    """Generates the ids of an answer to a prompt's ids, without the end token.

    Args:
        max_tokens: maximum length of the answer.
        temperature: 0 takes the most likely token; above 0, tokens are sampled (1: from the model's distribution).
    """
    random, said = np.random.default_rng(seed), []
    logits, cache = read(step, settings, ids)
    while True:
        token = draw(logits[-1], temperature, random)
        if token in settings["stops"]:
            return said
        said.append(token)
        position = len(ids) + len(said) - 1
        if len(said) == max_tokens or position == settings["length"]:
            return said
        logits, cache = step(np.array([[token]], np.int32), np.array([position], np.int32), cache)
        logits = logits[0]


def read(step, settings, ids):
    """Returns the logits of every token, float32 [len(ids), vocabulary], and the resulting kv_cache."""
    cache, size, found = np.zeros(settings["cache"], np.float32), settings["prefill"], []
    for at in range(0, len(ids), size):
        part = np.zeros((1, size), np.int32)  # the padding is overwritten before it is read
        part[0, : len(ids) - at] = ids[at : at + size]
        logits, cache = step(part, np.array([at], np.int32), cache)
        found.append(logits[0])
    return np.concatenate(found)[: len(ids)], cache


def draw(logits, temperature, random):
    """Returns the most likely token, or a sampled one."""
    if not temperature:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    likely = np.exp(scaled - scaled.max())
    return int(random.choice(len(likely), p=likely / likely.sum()))


TIE = 1e-3  # nats; if two tokens are this close, runtimes with different rounding may give either


def replayed(predict, conversations, golden):
    """Answers the golden conversations.

    Returns the number of answers equal to Keras's, in words, and whether all are.
    """
    answers, margins = golden["answers/tokens"], golden["answers/margins"]
    said = np.concatenate([predict(turns[:-1], answers.shape[1])["tokens"] for turns in conversations])
    equal = int(same_answers(said, answers, margins).sum())
    return f", {equal} answers equal Keras's", equal == len(answers)


def same_answers(found, expected, margins):
    """Returns whether each answer is the expected one, or deviates at two equally likely tokens: bool [n]."""
    differ = found != expected
    first = differ.argmax(-1)
    return ~differ.any(-1) | (margins[np.arange(len(found)), first] < TIE)

"""Writes speech down with an exported Whisper, without kerastune: numpy alone.

A model is either one function from windows of samples to tokens, or two:

    encode(sounds float32 [1, samples]) -> cross_kv: keys and values of the sound for every layer, once a window
    decode(tokens int32 [1, 1], position int32 [1], self_kv, cross_kv) -> logits float32 [1, vocabulary], self_kv_next

`self_kv` is the cache of the text, zeros at the beginning; the caller keeps it. manifest.json has the settings under
"reading":

    sample_rate, samples  as in audio.py
    prompt      ids before a transcript, which name language and task
    end         the id after a transcript
    words       ids from 0 to here are pieces of text; others but `end` are never chosen
    max_tokens  longest transcript, in tokens
    cache       shape of self_kv

Training decodes with the rules of this module as well: at most `limit` tokens, and no endless repetition.
"""

import json
from pathlib import Path

import numpy as np

VOCABULARY = "vocabulary.json"
PHRASE = 24
"""The longest phrase in tokens whose repetition is noticed."""
RATE = 16_000
TOKENS = 12
"""The most tokens per second of sound; fast speakers reach 8."""
SPARE = 12
"""Tokens in addition, for short sounds."""


def repeats(phrase: int) -> int:
    """Returns how often a phrase of this many tokens may follow itself before decoding ends."""
    return max(4, -(-12 // phrase)) - 1


def limit(samples: int, settings) -> int:
    """Returns the most tokens for a sound of this many samples: text beyond it is not spoken, but made up."""
    return min(settings["max_tokens"], SPARE + -(-samples * TOKENS // RATE))


def heard(window) -> int:
    """Returns the number of samples of a window up to its last sound."""
    there = np.flatnonzero(window)
    return int(there[-1]) + 1 if len(there) else 0


class Writing:
    """The tokens of a transcript, chosen one by one.

    Attributes:
        tokens, margins: as they are chosen.
        is_over: whether nothing more is to be chosen: after the end token, at the limit, or in a loop.
    """

    def __init__(self, most, settings):
        self.tokens, self.margins, self.is_over = [], [], most < 1
        self._most, self._settings, self._runs = most, settings, [0] * (PHRASE + 1)

    def add(self, logits):
        """Chooses the most likely allowed token: logits float32 [vocabulary]."""
        words, end = self._settings["words"], self._settings["end"]
        allowed = np.append(logits[:words], logits[end]) if end >= words else logits[:words]
        first, second = np.argsort(-allowed, kind="stable")[:2]
        token = int(first) if first < words else end
        self.margins.append(float(allowed[first] - allowed[second]))
        self.tokens.append(token)
        self.is_over = token == end or len(self.tokens) == self._most
        if token != end:
            self._notice_loops()

    def _notice_loops(self):
        said = self.tokens
        for phrase in range(1, PHRASE + 1):
            again = len(said) > phrase and said[-1] == said[-1 - phrase]
            self._runs[phrase] = self._runs[phrase] + 1 if again else 0
            if self._runs[phrase] >= repeats(phrase) * phrase:  # keep the phrase once
                kept = len(said) - repeats(phrase) * phrase
                self.tokens, self.margins, self.is_over = said[:kept], self.margins[:kept], True
                return


def pieces(vocabulary):
    """Returns the bytes of each token of a byte-level vocabulary, in the alphabet that GPT-2 writes bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    bytes_of = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return [bytes(bytes_of[letter] for letter in token if letter in bytes_of) for token in vocabulary]


def text_of(tokens, pieces):
    """Returns the text of tokens in UTF-8, without the end token."""
    return b"".join(pieces[token] for token in tokens if token < len(pieces)).strip()


def predicting(run, folder, manifest):
    """Returns a function from {"sounds": float32 [B, samples]} to rows of "tokens", "margins" and "text"."""
    settings = manifest["reading"]
    if "encode" not in manifest["signatures"]:
        return lambda inputs: rows_of(run(inputs), settings)
    vocabulary = json.loads(Path(folder, VOCABULARY).read_text("utf-8"))
    known = pieces(vocabulary)

    def predict(inputs):
        written = [transcribe(run, window, settings) for window in inputs["sounds"]]
        return {
            "tokens": [np.array(one.tokens, np.int32) for one in written],
            "margins": [np.array(one.margins, np.float32) for one in written],
            "text": [np.frombuffer(text_of(one.tokens, known), np.uint8) for one in written],
        }

    return predict


def transcribe(run, window, settings):
    """Returns the `Writing` of one window, float32 [samples]."""
    said = Writing(limit(heard(window), settings), settings)
    cross = run({"sounds": window[None]})["cross_kv"]
    cache, prompt = np.zeros(settings["cache"], np.float32), settings["prompt"]
    for position, token in enumerate(prompt[:-1]):
        cache = _step(run, token, position, cache, cross)["self_kv_next"]
    token, position = prompt[-1], len(prompt) - 1
    while not said.is_over:
        found = _step(run, token, position, cache, cross)
        said.add(np.asarray(found["logits"])[0])
        cache = found["self_kv_next"]
        token, position = (said.tokens or [settings["end"]])[-1], position + 1
    return said


def _step(run, token, position, cache, cross):
    tokens, place = np.array([[token]], np.int32), np.array([position], np.int32)
    return run({"tokens": tokens, "position": place, "self_kv": cache, "cross_kv": cross})


def rows_of(found, settings):
    """Returns rows of a model that writes by itself, with tokens int32 [B, M] that are padded with -1."""
    counts = [int((row >= 0).sum()) for row in found["tokens"]]
    return {
        "tokens": [np.asarray(row[:n], np.int32) for row, n in zip(found["tokens"], counts, strict=True)],
        "margins": [np.asarray(row[:n], np.float32) for row, n in zip(found["margins"], counts, strict=True)],
        "text": [np.frombuffer(bytes(text), np.uint8) for text in found["text"]],
    }

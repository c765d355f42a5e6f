"""Writes speech down with an exported Whisper, without kerastune: numpy alone.

A model is either one function from windows of samples to tokens, or two:

    encode(sounds float32 [1, samples]) -> cross_kv: keys and values of the sound for every layer, once a window
    decode(tokens int32 [1, 1], position int32 [1], self_kv, cross_kv) -> logits float32 [1, vocabulary], self_kv_next

`self_kv` is the cache of the text, zeros at the beginning; the caller keeps it. manifest.json has the settings under
"reading":

    sample_rate, samples  as in audio.py
    prompt      ids before a transcript, which name language and task; the last says that it has no times
    end         the id after a transcript
    words       ids from 0 to here are pieces of text; others but `end` are never chosen
    max_tokens  longest transcript, in tokens
    times       id of the time 0.00, if the model has times; each of the next ones is 0.02 s later
    timestamps  whether to write times, at the beginning and at the end of each segment
    beams       drafts of a transcript that are pursued at a time; 1 takes the likeliest token each time
    cache       shape of self_kv

Training decodes with the rules of this module as well: at most `limit` tokens, and no endless repetition. A recording
that is longer than the window is written down in windows that overlap, whose transcripts recordings.py joins.
"""

import json
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

recordings = import_module(f"{__package__}.recordings" if __package__ else "recordings")
RATE, TICK, Written = recordings.RATE, recordings.TICK, recordings.Written

VOCABULARY = "vocabulary.json"
PHRASE = 112
"""The longest phrase in tokens whose repetition is noticed: half of the longest transcript."""
SHORT = 8
"""Phrases of up to so many tokens are no loop because they are said twice."""
TOKENS = 12
"""The most tokens per second of sound; fast speakers reach 8."""
SPARE = 12
"""Tokens in addition, for short sounds."""
AT_ONCE = 4
"""Windows of a long recording that a model gets in one call."""
MOST_BEAMS = 8
"""The most drafts of a transcript that are pursued at a time."""
_BEGINS = 50
"""Ticks: what is said first begins within a second."""


def repeats(phrase: int) -> int:
    """Returns how often a phrase of this many tokens may follow itself before decoding ends."""
    return max(4, -(-12 // phrase)) - 1


def limit(samples: int, settings) -> int:
    """Returns the most tokens for a sound of this many samples: text beyond it is not spoken, but made up."""
    rate = TOKENS + 2 * settings.get("timestamps", False)
    return min(settings["max_tokens"], SPARE + -(-samples * rate // RATE))


def refusal(settings, is_whole):
    """Returns why the model cannot write with these settings, or None.

    Args:
        is_whole: whether the file chooses the tokens.
    """
    beams = settings.get("beams", 1)
    if not 1 <= beams <= MOST_BEAMS:
        return f"beams = {beams} is not a whole number from 1 to {MOST_BEAMS}"
    if beams > 1 and is_whole:
        return (
            f"the file chooses its tokens itself, the likeliest each time, so it cannot pursue {beams} beams: ask the "
            "run, or an artifact in TFLite or ONNX"
        )
    if settings["timestamps"] and "times" not in settings:
        return "the model has no tokens for times, so it cannot tell when something is said"
    if settings["timestamps"] and is_whole:
        return "the file chooses its tokens itself, and no times: ask the run, or an artifact in TFLite or ONNX"
    return None


def heard(window) -> int:
    """Returns the number of samples of a window up to its last sound."""
    there = np.asarray(window) != 0
    return len(there) - int(there[::-1].argmax()) if there.any() else 0


@dataclass
class Draft:
    """A transcript that is being written.

    Attributes:
        tokens, margins: as they are chosen, and their leads in logits over the likeliest other one.
        scores: their log-probabilities; 0 for a single draft, which is compared with none.
        runs: how many of the last tokens repeat those before, by the length of the phrase.
        is_over: whether nothing more is to be chosen: after the end token, at the limit, or in a loop.
    """

    tokens: list
    margins: list
    scores: list
    runs: list
    is_over: bool

    def followed(self, token, margin, score, is_last):
        """Returns the draft with one more token; without repetitions, where it has become a loop.

        A few repetitions are no loop yet, because people repeat themselves. But nobody says as much as the limit, so a
        phrase of more than a few tokens that is said twice or more before it is a loop, however long the phrase is.
        """
        said, margins, scores = [*self.tokens, token], [*self.margins, margin], [*self.scores, score]
        runs, loop = [0] * (PHRASE + 1), 0
        for phrase in range(1, min(PHRASE, len(self.tokens)) + 1):
            runs[phrase] = self.runs[phrase] + 1 if token == said[-1 - phrase] else 0
            if runs[phrase] >= repeats(phrase) * phrase:
                loop, is_last = repeats(phrase) * phrase, True
                break
            if is_last and runs[phrase] >= phrase > SHORT:
                loop = max(loop, runs[phrase])
        kept = len(said) - loop
        return Draft(said[:kept], margins[:kept], scores[:kept], runs, is_last)


class Writing:
    """The drafts of a window's transcript, whose tokens are chosen step by step.

    One draft takes the likeliest token each time. With more `beams`, the drafts that are likeliest as a whole are
    pursued, until as many are over; of these, the one with the highest mean log-probability is the transcript (as in
    Whisper's `BeamSearchDecoder`).

    Attributes:
        drafts: those that go on.
    """

    def __init__(self, most, settings):
        first = Draft([], [], [], [0] * (PHRASE + 1), most < 1)
        self.drafts, self._over = ([], [first]) if first.is_over else ([first], [])
        self._most, self._settings, self._beams = most, settings, settings.get("beams", 1)

    @property
    def is_over(self):
        return not self.drafts or len(self._over) >= self._beams

    @property
    def best(self):
        """The transcript, as a `Draft`."""
        return max(self._over, key=lambda draft: sum(draft.scores) / max(len(draft.scores), 1))

    def add(self, logits):
        """Chooses the next token of each draft, from logits float32 [vocabulary] each.

        Returns:
            For each draft that goes on, the place of the one that it goes on from.
        """
        found = []
        for place, (draft, row) in enumerate(zip(self.drafts, logits, strict=True)):
            found += [(sum(draft.scores) + score, place, *one, score) for *one, score in self._next(draft, row)]
        before, self.drafts, places = self.drafts, [], []
        for _, place, token, margin, score in sorted(found, key=lambda one: -one[0]):
            is_last = token == self._settings["end"] or len(before[place].tokens) + 1 == self._most
            draft = before[place].followed(token, margin, score, is_last)
            if draft.is_over:
                self._over.append(draft)
            else:
                self.drafts.append(draft)
                places.append(place)
            if len(self.drafts) == self._beams:
                break
        return places

    def _next(self, draft, logits):
        """Returns the likeliest tokens after a draft: their ids, margins and log-probabilities.

        They are one more than beams, because one may be the end; a single draft ends if that is likeliest.
        """
        allowed = open_logits(logits, draft.tokens, self._settings)
        count = min(self._beams + 1, len(allowed))
        likely = np.sort(np.argpartition(-allowed, count - 1)[:count])
        likely = likely[np.argsort(-allowed[likely], kind="stable")]
        first, second = allowed[likely[0]], allowed[likely[1]]
        if self._beams == 1:
            return [(int(likely[0]), float(first - second), 0.0)]
        every = first + np.log(np.exp(allowed - first).sum(dtype=np.float64))
        leads = [float(first - second), *(allowed[likely[1:]] - first).tolist()]
        rows = zip(likely.tolist(), leads, (allowed[likely] - every).tolist(), strict=True)
        return [row for row in rows if row[2] != -np.inf]


def open_logits(logits, said, settings):
    """Returns the logits of the tokens that may follow what is said, float32 [vocabulary]; those of others are -inf."""
    allowed = np.full(len(logits), -np.inf, np.float32)
    open_ids = [slice(settings["words"]), settings["end"]]
    if settings.get("timestamps"):
        first = settings["times"]
        open_ids.append(slice(first, first + settings["samples"] // TICK + 1))
    for ids in open_ids:
        allowed[ids] = logits[ids]
    if settings.get("timestamps"):
        _keep_times(allowed, said, settings)
    return allowed


def _keep_times(allowed, said, settings):
    """Shuts tokens that may not follow: times stand at the beginning and at the end of a segment, and never go back.

    These are Whisper's own rules (`ApplyTimestampRules` in its decoding.py).
    """
    first = settings["times"]
    words, times = allowed[:first], allowed[first:]  # with the end token
    if not said:
        words[:] = times[_BEGINS + 1 :] = -np.inf
        return
    ends = said[-1] >= first and len(said) > 1 and said[-2] < first  # the last token is the end of a segment
    if ends:
        allowed[: settings["words"]] = -np.inf
    elif said[-1] >= first:
        times[:] = -np.inf
    ticks = [token - first for token in said if token >= first]
    times[: ticks[-1] + (not ends)] = -np.inf
    if np.logaddexp.reduce(times) > words.max():
        words[:] = -np.inf


def pieces(vocabulary):
    """Returns the bytes of each token of a byte-level vocabulary, in the alphabet that GPT-2 writes bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    bytes_of = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return [bytes(bytes_of[letter] for letter in token if letter in bytes_of) for token in vocabulary]


def text_of(tokens, pieces):
    """Returns the text of tokens in UTF-8, without the end token."""
    return b"".join(pieces[token] for token in tokens if token < len(pieces)).strip()


def spelling(vocabulary):
    """Returns `text_of` for a byte-level vocabulary: tokens -> their text in UTF-8."""
    return partial(text_of, pieces=pieces(vocabulary))


def predicting(run, folder, manifest, settings, stream):
    """Returns a function from sounds, float32 [B, n], to rows of "tokens", "margins" and "text".

    Args:
        stream: a file to touch while a long recording takes its time, or None.
    """
    spell = getattr(run, "spelled", None) or spelling(json.loads(Path(folder, VOCABULARY).read_text("utf-8")))
    write = partial(at_once, run) if chooses(manifest) else partial(one_by_one, run, spell, settings)
    return partial(transcripts, write, spell, settings, stream.touch if stream else lambda: None)


def chooses(manifest):
    """Returns whether the file chooses the tokens, and not its reader."""
    return "encode" not in manifest["signatures"]


def transcripts(write, spell, settings, alive, inputs):
    """Returns rows of "tokens", "margins" and "text", one for each sound.

    With times, there are "segments" as well, float32 [n, 2]: start and end in seconds of each line of "text".

    Args:
        write: windows, float32 [n, samples] -> a `Written` for each.
        spell: tokens -> their text in UTF-8.
        alive: called after some windows.
        inputs: "sounds" of any length, float32 [B, n].
    """
    sounds, samples = inputs["sounds"], settings["samples"]

    def written(places):
        """Writes down the windows at places, (sound, start) each."""
        found, size = [], max(len(sounds), AT_ONCE)
        for i in range(0, len(places), size):
            windows = [recordings.window(sound, start, samples) for sound, start in places[i : i + size]]
            found += write(np.stack(windows))
            alive()
        return found

    rows, starts = [], [recordings.beginnings(sound, samples) for sound in sounds]
    found = iter(written([(sound, start) for sound, some in zip(sounds, starts, strict=True) for start in some]))
    for sound, some in zip(sounds, starts, strict=True):
        parts = {start: next(found) for start in some}
        parts = recordings.mended(parts, sound, lambda new, of=sound: written([(of, one) for one in new]), settings)
        rows.append(recordings.joined(parts, spell, settings))
    timed = {}
    if settings.get("timestamps"):
        pairs = zip(rows, sounds, strict=True)
        told = [segments(one.tokens, spell, settings, heard(sound) / RATE) for one, sound in pairs]
        timed["segments"] = [np.array([one[:2] for one in some], np.float32).reshape(-1, 2) for some in told]
        for one, some in zip(rows, told, strict=True):
            one.text = b"\n".join(text for _, _, text in some)
    return {
        **timed,
        "tokens": [np.array(one.tokens, np.int32) for one in rows],
        "margins": [np.array(one.margins, np.float32) for one in rows],
        "text": [np.frombuffer(one.text, np.uint8) for one in rows],
    }


def one_by_one(run, spell, settings, windows):
    """Writes windows down with a model that gives the logits of the next token."""
    each = [transcribe(run, window, settings) for window in windows]
    return [Written(one.tokens, one.margins, spell(one.tokens)) for one in each]


def at_once(run, windows):
    """Writes windows down with a model that chooses tokens itself, int32 [B, M], padded with -1."""
    found = run({"sounds": windows})
    counts = [int((row >= 0).sum()) for row in found["tokens"]]
    rows = zip(counts, *(found[name] for name in ("tokens", "margins", "text")), strict=True)
    return [Written(list(tokens[:n]), list(margins[:n]), bytes(text)) for n, tokens, margins, text in rows]


def transcribe(run, window, settings):
    """Returns the transcript of one window, float32 [samples], as a `Draft`."""
    said = Writing(limit(heard(window), settings), settings)
    cross = run({"sounds": window[None]})["cross_kv"]
    cache, prompt = np.zeros(settings["cache"], np.float32), settings["prompt"]
    prompt = prompt[:-1] if settings.get("timestamps") else prompt
    for position, token in enumerate(prompt[:-1]):
        cache = _step(run, token, position, cache, cross)["self_kv_next"]
    tokens, caches, position = [prompt[-1]], [cache], len(prompt) - 1
    while not said.is_over:
        found = [_step(run, token, position, cache, cross) for token, cache in zip(tokens, caches, strict=True)]
        places = said.add([np.asarray(one["logits"])[0] for one in found])
        tokens, caches = [draft.tokens[-1] for draft in said.drafts], [found[i]["self_kv_next"] for i in places]
        position += 1
    return said.best


def _step(run, token, position, cache, cross):
    tokens, place = np.array([[token]], np.int32), np.array([position], np.int32)
    return run({"tokens": tokens, "position": place, "self_kv": cache, "cross_kv": cross})


# --- times -------------------------------------------------------------------------------------------------


def segments(tokens, spell, settings, seconds):
    """Returns start and end in seconds, and the text, of each part of a transcript between times.

    Args:
        seconds: length of the sound, where a segment without a time at its end ends.
    """
    found, start, said = [], 0.0, []
    for token in [*tokens, None]:
        if token is not None and token < settings["words"]:
            said.append(token)
        elif token is None or token >= settings["times"]:
            at = seconds if token is None else (token - settings["times"]) * TICK / RATE
            at = max(start, min(at, seconds))
            if text := b" ".join(spell(said).split()):
                found.append((start, at, text))
            start, said = at, []
    return found

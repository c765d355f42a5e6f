"""Decoding: greedy with caches for batches, in beams, and without any cache as the reference.

The rules (which tokens are allowed, how many, and when a repetition ends a transcript) are those of
`kerastune.targets.speech`, which devices decode with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from kerastune.data.ragged import Ragged
from kerastune.targets import speech as reader
from kerastune.targets.audio import fit
from kerastune.tasks.learnt.transcripts import predictions
from kerastune.tasks.speech_to_text.model import Transcriber, pieces

Floats = npt.NDArray[np.float32]
_ROWS = 16  # drafts whose next tokens are computed together
_PHRASES = np.arange(1, reader.PHRASE + 1, dtype=np.int32)
_REPEATED = np.array([reader.repeats(int(n)) * n for n in _PHRASES], np.int32)  # tokens that repeat those before


def encoder(whisper: Any, features: Any) -> Any:
    """Returns a Whisper's encoder outputs: log-mel frames float32 [B, frames, mels] -> [B, frames / 2, D]."""
    x = tf.nn.gelu(whisper.encoder_conv_layer_1(features), approximate=False)
    x = whisper.encoder_padder(x)
    x = tf.nn.gelu(whisper.encoder_conv_layer_2(x), approximate=False)
    x = x + whisper.encoder_position_embedding(x)
    for layer in whisper.encoder_transformer_layers:
        x = layer(x, training=False)
    return tf.cast(whisper.encoder_layer_norm(x), tf.float32)


def cross_kv(whisper: Any, encoded: Any) -> Any:
    """Returns keys and values of a sound for every layer: [B, S, D] -> float32 [B, layers, 2, S, heads, D / heads]."""
    each = [layer._cross_attention_layer for layer in whisper.decoder_transformer_layers]
    pairs = [ops.stack([one._key_dense(encoded), one._value_dense(encoded)], axis=1) for one in each]
    return tf.cast(ops.stack(pairs, axis=1), tf.float32)


def cache_shape(model: Transcriber, batch: Any = 1) -> list[Any]:
    """Returns the shape of the cache of a text, which holds the prompt and the longest transcript."""
    whisper, length = model.whisper, len(model.settings["prompt"]) + model.settings["max_tokens"]
    heads = whisper.num_heads
    return [batch, whisper.num_layers, 2, length, heads, whisper.hidden_dim // heads]


def step(whisper: Any, tokens: Any, position: Any, self_kv: Any, cross: Any) -> tuple[Any, Any]:
    """Returns the logits of the token after the last one, float32 [B, vocabulary], and the next cache.

    Args:
        tokens: int32 [B, T].
        position: that of the first token, int32 [].
        self_kv: keys and values of all earlier tokens.
        cross: as `cross_kv` gives it.
    """
    x = whisper.decoder_embeddings(tokens, start_index=position)
    following = []
    for i, layer in enumerate(whisper.decoder_transformer_layers):
        # The encoder's outputs have to be given, but with a cache that is not updated only their mask is read.
        x, own, _ = layer(
            x,
            x,
            self_attention_cache=self_kv[:, i],
            self_attention_cache_update_index=position,
            cross_attention_cache=cross[:, i],
            cross_attention_cache_update_index=None,
            training=False,
        )
        following.append(own)
    x = whisper.decoder_layer_norm(x[:, -1])
    return tf.cast(whisper.token_embedding(x, reverse=True), tf.float32), tf.cast(ops.stack(following, 1), tf.float32)


def limits(sounds: tf.Tensor, settings: dict[str, Any]) -> tf.Tensor:
    """Returns the most tokens for each window, float32 [B, samples] -> int32 [B], as `kerastune.targets.speech`."""
    places = tf.range(1, sounds.shape[1] + 1)[None]
    heard = tf.reduce_max(tf.where(sounds != 0, places, 0), axis=1)
    return tf.minimum(settings["max_tokens"], reader.SPARE - (-heard * reader.TOKENS) // reader.RATE)


def writing(model: Transcriber, prompt: Sequence[int] | None = None) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns the function from encoder outputs [B, S, D] and limits int32 [B] to tokens and margins.

    Both are [B, max_tokens], int32 padded with -1, and float32. It decodes with caches, and runs in graphs.

    Args:
        prompt: ids before a transcript; default: the model's.
    """
    whisper, settings = model.whisper, model.settings
    prompt, most, end, words = list(prompt or settings["prompt"]), *_of(settings, "max_tokens", "end", "words")
    allowed = np.zeros(whisper.vocabulary_size, np.bool_)
    allowed[:words] = allowed[end] = True
    shut = np.where(allowed, 0, -np.inf).astype(np.float32)

    places = reader.PHRASE - _PHRASES  # in the padded tokens, before the first one

    def write(encoded: Any, limit: Any) -> tuple[Any, Any]:
        size = tf.shape(encoded)[0]
        cross = cross_kv(whisper, encoded)
        shape = cache_shape(model, size)
        first, cache = step(whisper, tf.tile([prompt], [size, 1]), tf.constant(0), tf.zeros(shape), cross)

        def going(i: Any, over: Any, *_: Any) -> Any:
            return (i < most) & ~tf.reduce_all(over)

        def choose(i: Any, over: Any, logits: Any, cache: Any, tokens: Any, margins: Any, runs: Any) -> tuple[Any, ...]:
            best, ids = tf.math.top_k(logits + shut, 2)
            token, now = ids[:, 0], tf.range(most)[None] == i
            tokens = tf.where(now & ~over[:, None], token[:, None], tokens)
            margins = tf.where(now & ~over[:, None], (best[:, 0] - best[:, 1])[:, None], margins)
            # The token as many places before as each phrase is long; -2 where there is none.
            before = tf.gather(tf.pad(tokens, [[0, 0], [reader.PHRASE, 0]], constant_values=-2), places + i, axis=1)
            runs = tf.where(before == token[:, None], runs + 1, 0)
            loops = (runs >= _REPEATED[None]) & ~over[:, None] & (token != end)[:, None]
            shortest = tf.argmax(loops, axis=1, output_type=tf.int32)  # the first that is true
            is_loop, is_last = tf.reduce_any(loops, axis=1), ~over & (i + 1 >= limit)
            is_twice = (runs >= _PHRASES[None]) & (_PHRASES > reader.SHORT)[None]
            twice = tf.where(is_twice & is_last[:, None] & (token != end)[:, None], runs, 0)
            loop = tf.where(is_loop, tf.gather(tf.constant(_REPEATED), shortest), tf.reduce_max(twice, axis=1))
            inside = tf.range(most)[None] < tf.where(loop > 0, i + 1 - loop, most)[:, None]
            tokens, margins = tf.where(inside, tokens, -1), tf.where(inside, margins, 0.0)
            over = over | (token == end) | is_last | is_loop
            logits, cache = step(whisper, token[:, None], len(prompt) + i, cache, cross)
            return i + 1, over, logits, cache, tokens, margins, runs

        state = (
            tf.constant(0),
            limit < 1,
            first,
            cache,
            tf.fill([size, most], -1),
            tf.zeros([size, most]),
            tf.zeros([size, reader.PHRASE], tf.int32),
        )
        free = {2: [None, whisper.vocabulary_size], 3: cache_shape(model, None)}
        shapes = tuple(tf.TensorShape(free[n]) if n in free else one.shape for n, one in enumerate(state))
        return tuple(tf.while_loop(going, choose, state, shape_invariants=shapes)[4:6])

    return write


def _of(settings: dict[str, Any], *names: str) -> list[Any]:
    return [settings[name] for name in names]


def collected(model: Transcriber, tokens: npt.NDArray[Any], margins: npt.NDArray[Any]) -> dict[str, Ragged]:
    """Returns predictions from padded tokens and margins, [n, max_tokens]."""
    known = pieces(model.parts.tokenizer, model.settings["words"])
    counts = (tokens >= 0).sum(axis=1)
    rows = [row[:n] for row, n in zip(tokens, counts, strict=True)]
    leads = [row[:n] for row, n in zip(margins, counts, strict=True)]
    return predictions(rows, leads, [reader.text_of(row, known) for row in rows])


# --- beams -------------------------------------------------------------------------------------------------


def searching(model: Transcriber, prompt: Sequence[int] | None = None) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns the function of `writing` that pursues several drafts of each transcript, which it chooses in numpy."""
    whisper, settings = model.whisper, model.settings
    prompt, most = list(prompt or settings["prompt"]), settings["max_tokens"]
    shape = tf.TensorShape(cache_shape(model, None))
    takes = [
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec(shape, tf.float32),
        tf.TensorSpec([None, *shape[1:3], None, *shape[4:]], tf.float32),
    ]
    following = tf.function(lambda *given: step(whisper, *given), input_signature=takes, autograph=False)
    crossing = tf.function(lambda encoded: cross_kv(whisper, encoded), autograph=False, reduce_retracing=True)

    def write(encoded: Any, limit: Any) -> tuple[Any, Any]:
        size = max(_ROWS // settings["beams"], 1)
        parts = [some(encoded[i : i + size], limit[i : i + size]) for i in range(0, len(limit), size)]
        tokens, margins = zip(*parts, strict=True)
        return tf.concat(tokens, 0), tf.concat(margins, 0)

    def some(encoded: Any, limit: Any) -> tuple[Any, Any]:
        each, cross = [reader.Writing(int(one), settings) for one in limit], crossing(encoded)
        going = [i for i, said in enumerate(each) if not said.is_over]  # with one draft each
        given, position = tf.tile([prompt], [len(going), 1]), 0
        cache, owners = tf.zeros(cache_shape(model, len(going))), going
        while going:
            logits, cache = following(given, tf.constant(position), cache, tf.gather(cross, owners))
            position, rows, at = position + given.shape[1], logits.numpy(), 0
            places, owners, chosen = list[int](), list[int](), list[int]()
            for i in going:
                count = len(each[i].drafts)
                kept = [at + place for place in each[i].add(rows[at : at + count])]
                at += count
                if not each[i].is_over:
                    places += kept
                    owners += [i] * len(kept)
                    chosen += [draft.tokens[-1] for draft in each[i].drafts]
            if going := list(dict.fromkeys(owners)):
                given, cache = tf.constant(chosen, tf.int32)[:, None], tf.gather(cache, places)
        return _padded([said.best for said in each], most)

    return write


def _padded(drafts: Sequence[Any], most: int) -> tuple[Any, Any]:
    """Returns tokens and margins as `writing` gives them."""
    tokens, margins = np.full([len(drafts), most], -1, np.int32), np.zeros([len(drafts), most], np.float32)
    for i, draft in enumerate(drafts):
        tokens[i, : len(draft.tokens)], margins[i, : len(draft.tokens)] = draft.tokens, draft.margins
    return tf.constant(tokens), tf.constant(margins)


# --- the reference -----------------------------------------------------------------------------------------


def uncached(model: Transcriber, sounds: Sequence[Floats]) -> dict[str, Ragged]:
    """Returns predictions for sounds, one at a time, with KerasHub's own front end and no cache or graph."""
    whisper, settings, converter = model.whisper, model.settings, model.converter()
    written = []
    for sound in sounds:
        window = fit(sound, model.samples)
        encoded = encoder(whisper, np.asarray(converter(window[None])))
        said = reader.Writing(reader.limit(reader.heard(window), settings), settings)
        while not said.is_over:
            said.add([_logits(whisper, settings["prompt"] + draft.tokens, encoded) for draft in said.drafts])
        written.append(said.best)
    known = pieces(model.parts.tokenizer, settings["words"])
    return predictions(
        [np.array(one.tokens, np.int32) for one in written],
        [np.array(one.margins, np.float32) for one in written],
        [reader.text_of(one.tokens, known) for one in written],
    )


def _logits(whisper: Any, tokens: list[int], encoded: Any) -> npt.NDArray[np.float32]:
    """Returns the logits of the token after some, float32 [vocabulary]."""
    x = whisper.decoder_embeddings(np.array([tokens], np.int32))
    for layer in whisper.decoder_transformer_layers:
        x = layer(x, encoded, training=False)
    logits = whisper.token_embedding(whisper.decoder_layer_norm(x), reverse=True)
    found: npt.NDArray[np.float32] = np.asarray(logits)[0, -1].astype(np.float32)
    return found

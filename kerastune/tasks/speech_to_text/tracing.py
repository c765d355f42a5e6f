"""Exported functions of a transcriber, and what devices need besides."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerastune.files import write_json
from kerastune.formats.graphs import Signature
from kerastune.targets import speech as reader
from kerastune.tasks import wav
from kerastune.tasks.log_mel import log_mel
from kerastune.tasks.speech_to_text.decoding import cache_shape, cross_kv, encoder, limits, step, writing
from kerastune.tasks.speech_to_text.model import Transcriber, pieces


def signatures(model: Transcriber) -> dict[str, Signature]:
    """Returns the signatures of an exported model: name -> (function, its inputs).

    "encode" and "decode" are called by whoever writes token by token, and keeps the cache; "serving_default" does all
    of it for a batch of windows, and "serve_bytes" for WAV files. The spectrum is inside and in float.
    """
    whisper, settings = model.whisper, model.settings
    front_end = log_mel(model.converter(), exported=True)

    def encode(sounds: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"cross_kv": tf.identity(cross_kv(whisper, encoder(whisper, front_end(sounds))), name="cross_kv")}

    def decode(tokens: tf.Tensor, position: tf.Tensor, self_kv: tf.Tensor, cross_kv: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, following = step(whisper, tokens, position[0], self_kv, cross_kv)
        return {"logits": logits, "self_kv_next": following}

    write, known = writing(model), tf.constant(pieces(model.parts.tokenizer, settings["words"]))

    def transcribe(sounds: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens, margins = write(encoder(whisper, front_end(sounds)), limits(sounds, settings))
        is_word = (tokens >= 0) & (tokens < settings["words"])
        said = tf.where(is_word, tf.gather(known, tf.where(is_word, tokens, 0)), "")
        return {
            "tokens": tf.identity(tokens, name="tokens"),
            "margins": tf.identity(margins, name="margins"),
            "text": tf.strings.strip(tf.strings.reduce_join(said, axis=1), name="text"),
        }

    def transcribe_files(sound_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return transcribe(wav.windows(sound_bytes, model.samples, settings["sample_rate"]))

    frames = model.parts.hops // 2
    heads, width = whisper.num_heads, whisper.hidden_dim // whisper.num_heads
    return {
        "encode": (encode, [tf.TensorSpec([1, model.samples], tf.float32, name="sounds")]),
        "decode": (
            decode,
            [
                tf.TensorSpec([1, 1], tf.int32, name="tokens"),
                tf.TensorSpec([1], tf.int32, name="position"),
                tf.TensorSpec(cache_shape(model), tf.float32, name="self_kv"),
                tf.TensorSpec([1, whisper.num_layers, 2, frames, heads, width], tf.float32, name="cross_kv"),
            ],
        ),
        "serving_default": (transcribe, [tf.TensorSpec([None, model.samples], tf.float32, name="sounds")]),
        "serve_bytes": (transcribe_files, [tf.TensorSpec([None], tf.string, name="sound_bytes")]),
    }


def trace(model: Transcriber, work: Path, wanted: Sequence[str]) -> None:
    """Writes how devices call the model, and its vocabulary."""
    whisper, hops = model.whisper, model.parts.hops
    settings: dict[str, Any] = {
        **model.settings,
        "cache": cache_shape(model),
        "cross": [1, whisper.num_layers, 2, hops // 2, *cache_shape(model)[4:]],
        "frames": hops,
        "mels": whisper.num_mels,
        "vocabulary": whisper.vocabulary_size,
    }
    write_json(work / "speech.json", settings)
    by_id = {int(i): token for token, i in model.parts.tokenizer.vocabulary.items()}
    (work / "tokenizer").mkdir(exist_ok=True)
    words = [by_id.get(i, "") for i in range(model.settings["words"])]
    (work / "tokenizer" / reader.VOCABULARY).write_text(json.dumps(words, ensure_ascii=False), "utf-8")

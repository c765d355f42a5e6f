"""Builds transcribers from presets, and loads those of runs."""

import json
from pathlib import Path
from typing import Any

import keras
import keras_hub

from kerastune import assets
from kerastune.data import Splits
from kerastune.errors import RecipeError, quoted, shortened
from kerastune.modalities.audio import RATE
from kerastune.records import Decision
from kerastune.tasks.speech_to_text import hugging_face
from kerastune.tasks.speech_to_text.feeding import written
from kerastune.tasks.speech_to_text.model import SETTINGS, Parts, Transcriber
from kerastune.tasks.speech_to_text.settings import SpeechToText

_STEP = 320  # samples: two strides of the front end, of which the encoder makes one frame
_TIMES = 1501  # tokens from <|0.00|> to <|30.00|>
_LONGEST_FILE = 2**20  # bytes of a list of terms


def build(recipe: SpeechToText, preset: str, precision: str) -> Transcriber:
    """Returns the preset's unchanged model for the recipe's window and language.

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is no Whisper with tokenizer and audio converter, or does not know the language, or the
            window or the transcripts are longer than it takes.
    """
    whisper, tokenizer, converter = _read(recipe.preset, preset, precision)
    prompt = prompt_of(tokenizer, recipe.language, recipe.translate)
    samples = round(recipe.data.window * RATE / _STEP) * _STEP
    most = whisper.max_decoder_sequence_length - len(prompt)
    if samples // converter.stride > whisper.max_encoder_sequence_length:
        heard = whisper.max_encoder_sequence_length * converter.stride / RATE
        raise RecipeError(f"data.window = {recipe.data.window:g}, but {recipe.preset!r} hears {heard:g} s at a time.")
    if recipe.max_tokens and recipe.max_tokens > most:
        raise RecipeError(f"max_tokens = {recipe.max_tokens}, but {recipe.preset!r} writes at most {most} tokens.")
    settings = {
        "sample_rate": RATE,
        "samples": samples,
        "prompt": prompt,
        "end": int(tokenizer.eos_token_id),
        "words": _words(tokenizer),
        "max_tokens": min(recipe.tokens, most),
        "beams": recipe.beams,
        **_times(whisper, tokenizer),
    }
    return Transcriber(Parts(whisper, tokenizer, converter, settings))


def _read(name: str, preset: str, precision: str) -> tuple[Any, Any, Any]:
    keras.config.set_dtype_policy(precision)
    if hugging_face.is_folder(preset):
        return hugging_face.read(name, preset, precision)
    try:
        with assets.reaching(preset):
            whisper = keras_hub.models.WhisperBackbone.from_preset(preset, dtype=precision)
            tokenizer = keras_hub.models.WhisperTokenizer.from_preset(preset)
            converter = keras_hub.layers.WhisperAudioConverter.from_preset(preset)
    except (ValueError, FileNotFoundError) as error:
        raise RecipeError(
            f"preset = {name!r} cannot write speech down: {shortened(str(error), 500)}",
            "Use a preset of Whisper with its tokenizer and audio converter, such as the asset whisper-base.",
        ) from error
    if (rate := converter.sampling_rate) != RATE:
        raise RecipeError(f"preset = {name!r} hears {rate:,} samples per second, not {RATE:,}.")
    return whisper, tokenizer, converter


def prompt_of(tokenizer: Any, language: str, translate: bool) -> list[int]:
    """Returns the ids before a transcript: start, language and task, and that it has no timestamps.

    Raises:
        RecipeError: the tokenizer does not know the language.
    """
    known = tokenizer.language_tokens
    task = tokenizer.translate_token_id if translate else tokenizer.transcribe_token_id
    if not known:
        if language != "en" or translate:
            raise RecipeError("The preset writes English only.", 'Set language = "en", or use a multilingual preset.')
        return [int(tokenizer.bos_token_id), int(tokenizer.no_timestamps_token_id)]
    if (token := f"<|{language}|>") not in known:
        codes = ", ".join(sorted(one.strip("<|>") for one in known))
        raise RecipeError(f"The preset does not know language = {quoted(language)}.", f"It knows {codes}.")
    ids = (tokenizer.bos_token_id, known[token], task, tokenizer.no_timestamps_token_id)
    return [int(one) for one in ids]


def _times(whisper: Any, tokenizer: Any) -> dict[str, int]:
    """Returns the id of the time 0.00 as "times", which KerasHub does not name; nothing if there are none."""
    first = int(tokenizer.no_timestamps_token_id) + 1
    return {"times": first} if whisper.vocabulary_size - first >= _TIMES else {}


def _words(tokenizer: Any) -> int:
    """Returns the number of ids that are pieces of text; special tokens follow them."""
    special = [*tokenizer.special_token_ids, *(tokenizer.language_tokens or {}).values()]
    return int(min(special))


def settled(recipe: SpeechToText, model: Transcriber) -> tuple[SpeechToText, Transcriber, list[Decision]]:
    """Writes the terms of a file into the recipe, so that they stay the same.

    Raises:
        RecipeError: the file cannot be read.
    """
    if recipe.terms_file is None:
        return recipe, model, []
    try:
        text = Path(recipe.terms_file).read_bytes()[:_LONGEST_FILE].decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecipeError(f"terms_file = {quoted(recipe.terms_file)} cannot be read: {why}.") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    terms = tuple(dict.fromkeys([*recipe.terms, *found]))
    decision = Decision("terms", str(recipe.terms_file), f"{len(terms)} terms", "read from the file")
    return recipe.model_copy(update={"terms": terms, "terms_file": None}), model, [decision]


def load(folder: str, precision: str) -> Transcriber:
    """Loads the transcriber of a run.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    parts = (
        keras_hub.models.WhisperBackbone.from_preset(folder, dtype=precision),
        keras_hub.models.WhisperTokenizer.from_preset(folder),
        keras_hub.layers.WhisperAudioConverter.from_preset(folder),
    )
    return Transcriber(Parts(*parts, json.loads((Path(folder) / SETTINGS).read_text("utf-8"))))


def describe(recipe: SpeechToText, model: Transcriber, splits: Splits) -> dict[str, Any]:
    """Returns the window, the language and lengths of transcripts in tokens, for run.json."""
    prompt = len(model.settings["prompt"]) + 1
    lengths = {
        name: (written(model, getattr(splits, name)) >= 0).sum(axis=1) - prompt
        for name in ("train", "validation", "test")
    }
    return {
        "window_seconds": model.samples / RATE,
        "sample_rate": RATE,
        "language": recipe.language,
        "max_tokens": model.settings["max_tokens"],
        "tokens": {name: int(one.sum()) for name, one in lengths.items()},
        "longest": {name: int(one.max(initial=0)) for name, one in lengths.items()},
    }

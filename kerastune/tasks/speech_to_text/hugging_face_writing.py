"""Writes a Whisper as a Hugging Face folder, which KerasHub 0.32 does not.

transformers runs the folder, and the converters of whisper.cpp and CTranslate2 start from it. Its encoder hears the
window of the recipe, because transformers takes windows of one length only.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.tasks.speech_to_text.hugging_face import named
from kerastune.tasks.speech_to_text.model import Parts, Transcriber

_END = "<|endoftext|>"


def write(model: Transcriber, language: str, translate: bool, folder: Path) -> None:
    """Creates the folder, with weights in float32, and language and task as defaults of `generate`."""
    from safetensors.numpy import save_file

    parts, frames = model.parts, model.parts.hops // 2
    stored = {name: np.ascontiguousarray(turned(one.numpy())) for name, one, turned in named(parts.whisper)}
    places = "model.encoder.embed_positions.weight"
    stored[places] = np.ascontiguousarray(stored[places][:frames])
    folder.mkdir(parents=True)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    special = _special(parts.tokenizer)
    vocabulary = {token: int(i) for token, i in parts.tokenizer.vocabulary.items() if token not in special}
    merges = list(parts.tokenizer.merges)
    documents = {
        "config.json": _config(parts, frames),
        "generation_config.json": _generation(parts, language, translate),
        "preprocessor_config.json": _hearing(parts),
        "tokenizer.json": _tokenizer(parts, special, vocabulary, merges),
        "tokenizer_config.json": {
            "tokenizer_class": "WhisperTokenizer",
            **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), _END),
            "clean_up_tokenization_spaces": False,
            "model_max_length": parts.whisper.max_decoder_sequence_length,
        },
        # Older readers, and the converters for whisper.cpp, take these instead of tokenizer.json.
        "vocab.json": vocabulary,
        "added_tokens.json": special,
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")


def _special(tokenizer: Any) -> dict[str, int]:
    """Returns the special tokens by id, in their order."""
    found = dict(zip(tokenizer.special_tokens, tokenizer.special_token_ids, strict=True))
    found |= tokenizer.language_tokens or {}
    return {token: int(i) for token, i in sorted(found.items(), key=lambda one: one[1])}


def _config(parts: Parts, frames: int) -> dict[str, Any]:
    whisper, tokenizer = parts.whisper, parts.tokenizer
    both = {"layers": whisper.num_layers, "attention_heads": whisper.num_heads, "ffn_dim": whisper.intermediate_dim}
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()},
        "d_model": whisper.hidden_dim,
        "num_hidden_layers": whisper.num_layers,
        "vocab_size": whisper.vocabulary_size,
        "num_mel_bins": whisper.num_mels,
        "max_source_positions": frames,
        "max_target_positions": whisper.max_decoder_sequence_length,
        "activation_function": "gelu",
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        **_ends(tokenizer),
        "dropout": whisper.dropout,
        "dtype": "float32",
    }


def _ends(tokenizer: Any) -> dict[str, int]:
    end = int(tokenizer.eos_token_id)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
    return {**ends, "decoder_start_token_id": int(tokenizer.bos_token_id)}


def _generation(parts: Parts, language: str, translate: bool) -> dict[str, Any]:
    tokenizer, settings = parts.tokenizer, parts.settings
    shut = [i for i in range(settings["words"], parts.whisper.vocabulary_size) if i != int(tokenizer.eos_token_id)]
    several = {
        "lang_to_id": tokenizer.language_tokens,
        "task_to_id": {"translate": tokenizer.translate_token_id, "transcribe": tokenizer.transcribe_token_id},
        "language": f"<|{language}|>",
        "task": "translate" if translate else "transcribe",
    }
    return {
        **_ends(tokenizer),
        "is_multilingual": bool(tokenizer.language_tokens),
        **(several if tokenizer.language_tokens else {}),
        "no_timestamps_token_id": int(tokenizer.no_timestamps_token_id),
        "return_timestamps": False,
        "suppress_tokens": shut,
        "begin_suppress_tokens": [],
        "max_length": len(settings["prompt"]) + settings["max_tokens"],
        "do_sample": False,
        "num_beams": 1,
    }


def _hearing(parts: Parts) -> dict[str, Any]:
    config = parts.converter.get_config()
    samples, rate = parts.settings["samples"], parts.settings["sample_rate"]
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mels"],
        "n_fft": config["num_fft_bins"],
        "hop_length": config["stride"],
        "sampling_rate": rate,
        "chunk_length": -(-samples // rate),  # whole seconds; `max_length=samples` pads to others
        "n_samples": samples,
        "nb_max_frames": parts.hops,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _tokenizer(parts: Parts, special: dict[str, int], vocabulary: dict[str, int], merges: list[str]) -> dict[str, Any]:
    """Returns a tokenizer.json: byte-level pairs, with the prompt and the end around a transcript."""
    by_id = {i: token for token, i in special.items()}
    prompt, end = parts.settings["prompt"], int(parts.tokenizer.eos_token_id)
    before, after = ([{"SpecialToken": {"id": by_id[i], "type_id": 0}} for i in ids] for ids in (prompt, [end]))
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in by_id.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*before, first, *after],
            "pair": [*before, first, second, *after],
            "special_tokens": {by_id[i]: {"id": by_id[i], "ids": [i], "tokens": [by_id[i]]} for i in {*prompt, end}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }

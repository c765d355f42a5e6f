"""Reads a Whisper from a Hugging Face folder, which KerasHub 0.32 does not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.errors import RecipeError, shortened

Array = npt.NDArray[Any]
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SPECIAL = (
    *("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|nocaptions|>"),
)


def is_folder(preset: str) -> bool:
    """Returns whether a preset is a local Hugging Face folder of a Whisper."""
    try:
        found = json.loads((Path(preset) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "whisper"


# --- the table ---------------------------------------------------------------------------------------------


def named(whisper: Any) -> Iterator[tuple[str, Any, Callable[[Array], Array]]]:
    """Yields the name of each weight in a Hugging Face folder, its Keras variable, and what turns its value into a
    matrix [in, out], a vector or an embedding. Hugging Face stores matrices as [out, in]."""

    def plain(value: Array) -> Array:
        return value

    def norm(name: str, layer: Any) -> Iterator[tuple[str, Any, Callable[[Array], Array]]]:
        yield f"{name}.weight", layer.gamma, plain
        yield f"{name}.bias", layer.beta, plain

    def dense(name: str, layer: Any) -> Iterator[tuple[str, Any, Callable[[Array], Array]]]:
        yield f"{name}.weight", layer.kernel, lambda value: value.T
        yield f"{name}.bias", layer.bias, plain

    def attention(name: str, layer: Any) -> Iterator[tuple[str, Any, Callable[[Array], Array]]]:
        for part, own in (("q", layer._query_dense), ("k", layer._key_dense), ("v", layer._value_dense)):
            yield f"{name}.{part}_proj.weight", own.kernel, lambda value: value.reshape(value.shape[0], -1).T
            if own.bias is not None:
                yield f"{name}.{part}_proj.bias", own.bias, lambda value: value.reshape(-1)
        out = layer._output_dense
        yield f"{name}.out_proj.weight", out.kernel, lambda value: value.reshape(-1, value.shape[-1]).T
        yield f"{name}.out_proj.bias", out.bias, plain

    for number, layer in ((1, whisper.encoder_conv_layer_1), (2, whisper.encoder_conv_layer_2)):
        yield f"model.encoder.conv{number}.weight", layer.kernel, lambda value: value.transpose(2, 1, 0)
        yield f"model.encoder.conv{number}.bias", layer.bias, plain
    yield "model.encoder.embed_positions.weight", whisper.encoder_position_embedding.position_embeddings, plain
    yield "model.decoder.embed_tokens.weight", whisper.token_embedding.embeddings, plain
    place = whisper.decoder_embeddings.position_embedding
    yield "model.decoder.embed_positions.weight", place.position_embeddings, plain
    for side, layers in (
        ("encoder", whisper.encoder_transformer_layers),
        ("decoder", whisper.decoder_transformer_layers),
    ):
        for i, layer in enumerate(layers):
            name = f"model.{side}.layers.{i}"
            yield from attention(f"{name}.self_attn", layer._self_attention_layer)
            yield from norm(f"{name}.self_attn_layer_norm", layer._self_attention_layer_norm)
            if side == "decoder":
                yield from attention(f"{name}.encoder_attn", layer._cross_attention_layer)
                yield from norm(f"{name}.encoder_attn_layer_norm", layer._cross_attention_layer_norm)
            yield from dense(f"{name}.fc1", layer._feedforward_intermediate_dense)
            yield from dense(f"{name}.fc2", layer._feedforward_output_dense)
            yield from norm(f"{name}.final_layer_norm", layer._feedforward_layer_norm)
    yield from norm("model.encoder.layer_norm", whisper.encoder_layer_norm)
    yield from norm("model.decoder.layer_norm", whisper.decoder_layer_norm)


def _into(shape: tuple[int, ...], turned: Callable[[Array], Array], value: Array) -> Array:
    """Returns the value of a Keras variable for which `turned` gives a stored one."""
    places = np.arange(int(np.prod(shape))).reshape(shape)  # where each number goes
    found = np.empty(places.size, value.dtype)
    found[turned(places).reshape(-1)] = value.reshape(-1)
    return found.reshape(shape)


# --- reading -----------------------------------------------------------------------------------------------


def read(name: str, folder: str, precision: str) -> tuple[Any, Any, Any]:
    """Returns backbone, tokenizer and audio converter of a Hugging Face folder.

    Raises:
        RecipeError: a file is missing or damaged, or the weights are not those of its config.
    """
    import keras_hub

    path = Path(folder)
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
        whisper = keras_hub.models.WhisperBackbone(
            vocabulary_size=config["vocab_size"],
            num_layers=config["encoder_layers"],
            num_heads=config["encoder_attention_heads"],
            hidden_dim=config["d_model"],
            intermediate_dim=config["encoder_ffn_dim"],
            num_mels=config["num_mel_bins"],
            max_encoder_sequence_length=2 * config["max_source_positions"],
            max_decoder_sequence_length=config["max_target_positions"],
            dtype=precision,
        )
        if any(
            config[f"encoder_{one}"] != config[f"decoder_{one}"] for one in ("layers", "attention_heads", "ffn_dim")
        ):
            raise ValueError("encoder and decoder differ in size, which KerasHub's Whisper cannot hold")
        _fill(whisper, _tensors(path))
        tokenizer = _tokenizer(json.loads((path / "tokenizer.json").read_text("utf-8")))
        heard = json.loads((path / "preprocessor_config.json").read_text("utf-8"))
        converter = keras_hub.layers.WhisperAudioConverter(
            num_mels=config["num_mel_bins"],
            num_fft_bins=heard.get("n_fft", 400),
            stride=heard.get("hop_length", 160),
            sampling_rate=heard.get("sampling_rate", 16_000),
            max_audio_length=heard.get("chunk_length", 30),
            dtype="float32",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RecipeError(
            f"preset = {name!r} is a Hugging Face folder that cannot be read: {shortened(why, 500)}",
            "It needs config.json, model.safetensors, tokenizer.json and preprocessor_config.json of a Whisper.",
        ) from error
    return whisper, tokenizer, converter


def _tensors(path: Path) -> dict[str, Array]:
    from safetensors.numpy import load_file

    if (path / _INDEX).is_file():
        files = sorted(set(json.loads((path / _INDEX).read_text("utf-8"))["weight_map"].values()))
    else:
        files = [_WEIGHTS]
    found: dict[str, Array] = {}
    for one in files:
        if Path(one).name != one:
            raise ValueError(f"{one} is not a file of the folder")
        found |= load_file(path / one)
    return found


def _fill(whisper: Any, stored: dict[str, Array]) -> None:
    left = {name if name.startswith(("model.", "proj_out")) else f"model.{name}": v for name, v in stored.items()}
    for name, variable, turned in named(whisper):
        value, shape = left.pop(name), tuple(variable.shape)
        if value.shape != turned(np.empty(shape, np.int8)).shape:
            raise ValueError(f"{name} has the shape {list(value.shape)}, which does not fit config.json")
        variable.assign(_into(shape, turned, value.astype(np.float32)))
    left.pop("proj_out.weight", None)  # tied to the embedding
    biases = [name for name in left if name.endswith("k_proj.bias") and not left[name].any()]
    if others := sorted(set(left) - set(biases)):
        raise ValueError(f"{len(others)} weights have no place in a Whisper: {', '.join(others[:3])}")


def _tokenizer(document: dict[str, Any]) -> Any:
    import keras_hub

    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    merges = [one if isinstance(one, str) else " ".join(one) for one in document["model"]["merges"]]
    first, last = ids["<|startoftranscript|>"] + 1, ids["<|translate|>"] - 1
    languages = {token: i for token, i in ids.items() if first <= i <= last}
    return keras_hub.models.WhisperTokenizer(
        vocabulary={token: i for token, i in document["model"]["vocab"].items() if token not in ids},
        merges=merges,
        special_tokens={token: ids[token] for token in _SPECIAL if token in ids},
        language_tokens=languages or None,
    )

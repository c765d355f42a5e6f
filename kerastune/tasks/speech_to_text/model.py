"""The model: a KerasHub Whisper for a window, whose decoder is taught what follows each token."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from keras import ops

from kerastune.targets import speech as reader
from kerastune.tasks import traces

Tensor = Any
SETTINGS = "transcriber.json"
"""File beside the preset: window, prompt and limits of a tuned model."""


class Trim(keras.layers.Layer):  # type: ignore[misc]
    """Cuts off columns that pad every row, and replaces other padding by 0: int32 [B, L], padded with -1 -> [B, T].

    Padding needs no mask: no earlier token attends to it, and it has no weight in the loss.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_jit = False  # the length depends on values

    def call(self, ids: Tensor) -> Tensor:
        longest = ops.max(ops.sum(ops.cast(ids >= 0, "int32"), axis=1))
        return ops.maximum(ids[:, : ops.maximum(longest, 1)], 0)

    def compute_output_spec(self, ids: Any) -> Any:
        return keras.KerasTensor((ids.shape[0], None), "int32")


class SpeechBackbone(keras.Model):  # type: ignore[misc]
    """A Whisper's own layers as one graph, which training cuts after the encoder.

    Takes {"features": log-mel frames float32 [B, frames, mels], "token_ids": int32 [B, L], padded with -1}, and gives
    logits [B, T, vocabulary] of the token after each, where T is the length of the longest row. The encoder's outputs
    pass in float16, which halves what is kept of them.
    """

    def __init__(self, whisper: Any, frames: int, length: int, **kwargs: Any) -> None:
        features = keras.Input((frames, whisper.num_mels), name="features")
        tokens = keras.Input((length,), dtype="int32", name="token_ids")
        x = keras.activations.gelu(whisper.encoder_conv_layer_1(features), approximate=False)
        x = whisper.encoder_padder(x)
        x = keras.activations.gelu(whisper.encoder_conv_layer_2(x), approximate=False)
        x = whisper.encoder_embeddings_add((x, whisper.encoder_position_embedding(x)))
        x = whisper.encoder_embeddings_dropout(x)
        for layer in whisper.encoder_transformer_layers:
            x = layer(x)
        encoded = ops.cast(whisper.encoder_layer_norm(x), "float16")
        embed, place = whisper.token_embedding, whisper.decoder_embeddings.position_embedding
        y = embed(Trim(name="trim")(tokens))
        y = whisper.decoder_embeddings_dropout(y + place(y))
        for layer in whisper.decoder_transformer_layers:
            y = layer(y, encoded)
        logits = embed(whisper.decoder_layer_norm(y), reverse=True)
        super().__init__({"features": features, "token_ids": tokens}, logits, **kwargs)
        self.dtype_policy = whisper.dtype_policy
        self.frames = frames

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "frames": self.frames}


@dataclass(frozen=True)
class Parts:
    """What makes a transcriber.

    Attributes:
        whisper: a `keras_hub.models.WhisperBackbone`.
        tokenizer: its tokenizer.
        converter: its audio converter.
        settings: "samples" of the window, "prompt" (ids before a transcript), "end" (the id after it), "words" (ids
            from 0 to here are pieces of text), "max_tokens" of a transcript, "beams" (drafts that are pursued),
            and "times" (id of the time 0.00), if it has times.
        graphs: what was traced of the model.
    """

    whisper: Any
    tokenizer: Any
    converter: Any
    settings: dict[str, Any]
    graphs: traces.Kept = field(default_factory=dict, init=False, repr=False)

    @property
    def hops(self) -> int:
        """Returns the length of the window in frames of the spectrum; the encoder makes one of two."""
        return int(self.settings["samples"]) // int(self.converter.stride)


class _Preprocessor:
    """Holds the tokenizer where `training.saving` looks for it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def get_config(self) -> dict[str, Any]:
        return {}


class Transcriber(keras.Model):  # type: ignore[misc]
    """A model that writes speech down, trained as `SpeechBackbone` describes.

    Attributes:
        parts: the KerasHub objects. They share their weights with the model.
    """

    def __init__(self, parts: Parts, **kwargs: Any) -> None:
        length = len(parts.settings["prompt"]) + parts.settings["max_tokens"]
        backbone = SpeechBackbone(parts.whisper, parts.hops, length, name="whisper")
        inputs = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in backbone.input.items()}
        super().__init__(inputs, backbone(inputs), **kwargs)
        self.backbone, self.parts = backbone, parts
        self.preprocessor = _Preprocessor(parts.tokenizer)

    @property
    def whisper(self) -> Any:
        return self.parts.whisper

    @property
    def settings(self) -> dict[str, Any]:
        return self.parts.settings

    @property
    def samples(self) -> int:
        """Returns the length of the window in samples."""
        return int(self.settings["samples"])

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}

    def converter(self) -> Any:
        """Returns KerasHub's own front end for the window: a sound float32 [n] -> [frames, mels]."""
        config = {**self.parts.converter.get_config(), "dtype": "float32"}
        made = type(self.parts.converter).from_config(config)
        made.num_samples = self.samples  # its own setting takes whole seconds only
        return made

    def save_to_preset(self, folder: str) -> None:
        """Writes a KerasHub preset of the Whisper, its tokenizer and its audio converter, and the settings beside."""
        for part in (self.parts.whisper, self.parts.tokenizer, self.parts.converter):
            part.save_to_preset(folder)
        (Path(folder) / SETTINGS).write_text(json.dumps(self.settings, indent=2) + "\n", "utf-8")


def pieces(tokenizer: Any, words: int) -> list[bytes]:
    """Returns the bytes of each piece of text, by id."""
    by_id = {int(i): token for token, i in tokenizer.vocabulary.items()}
    found: list[bytes] = reader.pieces([by_id.get(i, "") for i in range(words)])
    return found

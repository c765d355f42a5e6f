"""The model: a Whisper encoder of a fixed window, statistics of its layers over time, and a head."""

from typing import Any

import keras
import keras_hub
from keras import ops

Tensor = Any
_SIZES = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim", "num_mels", "dropout")
_CONFIG = (*_SIZES, "max_encoder_sequence_length")


@keras.saving.register_keras_serializable("kerastune")
class SoundEncoder(keras.Model):  # type: ignore[misc]
    """The encoder of a `keras_hub.models.WhisperBackbone`, float32 [B, frames, mels] -> its layers' outputs.

    They are the embedded frames, the output of each block, and the last one normalised: [B, frames / 2, D] each. With
    no block there are the embedded frames alone.

    Args:
        frames: number of log-mel frames of a window, an even number.
        config: the backbone's own settings, without its decoder's.
        dtype: the dtype policy of all layers.
    """

    def __init__(self, frames: int, config: dict[str, Any], dtype: Any = None, **kwargs: Any) -> None:
        # KerasHub has no encoder alone: one with the smallest decoder is built, of which no layer is kept.
        whisper = keras_hub.models.WhisperBackbone(
            **config, vocabulary_size=2, max_decoder_sequence_length=1, dtype=dtype
        )
        inputs = keras.Input((frames, config["num_mels"]), name="features")
        x = keras.activations.gelu(whisper.encoder_conv_layer_1(inputs), approximate=False)
        x = whisper.encoder_padder(x)
        x = keras.activations.gelu(whisper.encoder_conv_layer_2(x), approximate=False)
        x = whisper.encoder_embeddings_add((x, whisper.encoder_position_embedding(x)))
        x = whisper.encoder_embeddings_dropout(x)
        outputs = [x]
        for layer in whisper.encoder_transformer_layers:
            x = layer(x)
            outputs.append(x)
        if whisper.encoder_transformer_layers:
            outputs.append(whisper.encoder_layer_norm(x))
        super().__init__(inputs, outputs, **kwargs)
        self.dtype_policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self.frames, self.config = frames, dict(config)

    @classmethod
    def of(cls, whisper: Any, frames: int, blocks: int | None, dtype: Any) -> "SoundEncoder":
        """Returns the first `blocks` blocks of a backbone's encoder, with its weights."""
        config = whisper.get_config()
        made = cls(
            frames,
            {**{key: config[key] for key in _CONFIG}, "num_layers": config["num_layers"] if blocks is None else blocks},
            dtype,
        )
        kept = {layer.name: layer for layer in made.layers if layer.weights}
        for name, layer in kept.items():
            layer.set_weights(whisper.get_layer(name).get_weights())
        return made

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "frames": self.frames,
            "config": self.config,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SoundEncoder":
        return cls(**{**config, "dtype": keras.dtype_policies.deserialize(config["dtype"])})


@keras.saving.register_keras_serializable("kerastune")
class Statistics(keras.layers.Layer):  # type: ignore[misc]
    """The mean over time, and with `deviation` the standard deviation: [B, T, D] -> float32 [B, D or 2 * D]."""

    def __init__(self, deviation: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deviation = deviation

    def call(self, x: Tensor) -> Tensor:
        x = ops.cast(x, "float32")
        if not self.deviation:
            return ops.mean(x, axis=1)
        mean = ops.mean(x, axis=1, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(x - mean), axis=1) + 1e-6)
        return ops.concatenate([mean[:, 0], deviation], axis=-1)


@keras.saving.register_keras_serializable("kerastune")
class Standardised(keras.layers.Layer):  # type: ignore[misc]
    """Shifts and scales each feature to mean 0 and deviation 1 over the training sounds: [B, L, F] -> the same."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(name="mean", shape=shape[1:], initializer="zeros", trainable=False)
        self.scale = self.add_weight(name="scale", shape=shape[1:], initializer="ones", trainable=False)

    def call(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


@keras.saving.register_keras_serializable("kerastune")
class LayerMix(keras.layers.Layer):  # type: ignore[misc]
    """A learnt average over L layers (Yang et al. 2021, arXiv:2105.01051): [B, L, F] -> [B, F]."""

    def build(self, shape: Any) -> None:
        self.shares = self.add_weight(name="shares", shape=(shape[1], 1), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        return ops.sum(x * ops.softmax(self.shares, axis=0), axis=1)


@keras.saving.register_keras_serializable("kerastune")
class SoundClassifier(keras.Model):  # type: ignore[misc]
    """Log-mel frames, float32 [B, frames, mels] -> logits, float32 [B, K].

    Args:
        backbone: a `SoundEncoder`.
        num_outputs: number of logits.
        front_end: settings of KerasHub's audio converter that makes the frames.
        head: "dropout", the fraction of the head's inputs that are dropped in training, and whether these have a
            "deviation".
        peak: whether each window is scaled to the same largest value.
    """

    def __init__(
        self,
        backbone: Any,
        num_outputs: int,
        front_end: dict[str, Any],
        head: dict[str, Any],
        peak: bool = False,
        **kwargs: Any,
    ) -> None:
        inputs = keras.Input(backbone.input_shape[1:], name="features")
        reached = backbone(inputs)
        layers = reached if isinstance(reached, list) else [reached]
        pooled = [Statistics(head["deviation"], dtype="float32")(output) for output in layers]
        x = Standardised(name="standardised", dtype="float32")(ops.stack(pooled, axis=1))
        x = LayerMix(name="layer_mix", dtype="float32")(x) if len(layers) > 1 else x[:, 0]
        x = keras.layers.Dropout(head["dropout"], name="dropout", dtype="float32")(x)
        outputs = keras.layers.Dense(num_outputs, name="logits", dtype="float32")(x)
        super().__init__(inputs, outputs, **kwargs)
        self.backbone, self.num_outputs, self.peak = backbone, num_outputs, peak
        self.front_end, self.head = dict(front_end), dict(head)

    @property
    def samples(self) -> int:
        """Returns the length of the window in samples."""
        return int(self.backbone.frames * self.front_end["stride"])

    def converter(self) -> Any:
        """Returns KerasHub's own front end for this window: a sound float32 [n] -> [frames, mels]."""
        made = keras_hub.layers.WhisperAudioConverter(**self.front_end, dtype="float32")
        made.num_samples = self.samples  # its own setting takes whole seconds only
        return made

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_outputs": self.num_outputs,
            "front_end": self.front_end,
            "head": self.head,
            "peak": self.peak,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SoundClassifier":
        return cls(**{**config, "backbone": keras.saving.deserialize_keras_object(config["backbone"])})

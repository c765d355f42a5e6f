"""Images in, a point out."""

from dataclasses import replace

from kerastune.tasks.image_classification.device import DEVICE as IMAGES
from point.learnt import POINT


def manifest(recipe, wanted, form, work):
    (work / "golden_expected.npz").touch()
    batch = None if form.signature in ("serving", "serving_default") else 1
    return {
        "signatures": [form.signature],
        "reading": {"resize": "inside"},
        "inputs": [
            {"name": "images", "shape": [batch, None, None, 3], "dtype": "uint8", "range": [0, 255], "meaning": "RGB"}
        ],
        "outputs": [{"name": "point", "shape": [batch, 2], "dtype": "float32", "range": None, "meaning": "x and y"}],
        "preprocessing": {"inside": ["resize", "scale and offset"], "outside": ["decode the file to RGB"]},
    }


DEVICE = replace(IMAGES, learnt=lambda recipe: POINT, manifest=manifest)

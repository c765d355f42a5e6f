"""A manifest that is whole, for artifacts that are made by hand."""

from dataclasses import replace
from typing import Any

from kerastune.verifying import manifest
from kerastune.verifying.manifest import Manifest, Tensor


def tensor(name: str, shape: tuple[int | None, ...] = (1, None), dtype: str = "float32") -> Tensor:
    return Tensor(name=name, shape=shape, dtype=dtype, range=None, meaning="a test's")


def a_manifest(**changes: Any) -> Manifest:
    """One image of 2 x 2 pixels in, three scores out, in TFLite; with `changes`."""
    whole = manifest.parse(
        {
            "name": "toy",
            "format": "tflite",
            "quantize": "none",
            "kept_float": (),
            "target": "linux",
            "runtime": "litert",
            "model": "model.tflite",
            "task": "image_classification",
            "modality": "image",
            "learnt": "label",
            "signatures": ("fixed_uint8",),
            "inputs": (tensor("images", (1, 2, 2, 3), "uint8"),),
            "outputs": (tensor("scores", (1, 3)),),
            "reading": {"resize": "inside"},
            "preprocessing": {"inside": (), "outside": ()},
            "labels": ("a", "b", "c"),
            "metric": "accuracy",
            "test": 1.0,
            "tolerance": {"scale": 1.0, "golden_error": 1e-4, "validation_error": 1e-4, "accuracy_drop": None},
            "calibration": None,
            "preset": "a preset",
            "licence": "Apache-2.0",
            "run": "run",
            "recipe_sha256": "0",
            "versions": {},
        }
    )
    return replace(whole, **changes)

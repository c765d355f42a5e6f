"""Runs a .tflite artifact with MediaPipe Tasks, as an Android app does: pip install mediapipe numpy."""

import sys
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def load(folder, manifest, options):
    # From memory: MediaPipe resolves paths inside its own package.
    model = BaseOptions(model_asset_buffer=(folder / manifest["model"]).read_bytes())
    classifier = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=model))
    names = [" ".join(label.splitlines()) for label in manifest["labels"]]  # the model's own list has one per line

    def run(inputs):  # images: uint8 [B, H, W, 3] -> scores: float32 [B, labels]
        scores = np.zeros((len(inputs["images"]), len(manifest["labels"])), np.float32)
        for row, image in zip(scores, inputs["images"], strict=True):
            pixels = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
            for category in classifier.classify(pixels).classifications[0].categories:
                if (called := category.category_name) != (name := names[category.index]):
                    sys.exit(f"label {category.index} is {called!r} in the model but {name!r} in the manifest")
                row[category.index] = category.score
        return {"scores": scores}

    return run


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import main

    main(load)

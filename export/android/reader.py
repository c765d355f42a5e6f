"""Runs a .tflite artifact with MediaPipe Tasks, as an Android app does: pip install mediapipe numpy."""

import sys
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def load(folder, manifest, options):
    # From memory: MediaPipe resolves paths inside its own package.
    model = BaseOptions(model_asset_buffer=(folder / manifest["model"]).read_bytes())
    names = [" ".join(label.splitlines()) for label in manifest["labels"]]  # the model's own list has one per line
    answer = TASKS[tuple(sorted(output["name"] for output in manifest["outputs"]))](model, names)

    def run(inputs):  # images: uint8 [B, H, W, 3] -> the outputs, one row per image
        images = (np.ascontiguousarray(image) for image in inputs["images"])
        rows = [answer(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)) for image in images]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    return run


def classifier(model, names):
    task = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=model))

    def answer(image):  # -> scores: float32 [labels]
        scores = np.zeros(len(names), np.float32)
        for category in task.classify(image).classifications[0].categories:
            if (called := category.category_name) != (name := names[category.index]):
                sys.exit(f"label {category.index} is {called!r} in the model but {name!r} in the manifest")
            scores[category.index] = category.score
        return {"scores": scores}

    return answer


def embedder(model, names):
    task = vision.ImageEmbedder.create_from_options(vision.ImageEmbedderOptions(base_options=model))
    return lambda image: {"embeddings": np.asarray(task.embed(image).embeddings[0].embedding, np.float32)}


TASKS = {("scores",): classifier, ("embeddings",): embedder}  # by the names of a file's outputs


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import main

    main(load)

"""Runs a .tflite artifact with MediaPipe Tasks, as an Android app does: pip install mediapipe numpy."""

import sys
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, audio, vision
from mediapipe.tasks.python.components.containers import AudioData

RATE = 16_000  # samples per second of a sound


def load(folder, manifest, options):
    # From memory: MediaPipe resolves paths inside its own package.
    model = BaseOptions(model_asset_buffer=(folder / manifest["model"]).read_bytes())
    names = [" ".join(label.splitlines()) for label in manifest["labels"]]  # the model's own list has one per line
    outputs = tuple(sorted(output["name"] for output in manifest["outputs"]))
    answer = TASKS[manifest["modality"], *outputs](model, names)

    def run(inputs):  # images: uint8 [B, H, W, 3], or sounds: float32 [B, samples] -> the outputs, one row per example
        (examples,) = inputs.values()
        rows = [answer(np.ascontiguousarray(example)) for example in examples]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    return run


def classifier(model, names):
    task = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=model))

    return lambda pixels: {"scores": scores(task.classify(picture(pixels)), names)}


def listener(model, names):
    task = audio.AudioClassifier.create_from_options(audio.AudioClassifierOptions(base_options=model))

    def answer(samples):
        (result,) = task.classify(AudioData.create_from_array(samples, RATE))
        return {"scores": scores(result, names)}

    return answer


def embedder(model, names):
    task = vision.ImageEmbedder.create_from_options(vision.ImageEmbedderOptions(base_options=model))
    return lambda pixels: {"embeddings": np.asarray(task.embed(picture(pixels)).embeddings[0].embedding, np.float32)}


def picture(pixels):
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)


def scores(result, names):  # -> float32 [labels]
    found = np.zeros(len(names), np.float32)
    for category in result.classifications[0].categories:
        if (called := category.category_name) != (name := names[category.index]):
            sys.exit(f"label {category.index} is {called!r} in the model but {name!r} in the manifest")
        found[category.index] = category.score
    return found


# By the kind of example, and the names of a file's outputs.
TASKS = {
    ("image", "scores"): classifier,
    ("image", "embeddings"): embedder,
    ("sound", "scores"): listener,
}


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import main

    main(load)

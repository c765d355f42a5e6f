"""Runs a SavedModel artifact with TensorFlow alone, as TF Serving does: pip install tensorflow numpy."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf


def load(folder, manifest):
    model = tf.saved_model.load(str(folder / manifest["model"]))
    tensors, encoded = model.signatures["serving_default"], model.signatures["serve_bytes"]

    def predict(
        images,
    ):  # uint8 [B, H, W, 3], or one encoded file's bytes uint8 [n] -> float32 [B, num_classes]
        if images.ndim == 1:
            return encoded(image_bytes=tf.constant([images.tobytes()]))["scores"].numpy()
        return tensors(images=tf.constant(images))["scores"].numpy()

    predict.model = model  # its signatures do not keep it alive
    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main

    main(load)

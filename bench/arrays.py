"""Writes a job's images and labels to an .npz file, for the peer that has no TensorFlow to read them with."""

import json
import sys

import numpy as np
import tensorflow_datasets as tfds
from keras_script import ASSETS


def main(job, path):
    arrays = {}
    for name in ("train", "validation", "test"):
        found = tfds.load("fashion_mnist", split=job[name], data_dir=str(ASSETS / "fashion-mnist"), batch_size=-1)
        arrays |= {name: found["image"].numpy(), f"{name}_labels": found["label"].numpy()}  # uint8 [n, 28, 28, 1], [n]
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])

"""The floor: one pass of the frozen backbone over the training and validation images, fed as the Keras script is."""

import json
import resource
import sys
import time

import tensorflow as tf
from keras_script import build, dataset


def main(job):
    train, validation = dataset(job, "train"), dataset(job, "validation")
    backbone = build(job).backbone
    started = time.perf_counter()
    forward = tf.function(lambda x: backbone(x, training=False))
    for images, _ in train.concatenate(validation):
        features = forward(images)
    features.numpy()  # the last one is done
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "accuracy": None, "peak_mb": peak}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

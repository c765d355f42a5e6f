"""The peer: what a careful Keras user writes for the same job, after Keras's own transfer-learning guide. No kerastune.

python bench/keras_script.py JOB      JOB is JSON: bench.py's JOBS; prints one line of JSON
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import keras
import keras_hub
import tensorflow as tf
import tensorflow_datasets as tfds

ASSETS = Path(os.environ["KERASTUNE_HOME"]) / "assets"
PRESET = str(ASSETS / "efficientnet-lite0-imagenet")
TOP_2 = ("block6d_", "block7a_", "top_conv", "top_bn")  # the last two of 16 blocks, and what follows them


def dataset(job, split):
    """Batches of (inputs float32 [B, 224, 224, 3], labels int64 [B]) of one of the job's splits."""
    converter = keras_hub.layers.ImageConverter.from_preset(PRESET)

    def prepare(images, labels):  # uint8 [B, 28, 28, 1]
        return converter(tf.image.grayscale_to_rgb(images)), labels

    found = tfds.load("fashion_mnist", split=job[split], data_dir=str(ASSETS / "fashion-mnist"), as_supervised=True)
    if split == "train":
        found = found.shuffle(len(found))
    return found.batch(job["batch_size"]).map(prepare, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def build(job):
    model = keras_hub.models.ImageClassifier.from_preset(PRESET, num_classes=10)
    model.preprocessor = None  # `dataset` does its work
    unfreeze = job["unfreeze"]
    for layer in model.backbone.layers:
        layer.trainable = unfreeze == "all" or (unfreeze == "top:2" and layer.name in TOP_2)
    for layer in model.backbone._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
        if isinstance(layer, keras.layers.Dropout) and not layer.trainable:
            layer.rate = 0.0  # what is frozen should be a fixed function; it is faster, too
    return model


def main(job):
    keras.utils.set_random_seed(job["seed"])
    train, validation, test = (dataset(job, split) for split in ("train", "validation", "test"))
    model = build(job)
    started = time.perf_counter()
    rate = keras.optimizers.schedules.CosineDecay(job["learning_rate"], len(train) * job["epochs"])
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # as Keras itself chooses on a CPU
    )
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=job["epochs"], restore_best_weights=True)
    model.fit(train, validation_data=validation, epochs=job["epochs"], callbacks=[best], verbose=0)
    seconds = time.perf_counter() - started
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "accuracy": accuracy, "peak_mb": peak}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

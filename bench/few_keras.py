"""The peer of few.py's images: what Keras's transfer-learning guide does with a folder of a few images a label.

python bench/few_keras.py JOB      JOB is JSON, of few.py; prints one line of JSON
"""

import json
import os
import sys
from pathlib import Path

import keras
import keras_hub

HOME = Path(os.environ["KERASTUNE_HOME"])
PRESET = str(HOME / "assets" / "efficientnet-lite0-imagenet")


def main(job):
    keras.utils.set_random_seed(job["seed"])
    converter = keras_hub.layers.ImageConverter.from_preset(PRESET)
    splits = {
        name: keras.utils.image_dataset_from_directory(
            HOME / "data" / name, image_size=(224, 224), batch_size=32, shuffle=name == "train", verbose=False
        ).map(lambda x, y: (converter(x), y))
        for name in ("train", "validation", "test")
    }
    model = keras_hub.models.ImageClassifier.from_preset(PRESET, num_classes=10)
    model.preprocessor = None  # `converter` does its work
    model.backbone.trainable = False
    before = os.times()
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # as Keras itself chooses on a CPU
    )
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=20, restore_best_weights=True)
    model.fit(splits["train"], validation_data=splits["validation"], epochs=20, callbacks=[best], verbose=0)
    seconds = sum(os.times()[:2]) - sum(before[:2])
    accuracy = model.evaluate(splits["test"], verbose=0, return_dict=True)["accuracy"]
    print(json.dumps({"cpu_seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

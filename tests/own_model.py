"""A detector in small, of plain Keras: a backbone inside a pyramid, two outputs, and no class of KerasHub."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def backbone() -> keras.Model:
    """Three blocks; the last one's output is not what the pyramid reads."""
    x = image = keras.Input((16, 16, 3))
    found = {}
    for i in range(3):
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"block_{i}_conv")(x)
        x = layers.BatchNormalization(name=f"block_{i}_norm")(x)
        found[f"P{i}"] = x = layers.ReLU(name=f"block_{i}_relu")(x)
    return keras.Model(image, found, name="backbone")


@keras.saving.register_keras_serializable("kerastune-tests")
class Detector(keras.Model):
    """uint8-like images [B, 16, 16, 3] -> {"boxes": [B, 16, 4], "classes": [B, 3]}."""

    def __init__(self, **kwargs: Any) -> None:
        inner = backbone()
        x = keras.Input((16, 16, 3))
        levels = inner(x)
        lateral = layers.Conv2D(4, 1, name="lateral")(levels["P1"])
        up = layers.UpSampling2D(1, name="up")(lateral)
        pyramid = keras.Model(x, {"fine": up, "coarse": levels["P1"]}, name="pyramid")
        image = keras.Input((16, 16, 3))
        features = pyramid(image)
        boxes = layers.Reshape((16, 4), name="boxes")(layers.Conv2D(4, 1, name="box_head")(features["fine"]))
        pooled = layers.GlobalAveragePooling2D(name="pool")(features["coarse"])
        classes = layers.Dense(3, name="class_head", dtype="float32")(pooled)
        super().__init__(image, {"boxes": boxes, "classes": classes}, **kwargs)
        self.backbone = inner

    def get_config(self) -> dict[str, Any]:
        return {"dtype": keras.dtype_policies.serialize(self.dtype_policy)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Detector":
        policy = keras.dtype_policies.deserialize(config["dtype"])
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return cls()
        finally:
            keras.config.set_dtype_policy(before)


class Wrapped(keras.Model):
    """The same as a class with a `call`, whose backbone sits in a layer; the temperature is the model's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.class_head = layers.Dense(3, name="class_head")
        self.temperature = self.add_weight(name="temperature", shape=(), initializer="ones")

    @property
    def backbone(self) -> keras.Model:
        return self.encoder.inner

    def call(self, x: Any, training: bool = False) -> Any:
        return {"classes": self.class_head(self.encoder(x, training=training)) * self.temperature}


class Encoder(layers.Layer):
    def __init__(self) -> None:
        super().__init__(name="encoder")
        self.inner = backbone()
        self.pool = layers.GlobalAveragePooling2D()
        self.scale = layers.Dense(4, name="neck")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.scale(self.pool(self.inner(x, training=training)["P2"]))


def images(n: int = 8) -> Any:
    return tf.constant(np.random.default_rng(0).normal(size=(n, 16, 16, 3)), tf.float32)


def detector(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    return Detector()


def wrapped(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    made = Wrapped()
    made(images())
    return made

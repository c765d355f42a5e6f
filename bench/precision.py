"""A training step of models of images in float32 and in bfloat16: python bench/precision.py [lite0:96 resnet18:128 …]

Prints the processor's time of a step, BatchNorm in training, after the name of the model and the side of its pictures.
"""

import sys
import time

import keras_hub
import tensorflow as tf

from kerastune import assets

BATCH, STEPS = 8, 4
BLOCKS = {"resnet18": ("basic_block", [2, 2, 2, 2]), "resnet50": ("bottleneck_block", [3, 4, 6, 3])}


def backbone(name, size, policy):
    if name in BLOCKS:
        kind, blocks = BLOCKS[name]
        return keras_hub.models.ResNetBackbone([64], [7], [64, 128, 256, 512], blocks, [1, 2, 2, 2], kind, dtype=policy)
    if name == "vit":
        return keras_hub.models.ViTBackbone((size, size, 3), 16, 4, 3, 192, 768, dtype=policy)
    return keras_hub.models.Backbone.from_preset(str(assets.path("efficientnet-lite0-imagenet")), dtype=policy)


def seconds(name, size, policy):
    model = backbone(name, size, policy)
    x = tf.random.stateless_uniform([BATCH, size, size, 3], seed=(0, 0))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.cast(model(x, training=True), tf.float32))
        for weight, gradient in zip(
            model.trainable_variables, tape.gradient(total, model.trainable_variables), strict=True
        ):
            weight.assign_sub(1e-6 * tf.convert_to_tensor(gradient))

    step(x)
    found = []
    for _ in range(STEPS):
        started = time.process_time()
        step(x)
        found.append(time.process_time() - started)
    return min(found)


def main(wanted):
    for one in wanted:
        name, _, size = one.partition(":")
        exact, rounded = (seconds(name, int(size), policy) for policy in ("float32", "mixed_bfloat16"))
        print(f"| {name} at {size} px | {exact:.2f} s | {rounded:.2f} s | {exact / rounded:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["lite0:96", "resnet18:128", "resnet50:128", "vit:224"])

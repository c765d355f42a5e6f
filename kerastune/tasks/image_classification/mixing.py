"""Mixup and cutmix: blends each image of a batch, and its target, with another.

Which of the two, in what share and where is drawn by seed, epoch and example. The other image is the one before it in
the batch, as every epoch shuffles them.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerastune.tasks import draws
from kerastune.tasks.image_classification.settings import Augment

Tensor = Any
Mix = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys as of `draws.keys`, images [B, H, W, 3], targets [B, K] -> images, targets."""


def mixing(augment: Augment) -> Mix | None:
    """Returns mixup and cutmix, or None without either. If both are set, each image gets one.

    Both are linear in the pixels, so they commute with normalising.
    """
    used = [(kind, alpha) for kind, alpha in ((_blended, augment.mixup), (_pasted, augment.cutmix)) if alpha]

    def mix(keys: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        drawn, keys = draws.uniform(draws.others(keys, 1), 3), draws.others(keys, 2)
        own = [kind(draws.beta(keys, alpha), drawn, images) for kind, alpha in used]
        share = own[0] if len(own) == 1 else tf.where(drawn[:, 2, None, None, None] < 0.5, *own)
        return _mean(images, share), _mean(targets, tf.reduce_mean(share, axis=[1, 2]))

    return mix if used else None


def weighed(mix: Mix, keys: Tensor, images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mixed images, targets and weights: each of two blended images counts by its own weight.

    Cross-entropy is linear in the targets, so that the loss of a blend is that of the two, each in its share.
    """
    images, both = mix(keys, images, targets * weights[:, None])
    summed = tf.reduce_sum(both, axis=-1)
    return images, both / summed[:, None], summed


def _mean(rows: Tensor, share: Tensor) -> Tensor:
    """Returns the mean of each row and the one before it, the last for the first, by the row's own share."""
    return share * rows + (1 - share) * tf.roll(rows, 1, axis=0)


# Each returns an image's own share of its pixels, float32 [B, H, W, 1] or [B, 1, 1, 1], from shares [B], random numbers
# from 0 to 1 [B, 2 or more] and images.


def _blended(shares: Tensor, drawn: Tensor, images: Tensor) -> Tensor:
    return shares[:, None, None, None]


def _pasted(shares: Tensor, drawn: Tensor, images: Tensor) -> Tensor:
    inside = tf.constant(True)
    for axis in (1, 2):
        length = images.shape[axis]
        side = tf.sqrt(1 - shares) * length
        start = (drawn[:, axis - 1] * (length - side))[:, None]
        places = tf.range(length, dtype=tf.float32)[None]
        along = (places >= start) & (places < start + side[:, None])
        inside &= tf.expand_dims(tf.expand_dims(along, 3 - axis), 3)
    return tf.where(inside, 0.0, 1.0)

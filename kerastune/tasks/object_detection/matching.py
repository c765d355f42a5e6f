"""The loss of a detector that predicts a set of boxes (DETR; Carion et al. 2020, arXiv:2005.12872).

Each box of the truth is given to one query, so that all together cost least; the others learn that they see nothing.
Weights and the loss of the classes are D-FINE's (Peng et al. 2024, arXiv:2410.13842), whose distributions of corners
learn through the boxes alone here: without its local losses, and without denoising queries.
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

from kerastune.tasks.object_detection import decoding

Tensor = Any

EARLIER = "earlier_logits"
"""The output that only a model of queries has."""

_CLASS, _CORNERS, _OVERLAP = 2.0, 5.0, 2.0  # shares of the cost of giving a box to a query
_VARIFOCAL = 1.0  # of the classes in the loss; corners and overlap weigh as in the cost
_ALPHA, _GAMMA = 0.25, 2.0
_NEVER = 1e6  # the cost of a row that is no box


def set_loss(truth: Tensor, outputs: dict[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of all answers of a batch, summed over boxes, and the number of boxes.

    Args:
        truth: label, x1, y1, x2, y2 in shares of the picture, and whether it is a crowd: float32 [B, M, 6].
        outputs: those of `PresetDetector`.
        weights: of the pictures, float32 [B].
    """
    logits = tf.concat([outputs[EARLIER], outputs["class_logits"][:, None]], 1)  # [B, L, Q, K]
    deltas = tf.concat([outputs["earlier_deltas"], outputs["box_deltas"][:, None]], 1)
    boxes = decoding.decoded(deltas, outputs["anchors"][:, None])
    query, is_box = given(truth, logits, boxes)  # [B, L, M]
    wanted = tf.broadcast_to(truth[:, None, :, 1:5], [*tf.unstack(tf.shape(query)), 4])
    mine = tf.gather(boxes, query, batch_dims=2)
    counts = tf.cast(is_box, tf.float32) * weights[:, None, None]
    shared = keras.utils.bounding_boxes.compute_ciou(mine, wanted, "xyxy")
    corners = tf.reduce_sum(tf.abs(_centred(mine) - _centred(wanted)), -1)
    of_boxes = tf.reduce_sum((_CORNERS * corners + _OVERLAP * (1 - shared)) * counts)
    # Every query's target: how well its box lies, for the class of the box that it was given.
    quality = tf.maximum(_iou(mine, wanted), 0.0) * tf.cast(is_box, tf.float32)
    names = tf.one_hot(tf.cast(truth[..., 0], tf.int32), logits.shape[-1])[:, None] * quality[..., None]
    places = tf.one_hot(query, tf.shape(logits)[2]) * tf.cast(is_box, tf.float32)[..., None]  # [B, L, M, Q]
    target = tf.stop_gradient(tf.einsum("blmq,blmk->blqk", places, names))
    of_classes = tf.reduce_sum(_varifocal(target, logits) * weights[:, None, None, None])
    return _VARIFOCAL * of_classes + of_boxes, tf.maximum(tf.reduce_sum(counts[:, -1]), 1.0)


def given(truth: Tensor, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Gives each box of each answer to a query.

    Returns:
        The query of each row of the truth, int32 [B, L, M], 0 for rows that are no box; and whether it is one and got a
        query, bool [B, L, M]. Crowds get none.
    """
    is_box = tf.tile(((truth[..., 0] >= 0) & (truth[..., 5] <= 0))[:, None], [1, tf.shape(logits)[1], 1])
    query = tf.numpy_function(_assign, [_cost(truth, logits, boxes), is_box], tf.int32)
    query = tf.ensure_shape(query, [None, None, None])
    return tf.maximum(query, 0), query >= 0


def on_boxes(truth: Tensor, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns whether each query of the last answer got a box, bool [B, Q], and the row of its box, [B, Q, 6].

    Args:
        truth: as in `set_loss`.
        logits, boxes: the last answer, [B, Q, K] and [B, Q, 4].
    """
    query, is_box = given(truth, logits[:, None], boxes[:, None])
    places = tf.one_hot(query[:, 0], tf.shape(logits)[1]) * tf.cast(is_box[:, 0], tf.float32)[..., None]  # [B, M, Q]
    return tf.reduce_sum(places, 1) > 0, tf.einsum("bmq,bmr->bqr", places, truth)


def _cost(truth: Tensor, logits: Tensor, boxes: Tensor) -> Tensor:
    """Returns the cost of each query for each row of the truth, float32 [B, L, Q, M]."""
    probability = tf.sigmoid(logits)
    right = _ALPHA * (1 - probability) ** _GAMMA * -tf.math.log(probability + 1e-8)
    wrong = (1 - _ALPHA) * probability**_GAMMA * -tf.math.log(1 - probability + 1e-8)
    label = tf.maximum(tf.cast(truth[..., 0], tf.int32), 0)  # [B, M]
    of_class = tf.gather(tf.transpose(right - wrong, [0, 3, 1, 2]), label, batch_dims=1)  # [B, M, L, Q]
    mine, wanted = boxes[:, :, :, None], truth[:, None, None, :, 1:5]
    apart = tf.reduce_sum(tf.abs(_centred(mine) - _centred(wanted)), -1)
    shared = decoding.overlaps(boxes, tf.tile(truth[:, None, :, 1:5], [1, tf.shape(boxes)[1], 1, 1]))
    return _CLASS * tf.transpose(of_class, [0, 2, 3, 1]) + _CORNERS * apart - _OVERLAP * shared


def _assign(cost: npt.NDArray[np.float32], is_box: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Returns the query of each row, -1 for none: int32 [B, L, M]."""
    found = np.full(is_box.shape, -1, np.int32)
    for at in np.ndindex(*is_box.shape[:2]):
        rows = np.flatnonzero(is_box[at])
        queries, columns = linear_sum_assignment(np.nan_to_num(cost[at][:, rows], nan=_NEVER, posinf=_NEVER))
        found[at][rows[columns]] = queries
    return found


def _varifocal(target: Tensor, logits: Tensor) -> Tensor:
    """Returns the varifocal loss (Zhang et al. 2021, arXiv:2008.13367) of each probability."""
    is_class = tf.cast(target > 0, tf.float32)
    weight = _ALPHA * tf.stop_gradient(tf.sigmoid(logits)) ** _GAMMA * (1 - is_class) + target
    return tf.nn.sigmoid_cross_entropy_with_logits(target, logits) * weight


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """Returns the overlap of boxes in pairs: [..., 4], [..., 4] -> [...]."""
    return decoding.overlaps(one[..., None, :], other[..., None, :])[..., 0, 0]


def _centred(boxes: Tensor) -> Tensor:
    """Returns centres and sides of boxes."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return tf.concat([(low + high) / 2, high - low], -1)

"""A text classifier whose head reads a sentence vector: the mean of the tokens' vectors, or the first one."""

import json
from pathlib import Path
from typing import Any

import keras
import keras_hub

from kerastune.tasks.contract import Model

_CLASS, _CONFIG, _WEIGHTS = "PooledTextClassifier", "task.json", "task.weights.h5"


@keras.saving.register_keras_serializable("kerastune")
class PooledTextClassifier(keras_hub.models.TextClassifier):  # type: ignore[misc]  # KerasHub has no types
    """A KerasHub text classifier of any encoder, with one linear layer on a sentence vector.

    Args:
        backbone: a text encoder, whose output is, or has, a `sequence_output` [B, L, D].
        pooling: "mean" of the tokens that are no padding, or "cls", the first token.
        num_classes: number of logits.
        dropout: share of the sentence vector that is dropped in training.
        seed: of the first values of the head, and of dropout.
    """

    def __init__(
        self,
        backbone: Any,
        pooling: str,
        num_classes: int,
        preprocessor: Any = None,
        dropout: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        policy = backbone.dtype_policy
        drop = keras.layers.Dropout(dropout, seed=seed, dtype=policy, name="classifier_dropout")
        initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
        dense = keras.layers.Dense(num_classes, kernel_initializer=initial, dtype=policy, name="logits")
        vector = vectors(backbone)[pooling]
        super().__init__(inputs=backbone.input, outputs=dense(drop(vector)), **kwargs)
        self.backbone, self.preprocessor = backbone, preprocessor
        self.pooling, self.num_classes, self.dropout = pooling, num_classes, dropout

    def get_config(self) -> dict[str, Any]:
        own = {"pooling": self.pooling, "num_classes": self.num_classes, "dropout": self.dropout}
        return {**super().get_config(), **own}


def vectors(backbone: Model) -> dict[str, Any]:
    """Returns the symbolic sentence vectors of an encoder, [B, D], by the value of `head` that reads them.

    "pooler" is what KerasHub's own classifier begins with: the output of a pretrained pooler, or the first token.
    "mean" is missing where the inputs do not tell the padding, and "cls" where it is the same as "pooler".
    """
    inputs, outputs = backbone.input, backbone(backbone.input)
    has_pooler = isinstance(outputs, dict) and "pooled_output" in outputs
    tokens = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
    first = tokens[:, 0, :]
    found = {"pooler": outputs["pooled_output"], "cls": first} if has_pooler else {"pooler": first, "cls": first}
    if "padding_mask" in inputs:
        mask = keras.ops.cast(keras.ops.expand_dims(inputs["padding_mask"], -1), "float32")
        total = keras.ops.sum(keras.ops.cast(tokens, "float32") * mask, axis=1)  # bfloat16 would round a long sum
        found["mean"] = total / keras.ops.maximum(keras.ops.sum(mask, axis=1), 1.0)
    return found


def with_pooling(model: Model, pooling: str, seed: int) -> PooledTextClassifier:
    """Returns the classifier's backbone and preprocessor with a new, randomly initialised head on a sentence vector."""
    return PooledTextClassifier(model.backbone, pooling, model.num_classes, model.preprocessor, seed=seed)


def load(folder: Path, precision: str) -> PooledTextClassifier | None:
    """Loads the pooled classifier that `save_to_preset` wrote; None if the folder holds one of KerasHub's.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    document = json.loads((folder / _CONFIG).read_text("utf-8"))
    if document.get("class_name") != _CLASS:
        return None
    own = {key: document["config"][key] for key in ("pooling", "num_classes", "dropout")}
    model = PooledTextClassifier(
        keras_hub.models.Backbone.from_preset(str(folder), dtype=precision),
        preprocessor=keras_hub.models.TextClassifierPreprocessor.from_preset(str(folder)),
        **own,
    )
    model.load_task_weights(str(folder / _WEIGHTS))
    return model

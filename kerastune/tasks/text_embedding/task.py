"""Text embedding: vectors of texts from any KerasHub backbone with a TextEmbedder, by contrastive training.

An example has one or more texts, its sides. For a batch of B examples, the model sees all first sides, then all second
ones, and so on: [sides * B, L] in, [sides * B, D] out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets
from kerastune.data import Order, Split, Splits
from kerastune.errors import RecipeError, shortened
from kerastune.formats.graphs import Signature
from kerastune.tasks import losses, text_models
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Learning, Model, Targets, Task
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.pipeline import with_truth
from kerastune.tasks.text_embedding.learning import loss, metric, targets, validated
from kerastune.tasks.text_embedding.settings import TextEmbedding
from kerastune.tasks.text_models import input_names, set_length, signed
from kerastune.tasks.tokens import Ints, Tokens, fed, preprocessing, rows, tokenised

Vectors = npt.NDArray[np.float32]


def build(recipe: TextEmbedding, preset: str, num_outputs: int, precision: str) -> Model:
    """Returns the preset as a text embedder, with its own pooling and normalisation; without any, with mean pooling.

    Args:
        preset: the resolved `recipe.preset`.
        num_outputs: unused; the preset decides the size of vectors.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is not a text embedder, does not support that length, or has no head to train.
    """
    keras.config.set_dtype_policy(precision)
    try:
        with assets.reaching(preset):
            model = keras_hub.models.TextEmbedder.from_preset(preset, dtype=precision)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a text embedder: {shortened(str(error), 500)}",
            "Use a preset that KerasHub has a TextEmbedder for: BERT, XLM-RoBERTa, Gemma 3 or Qwen 3.",
        ) from error
    set_length(recipe, model)
    owned = {id(weight) for weight in model.backbone.weights}
    if all(id(weight) in owned for weight in model.weights):
        for number, phase in enumerate(recipe.phases):
            if phase.unfreeze in ("head", "gradual"):
                raise RecipeError(
                    f"phases.{number}.unfreeze = {phase.unfreeze!r}: this embedder pools its backbone's outputs, and "
                    "has no head to train.",
                    'Use "all", "top:N" or "match:REGEX".',
                )
    return model


def describe(model: Model, splits: Splits) -> dict[str, Any]:
    """Returns facts about the inputs and the vectors, for run.json."""
    parts = {name: sides(model, getattr(splits, name)).tokens for name in ("train", "validation", "test")}
    return {
        "sequence_length": model.preprocessor.sequence_length,
        "buckets": list(parts["train"].buckets),
        "truncated": {name: part.truncated for name, part in parts.items()},
        "dimensions": int(model.output_shape[-1]),
        "pooling": model.pooling_mode,
        "normalized": bool(model.normalize),
    }


def load(folder: str, precision: str = "float32") -> Model:
    """Loads a tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    return keras_hub.models.TextEmbedder.from_preset(folder, dtype=precision)


# --- feeding --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """A split's texts, each distinct one tokenised once.

    Attributes:
        tokens: tokens of the distinct texts.
        index: index of the distinct text for each side of each example, int64 [n, sides].
        peers: for groups, the examples with each example's label; otherwise empty.
    """

    tokens: Tokens
    index: npt.NDArray[np.int64]
    peers: tuple[npt.NDArray[np.int64], ...]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Returns the number of tokens of each example's longest side, int64 [n]."""
        return np.asarray(self.tokens.lengths[self.index].max(-1))

    def partners(self, examples: npt.NDArray[np.int64], seed: tuple[int, ...] | None) -> npt.NDArray[np.int64]:
        """Returns another example with each one's label, or itself if there is none, int64 [B]. For groups.

        Args:
            seed: the seed to draw with; None: always the next one.
        """
        random = None if seed is None else np.random.default_rng(seed)
        found = []
        for i in examples:
            peers = self.peers[i]
            at = int(np.searchsorted(peers, i))
            step = 1 if random is None or len(peers) == 1 else int(random.integers(1, len(peers)))
            found.append(peers[(at + step) % len(peers)])
        return np.array(found, np.int64)


_known: "WeakKeyDictionary[Split, dict[str, Sides]]" = WeakKeyDictionary()


def sides(model: Model, split: Split) -> Sides:
    """Returns the split's texts; tokenises them on first use."""
    known, key = _known.setdefault(split, {}), preprocessing(model)
    if key not in known:
        number: dict[str, int] = {}
        index = np.array(
            [[number.setdefault(t, len(number)) for t in split.example(i).tolist()] for i in range(len(split))]
        )
        peers: tuple[npt.NDArray[np.int64], ...] = ()
        if split.labels.ndim == 1:
            of_label = [np.flatnonzero(split.labels == label) for label in range(int(split.labels.max()) + 1)]
            peers = tuple(of_label[label] for label in split.labels)
        known[key] = Sides(tokenised(model.preprocessor, [[text] for text in number]), index, peers)
    return known[key]


def order(
    model: Model, split: Split, batch_size: int, epochs: int = 1, seed: tuple[int, ...] | None = None, start: int = 0
) -> Order:
    """Returns the batches of a split, each with examples whose longest sides have similar lengths."""
    found = sides(model, split)
    return Order(len(split), batch_size, epochs, seed, start, np.searchsorted(found.tokens.buckets, found.lengths))


def batches(
    model: Model, split: Split, order: Order, augment: Augment | None = None, seed: int = 0, view: int | None = None
) -> tf.data.Dataset:
    """Yields batches of (model inputs by name, int32 [sides * B, bucket length]; indices into the split, int64 [B]).

    A text of a group has another text with its label as its second side. In a shuffled order, `seed` and the batch
    number determine it, so that a batch is the same whenever it is made; otherwise it is always the same text.

    Args:
        augment, view: for tasks that augment their examples; texts never change.
    """
    found = sides(model, split)

    def cut() -> Any:
        for number, examples in enumerate(order, order.start):
            index = found.index[examples]  # [B, sides]
            if found.peers:
                drawn = None if order.seed is None else (*order.seed, seed, number)
                index = np.concatenate([index, found.index[found.partners(examples, drawn)]], axis=1)
            yield rows(found.tokens, index.T.reshape(-1)), examples

    return fed(found.tokens, cut)


def example(model: Model, split: Split, batch_size: int) -> dict[str, tf.Tensor]:
    """Returns the model inputs of the longest texts: the largest batch."""
    found = sides(model, split)
    longest = np.argsort(-found.lengths, kind="stable")[:batch_size]
    index = found.index[longest]
    if found.peers:
        index = np.concatenate([index, index], axis=1)
    return {name: tf.constant(row) for name, row in rows(found.tokens, index.T.reshape(-1)).items()}


# --- scoring --------------------------------------------------------------------------------------------------


def scores(
    target: str, model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Vectors:
    """Returns the vectors of a whole split: float32 [n, sides, D], in its order. Computes each distinct text once.

    Calls `each(n)` when about the first n examples are done.
    """
    found = sides(model, split)
    vectors = _vectors(model, found.tokens, batch_size, lambda n: each(n * len(split) // len(found.tokens.lengths)))
    return vectors[found.index]


def embed(model: Model, texts: Sequence[str], batch_size: int = 32) -> Vectors:
    """Returns the vectors of texts: float32 [n, D]."""
    return _vectors(model, tokenised(model.preprocessor, [[text] for text in texts]), batch_size)


def _vectors(model: Model, tokens: Tokens, batch_size: int, each: Callable[[int], None] = lambda n: None) -> Vectors:
    forward = tf.function(
        lambda x: tf.cast(model(x, training=False), tf.float32),
        input_signature=[{name: tf.TensorSpec([None, None], tf.int32) for name in tokens.rows.names}],
    )
    found = np.empty((len(tokens.lengths), model.output_shape[-1]), np.float32)
    done = 0
    for index in Order(len(found), batch_size, groups=tokens.groups):
        found[index] = forward(rows(tokens, index)).numpy()
        each(done := done + len(index))
    return found


# --- what the device sees -------------------------------------------------------------------------------------


def device_function(model: Model) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns the function from token ids, int32 [B, L] each (`input_names`), to {"embeddings": float32 [B, D]}."""
    names = input_names(model)

    def device(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = model(dict(zip(names, tensors, strict=True)), training=False)
        return {"embeddings": tf.cast(vectors, tf.float32, name="embeddings")}

    return device


def signatures(recipe: TextEmbedding, model: Model) -> dict[str, Signature]:
    """Returns the signatures, as in text_classification, for one text whatever the training data."""
    return signed(device_function(model), model, ("texts",))


def inputs(model: Model, examples: Sequence[Any]) -> list[dict[str, Ints]]:
    """Returns the first text of each example as inputs of an exported model: int32 [L] by name."""
    return text_models.inputs(model, [example[:1] for example in examples])


def reference(recipe: TextEmbedding, model: Model, examples: Sequence[Any]) -> Vectors:
    """Returns the Keras model's own vectors, outside any graph, of each example's first text: float32 [n, D]."""
    said = [model({name: row[None] for name, row in x.items()}, training=False) for x in inputs(model, examples)]
    return np.concatenate([np.asarray(vector, np.float32) for vector in said])


def _batches(
    recipe: TextEmbedding, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    return with_truth(batches(model, split, order, seed=changes.seed if changes else 0), targets)


TASK: Task[TextEmbedding] = Task(
    building=Building(
        build=lambda recipe, preset, splits, precision: build(recipe, preset, len(splits.labels), precision),
        prepare=lambda recipe, model, splits: None,
        describe=lambda recipe, model, splits: describe(model, splits),
        load=lambda folder, recipe, precision: load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=lambda model, inputs: None,  # vectors already differ
        largest_product=text_models.largest_product,
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model),
        shapes="bucketed",
    ),
    learning=Learning(
        joint=lambda recipe: "its loss compares each text with all others of the batch",
        targets=targets,
        loss=lambda recipe: loss(recipe.data.target),
        meter=lambda recipe: metric(recipe.data.target),
        validated=lambda recipe, truths, outputs: validated(recipe.data.target, truths, outputs),
        starts=True,
        sampled=losses.no_samples,
        samples=losses.no_answers,
    ),
    predict=lambda recipe, model, split, batch_size, told: {
        "embeddings": scores(recipe.data.target, model, split, batch_size, told)
    },
    answer=lambda recipe, model, examples, options: {"embeddings": embed(model, [str(text) for (text,) in examples])},
    signatures=signatures,
    trace=lambda recipe, model, work, wanted: text_models.trace(model, work, 1),
    reference=lambda recipe, model, examples: {"embeddings": reference(recipe, model, examples)},
)

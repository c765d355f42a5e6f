"""The contract of a task: everything that training, exporting, verifying, reporting and asking need of it.

A task is one folder of kerastune/tasks and one row of `TASKS`. Its `settings.py` says what a recipe may ask for, and
imports no TensorFlow; its `task.py` holds `TASK`, a `Task` of typed functions. Two things are shared by tasks and have
contracts of their own: what an example *is* (`kerastune.modalities`), and what is *learnt* about it
(`kerastune.tasks.learnt`).

Every function gets the recipe. A model is a Keras model with a `backbone` and, where KerasHub prepares its inputs, a
`preprocessor`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from kerastune.data import Order, Split, Splits
from kerastune.formats.graphs import Signature
from kerastune.modalities import Example, Modality
from kerastune.recipe import Recipe
from kerastune.tasks.learnt.contract import Learnt, Predictions

R = TypeVar("R", bound=Recipe)
Model: TypeAlias = Any  # Keras and KerasHub have no types
Tensors: TypeAlias = Any  # a tensor, or tensors in dicts, tuples and lists
Dataset: TypeAlias = Any  # a tf.data.Dataset
Ints = npt.NDArray[np.int64]
Record = dict[str, Any]


@dataclass(frozen=True)
class Building(Generic[R]):
    """The model.

    Attributes:
        build: (recipe, preset, number of outputs, dtype policy) -> the pretrained model with a head for the task.
            Raises AssetError for presets that cannot be reached, RecipeError for those that do not fit.
        prepare: starts a new head from the training data, where that helps.
        describe: what run.json says of inputs and outputs: sizes, lengths, how much was cut off.
        load: (run folder, recipe, dtype policy) -> the tuned model.
        write_beside: writes what the preset format does not hold into the run folder.
        vary: (model, a batch of inputs) draws the head of an untrained model, so that its outputs differ from example
            to example as a trained one's do.
        largest_product: the weight whose matrix product tells how fast the model is in another precision, or None
            where none does.
    """

    build: Callable[[R, str, int, str], Model]
    prepare: Callable[[R, Model, Splits], None]
    describe: Callable[[R, Model, Splits], Record]
    load: Callable[[str, R, str], Model]
    write_beside: Callable[[Model, Path], None]
    vary: Callable[[Model, Tensors], None]
    largest_product: Callable[[Model], Any]


@dataclass(frozen=True)
class Targets:
    """What outputs are compared with, in the order of a split.

    Attributes:
        truth: arrays or `tf.RaggedTensor`s in any structure, each with one row an example.
        weights: of each example in the loss, float32 [n].
    """

    truth: Tensors
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Changes:
    """The random changes to training examples that a phase draws.

    Attributes:
        seed: all draws come from it and the number of the batch, so that a resumed run draws the same.
        view: draws those of this number instead of the batch's own, for a cache of augmented views.
    """

    seed: int
    view: int | None = None


@dataclass(frozen=True)
class Feeding(Generic[R]):
    """Examples as batches.

    Attributes:
        order: (recipe, model, split, batch size, epochs, seed, first batch) -> which examples make which batch.
        batches: (recipe, model, split, order, targets, changes) -> a dataset of (inputs, truth, weights float32 [B],
            indices into the split int64 [B]). Truth travels with its example: what moves an image moves its boxes.
        example: (recipe, model, split, batch size) -> the inputs of the largest batch there is.
        fingerprint: (recipe, model, changed) -> what decides which inputs the same data make, for keys of caches.
        shapes: "fixed" where all batches have one shape but for their size, "bucketed" where other axes vary.
    """

    order: Callable[[R, Model, Split, int, int, tuple[int, ...] | None, int], Order]
    batches: Callable[[R, Model, Split, Order, Targets, Changes | None], Dataset]
    example: Callable[[R, Model, Split, int], Tensors]
    fingerprint: Callable[[R, Model, bool], str]
    shapes: Literal["fixed", "bucketed"]


class Loss(Protocol):
    def __call__(self, truth: Tensors, outputs: Tensors, weights: Any) -> tuple[Any, Any]:
        """The sum of a batch's losses, and what it is a sum over, both float32 []."""


@dataclass(frozen=True)
class Learning(Generic[R]):
    """The loss, and the figures that are shown while it falls.

    Attributes:
        targets: (recipe, model, splits, split name, whether to train on them) -> what outputs are compared with.
            Label smoothing and class weights are for training alone.
        loss: the loss of a recipe.
        meter: a Keras metric, named as `Learnt.metric`; it is updated with (truth, outputs).
        validated: figures that only a whole split can give, from its truths and outputs, a batch each; or None where
            the meter's mean is right. They replace the meter's.
        starts: whether a pretrained model can do the task before it is tuned, so that its figures are worth recording.
        sampled: the conversations that the model is asked about before training and after each epoch; mostly none.
        samples: what it answers.
    """

    targets: Callable[[R, Model, Splits, str, bool], Targets]
    loss: Callable[[R], Loss]
    meter: Callable[[R], Any]
    validated: Callable[[R, Sequence[Any], Sequence[Any]], dict[str, float]] | None
    starts: bool
    sampled: Callable[[R, Splits], list[list[dict[str, str]]]]
    samples: Callable[[R, Model, Splits], list[str]]


class Told(Protocol):
    def __call__(self, done: int) -> None:
        """The first `done` examples of a split are scored."""


@dataclass(frozen=True)
class Output:
    """A named output of an exported model.

    Attributes:
        name: in every format.
        shape: None where it varies; the first axis is the batch.
        dtype: numpy's name.
        range: smallest and largest value, or None where there are no limits.
        meaning: for whoever writes a program around the file.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    meaning: str
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Questions:
    """Examples as a device is asked about them, and how its answers become predictions.

    Attributes:
        examples: one a question.
        place: which question's answer each example has, int64 [n] or, of examples with several sides, [n, sides].
    """

    examples: Sequence[Example]
    place: Ints


@dataclass(frozen=True)
class Form:
    """How a deployment asks for a model, decided before it is traced.

    Attributes:
        signature: the signature, or several joined by "+", that the file is made from.
        io: dtype of the file's inputs: "float32", "uint8" or "int8".
        calibration: stem of the file of examples that ranges are measured with.
        golden: stem of the file of examples that prove it.
        exact: whether what a device does before the model is exactly what training did.
        note: what people should know about it, or "".
    """

    signature: str
    io: str
    calibration: str
    golden: str
    exact: bool
    note: str = ""


@dataclass(frozen=True)
class Wanted:
    """A file that is asked for: format and quantisation, and what its place says of images."""

    format: str
    quantize: str
    images: Literal["any", "fixed"]
    io: str
    backbone: str


@dataclass(frozen=True)
class Device(Generic[R]):
    """The model as a device sees it: raw examples in, named outputs out, preprocessing inside the graph.

    Attributes:
        signatures: (recipe, model) -> what an exported model may answer to.
        serving: names of the signatures that TensorFlow Serving answers to.
        form: how a wanted file is made.
        refusal: (recipe, wanted) -> why the task has no such file, or None.
        golden: (recipe, splits) -> real examples that prove an artifact, large enough for the task, uncut by anything.
        calibration: (recipe, split, index) -> an example to measure ranges with.
        trace: (run folder, recipe, model, splits, work folder, forms) writes what devices need beside the graphs:
            tokenizers, settings, examples as inputs, and what Keras says besides its outputs.
        outputs: (recipe, model description of `trace`) -> the named outputs, as a manifest lists them.
        manifest: (recipe, wanted, form, work folder) -> the manifest's entries on inputs and preprocessing.
        questions: (recipe, split, indices) -> how examples are asked about, one by one.
        reference: (recipe, model, examples) -> what Keras itself says, outside any graph, one example at a time.
        unit: what a latency is the time of: "an image", "a token".
    """

    signatures: Callable[[R, Model], dict[str, Signature]]
    serving: tuple[str, ...]
    form: Callable[[R, Wanted], Form]
    refusal: Callable[[R, Wanted], str | None]
    golden: Callable[[R, Splits], list[Example]]
    calibration: Callable[[R, Split, int], Example]
    trace: Callable[[Path, R, Model, Splits, Path, Sequence[str]], None]
    outputs: Callable[[R, Path], tuple[Output, ...]]
    manifest: Callable[[R, Wanted, Form, Path], Record]
    questions: Callable[[R, Split, Sequence[int]], Questions]
    reference: Callable[[R, Model, Sequence[Example]], Predictions]
    unit: str


@dataclass(frozen=True)
class Task(Generic[R]):
    """A row of `kerastune.tasks.TASKS`.

    Attributes:
        recipe: the settings class.
        modality: what an example is.
        learnt: what a recipe wants learnt about it.
        predict: (recipe, model, split, batch size, told) -> the model's predictions on a whole split, in its order.
        answer: (recipe, model, examples, options) -> predictions about new examples, for `kerastune predict`.
    """

    recipe: type[R]
    modality: Modality
    learnt: Callable[[R], Learnt]
    building: Building[R]
    feeding: Feeding[R]
    learning: Learning[R]
    predict: Callable[[R, Model, Split, int, Told], Predictions]
    answer: Callable[[R, Model, Sequence[Example], Mapping[str, Any]], Predictions]
    device: Device[R]

"""The contract of a task: everything that training, exporting, verifying, reporting and predicting need from it.

A task is one folder of kerastune/tasks and one row of `TASKS`. The folder has three modules:

- settings.py: the settings of a recipe (`RECIPE`), without TensorFlow.
- device.py: the model seen from outside (`DEVICE`): examples in, named outputs out. Without TensorFlow.
- task.py: the model itself (`TASK`): building, feeding, training, tracing. Imports TensorFlow.

Tasks share two other contracts: what an example *is* (`kerastune.modalities`), and what is *learnt* about it
(`kerastune.tasks.learnt`). Every function gets the recipe. A model is a Keras model with a `backbone` and, if KerasHub
prepares its inputs, a `preprocessor`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from kerastune.data import Order, Split, Splits
from kerastune.formats.graphs import Signature
from kerastune.modalities import Example, Modality
from kerastune.progress import Progress
from kerastune.recipe import Recipe
from kerastune.records import Decision
from kerastune.tasks.learnt.contract import ROUNDING, Learnt, Predictions

R = TypeVar("R", bound=Recipe)
Model: TypeAlias = Any  # Keras and KerasHub have no types
Tensors: TypeAlias = Any  # a tensor, or tensors in dicts, tuples and lists
Dataset: TypeAlias = Any  # a tf.data.Dataset
Ints = npt.NDArray[np.int64]
Record = dict[str, Any]


@dataclass(frozen=True)
class Building(Generic[R]):
    """How to build and load the model.

    Attributes:
        build: (recipe, preset, splits, dtype policy) -> the pretrained model with a head for the task.
            Raises AssetError for unreachable presets, RecipeError for unsuitable ones, DataError for unsuitable data.
        prepare: initialises a new head from the training data, where that helps.
        describe: returns facts about inputs and outputs for run.json: sizes, lengths, how much was truncated. Sentences
            under "warnings" are shown.
        load: (run folder, recipe, dtype policy) -> the tuned model.
        write_beside: writes into the run folder what the preset format cannot hold.
        vary: (model, a batch of inputs) draws the head of an untrained model at random, so that its outputs vary
            between examples as a trained model's do.
        largest_product: returns the weight whose matrix product predicts the speed in another precision, or None.
        settled: (recipe, model, splits) -> the recipe with what it leaves to the day of training written out, the model
            for it, and the decisions that this took.
    """

    build: Callable[[R, str, Splits, str], Model]
    prepare: Callable[[R, Model, Splits], None]
    describe: Callable[[R, Model, Splits], Record]
    load: Callable[[str, R, str], Model]
    write_beside: Callable[[Model, Path], None]
    vary: Callable[[Model, Tensors], None]
    largest_product: Callable[[Model], Any]
    settled: Callable[[R, Model, Splits], tuple[R, Model, Sequence[Decision]]] = lambda recipe, model, splits: (
        recipe,
        model,
        (),
    )


@dataclass(frozen=True)
class Targets:
    """Training targets of a split, in its order.

    Attributes:
        truth: arrays or `tf.RaggedTensor`s in any structure, each with one row per example.
        weights: weight of each example in the loss, float32 [n].
    """

    truth: Tensors
    weights: npt.NDArray[np.float32]

    def rows(self, indices: npt.NDArray[np.int64]) -> tuple[Tensors, npt.NDArray[np.float32]]:
        """Returns the truth and the weights of some examples."""
        from keras import tree

        return tree.map_structure(lambda rows: rows[indices], self.truth), self.weights[indices]


@dataclass(frozen=True)
class Changes:
    """Random changes to training examples in a phase.

    Attributes:
        seed: determines all draws, together with the epoch and the example, so that a resumed run draws the same.
        view: a number to draw with instead of the epoch, for a cache of augmented views.
    """

    seed: int
    view: int | None = None


@dataclass(frozen=True)
class Feeding(Generic[R]):
    """How examples become batches.

    Attributes:
        order: (recipe, model, split, batch size, epochs, seed, first batch) -> the examples of each batch.
        batches: (recipe, model, split, order, targets, changes) -> a dataset of (inputs, truth, weights float32 [B],
            indices into the split int64 [B]). Truth travels with its example: moving an image moves its boxes.
        example: (recipe, model, split, batch size) -> the inputs of the largest batch.
        fingerprint: (recipe, model, changed) -> everything that determines the inputs made from given data, for cache
            keys.
        shapes: "fixed" if batches differ only in size, "bucketed" if other axes vary.
        decoded: (recipe, model, split, order) -> a dataset of (examples as `batches` has them before random changes,
            indices into the split int64 [B]), of one shape. They can be kept: `batches` takes them from `Split.kept`
            where that is set, with the same result. None where reading costs little.
        parts: recipe -> whether `batches` makes a part of a batch (`Order.part`) as it is in the whole.
    """

    order: Callable[[R, Model, Split, int, int, tuple[int, ...] | None, int], Order]
    batches: Callable[[R, Model, Split, Order, Targets, Changes | None], Dataset]
    example: Callable[[R, Model, Split, int], Tensors]
    fingerprint: Callable[[R, Model, bool], str]
    shapes: Literal["fixed", "bucketed"]
    decoded: Callable[[R, Model, Split, Order], Dataset] | None = None
    parts: Callable[[R], bool] = lambda recipe: False


class Loss(Protocol):
    def __call__(self, truth: Tensors, outputs: Tensors, weights: Any) -> tuple[Any, Any]:
        """Returns the sum of a batch's losses and the number of summands, both float32 []."""


@dataclass(frozen=True)
class Learning(Generic[R]):
    """The loss, and the figures shown during training.

    Attributes:
        targets: (recipe, model, splits, split name, whether to train on them) -> training targets. Label smoothing and
            class weights apply only to training.
        loss: recipe -> its loss.
        meter: a Keras metric, updated with (truth, outputs). It is named as `Learnt.metric`, or otherwise if training
            shows a cheaper figure than validation.
        validated: computes figures that need a whole split, from its batches of truths and outputs; they replace the
            meter's. None if the meter's mean is correct.
        reduced: (recipe, outputs of a batch) -> what `validated` needs of them, if that is less.
        joint: recipe -> why a batch's loss is not the sum of its parts' losses, so that workers cannot share it, or "".
        decoded: (recipe, model, splits) -> figures of the validation split that take more than one pass, such as those
            of generated text. None if there are none.
        starts: whether a pretrained model can do the task before tuning, so that its figures are worth recording.
        sampled: returns the conversations to answer before training and after each epoch; usually none.
        samples: returns the model's answers to them.
        fit: (recipe, model, splits, progress) computes the head from the data without gradients, and returns its
            decisions. Such a task has one phase of one pass, and neither epochs nor a learning rate. None where
            gradients train.
    """

    targets: Callable[[R, Model, Splits, str, bool], Targets]
    loss: Callable[[R], Loss]
    meter: Callable[[R], Any]
    validated: Callable[[R, Sequence[Any], Sequence[Any]], dict[str, float]] | None
    starts: bool
    sampled: Callable[[R, Splits], list[list[dict[str, str]]]]
    samples: Callable[[R, Model, Splits], list[str]]
    fit: Callable[[R, Model, Splits, Progress], list[Decision]] | None = None
    reduced: Callable[[R, Tensors], Tensors] = lambda recipe, outputs: outputs
    joint: Callable[[R], str] = lambda recipe: ""
    decoded: Callable[[R, Model, Splits], dict[str, float]] | None = None


class Told(Protocol):
    def __call__(self, done: int) -> None:
        """Reports that the first `done` examples of a split are scored."""


@dataclass(frozen=True)
class Task(Generic[R]):
    """The model of a task.

    Attributes:
        predict: (recipe, model, split, batch size, told) -> predictions on a whole split, in its order.
        answer: (recipe, model, examples, options) -> predictions for new examples, for `kerastune predict`.
        signatures: (recipe, model) -> the signatures of an exported model.
        trace: (recipe, model, work folder, wanted "FORMAT/SIGNATURE"s) writes into the work folder what devices need
            besides the graphs: tokenizers, settings, examples as inputs, and Keras's answers other than its outputs.
        reference: (recipe, model, examples) -> Keras's own predictions, outside any graph, one example at a time.
        folder: (recipe, model, work folder, folder) writes the model in a format that is not a graph, if there is one.
        beside: (recipe, model, told of progress) -> metrics on other data than the recipe's, by name; usually none.
    """

    building: Building[R]
    feeding: Feeding[R]
    learning: Learning[R]
    predict: Callable[[R, Model, Split, int, Told], Predictions]
    answer: Callable[[R, Model, Sequence[Example], Mapping[str, Any]], Predictions]
    signatures: Callable[[R, Model], dict[str, Signature]]
    trace: Callable[[R, Model, Path, Sequence[str]], None]
    reference: Callable[[R, Model, Sequence[Example]], Predictions]
    folder: Callable[[R, Model, Path, Path], None] | None = None
    beside: Callable[[R, Model, Callable[[int, int], None]], dict[str, Record]] = lambda recipe, model, told: {}


# --- from outside --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """Questions for a device, and how its answers become predictions.

    Attributes:
        examples: one per question; large ones are made on demand.
        place: index of the question that answers each example, int64 [n], or [n, sides] for examples with several
            sides.
    """

    examples: Iterable[Example]
    place: Ints


@dataclass(frozen=True)
class Form:
    """How a deployment calls a model, decided before tracing.

    Attributes:
        signature: the signature of the file, or several joined by "+".
        io: dtype of the file's inputs: "float32", "uint8" or "int8".
        int8_io: dtype of the inputs and outputs of an int8 file.
        calibration: stem of the file of examples for measuring ranges.
        golden: stem of the file of examples that prove it.
        exact: whether the device's preprocessing is exactly that of training.
        note: a remark for users, or "".
        proved: names of the reference's outputs that the file gives through its reader; empty for all.
    """

    signature: str
    io: str = "float32"
    int8_io: str = "float32"
    calibration: str = "calibration"
    golden: str = "golden"
    exact: bool = True
    note: str = ""
    proved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """A requested file.

    Attributes:
        style: the content of its format: "serving" (several signatures, batches), "graph" (one signature, batches),
            "single" (one example at a time) or "folder" (written by `Task.folder`).
        quantize: one of `kerastune.formats.QUANTIZATIONS`.
        images: whether the target takes images of any size or of one.
        io: dtype of the target's images and, in int8 models, outputs: "uint8", "int8" or "float32".
        backbone: the class of the model's backbone.
    """

    style: Literal["serving", "graph", "single", "folder"]
    quantize: str
    images: Literal["any", "fixed"]
    io: str
    backbone: str


@dataclass(frozen=True)
class Device(Generic[R]):
    """A task as a device sees it: raw examples in, named outputs out, preprocessing inside the graph.

    Attributes:
        modality: the kind of example.
        learnt: recipe -> what is learnt about an example.
        form: (recipe, wanted) -> how to make the file.
        refusal: (recipe, wanted) -> why the task cannot make the file, or None.
        candidates: the quantisations that `auto` tries, from the smallest file to the most exact.
        golden: (recipe, splits) -> real examples that prove an artifact, large enough for the task.
        calibration: (recipe, split, index) -> an example for measuring ranges.
        audited: (recipe, splits) -> texts whose tokens on devices are compared with KerasHub's; usually none.
        manifest: (recipe, wanted, form, work folder) -> the manifest's `inputs`, `outputs` (name, shape, dtype, range
            and meaning of each), `signatures`, `preprocessing`, and `reading` for the modality's reader.
        questions: (recipe, split, indices) -> questions for a device about examples, one by one.
        sides: number of arguments of `kerastune predict` per example.
        serving: names of the signatures for TensorFlow Serving.
        pipeline_tag: Hugging Face's name of the task: "image-classification".
        unit: what a latency measures: "an image", "a token".
        rounding: the largest difference between two float32 runtimes, relative to the outputs' scale.
        window: recipe -> the length of the window that the model takes, if `kerastune predict` cuts longer examples
            into parts that have an answer each; else None.
        options: options of `kerastune predict` and their defaults; `Task.answer` gets them, and an artifact's reader
            gets them as --max-tokens and so on, but not what is off (False) or left to the model (None).
        mediapipe: recipe -> the outputs that a task of MediaPipe reads, as rows of `kerastune.formats.metadata.KINDS`,
            by name; a file with exactly these outputs gets their metadata.
        readers: files of export/ that ship with an artifact, in addition to the modality's.
    """

    modality: Modality
    learnt: Callable[[R], Learnt]
    form: Callable[[R, Wanted], Form]
    refusal: Callable[[R, Wanted], str | None]
    candidates: Callable[[Wanted], tuple[str, ...]]
    golden: Callable[[R, Splits], list[Example]]
    calibration: Callable[[R, Split, int], Example]
    audited: Callable[[R, Splits], list[list[str]]]
    manifest: Callable[[R, Wanted, Form, Path], Record]
    questions: Callable[[R, Split, Sequence[int]], Questions]
    sides: Callable[[R], int]
    serving: tuple[str, ...]
    pipeline_tag: str
    unit: str
    rounding: float = ROUNDING
    window: Callable[[R], int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    mediapipe: Callable[[R], Mapping[str, str]] = lambda recipe: {}
    readers: tuple[str, ...] = ()

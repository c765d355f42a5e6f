"""The contract of a task: everything that training, exporting, verifying, reporting and asking need of it.

A task is one folder of kerastune/tasks and one row of `TASKS`, with three modules:

- settings.py: what a recipe may ask for (`RECIPE`). Imports no TensorFlow.
- device.py: the model as seen from outside (`DEVICE`): examples in, named outputs out. Imports no TensorFlow.
- task.py: the model itself (`TASK`): built, fed, trained, traced. Imports TensorFlow.

Two things are shared by tasks and have contracts of their own: what an example *is* (`kerastune.modalities`), and what
is *learnt* about it (`kerastune.tasks.learnt`). Every function gets the recipe. A model is a Keras model with a
`backbone` and, where KerasHub prepares its inputs, a `preprocessor`.
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

    def rows(self, indices: npt.NDArray[np.int64]) -> tuple[Tensors, npt.NDArray[np.float32]]:
        """The truth and the weights of some examples."""
        from keras import tree

        return tree.map_structure(lambda rows: rows[indices], self.truth), self.weights[indices]


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
class Task(Generic[R]):
    """The model of a task.

    Attributes:
        predict: (recipe, model, split, batch size, told) -> predictions on a whole split, in its order.
        answer: (recipe, model, examples, options) -> predictions about new examples, for `kerastune predict`.
        signatures: (recipe, model) -> what an exported model may answer to.
        trace: (recipe, model, work folder, wanted "FORMAT/SIGNATURE"s) writes what devices need beside the graphs into
            the work folder: tokenizers, settings, examples as inputs, and what Keras says besides its outputs.
        reference: (recipe, model, examples) -> what Keras itself says, outside any graph, one example at a time.
        folder: (recipe, model, work folder, folder) writes the model in a format that is no graph, where there is one.
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


# --- from outside --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """Examples as a device is asked about them, and how its answers become predictions.

    Attributes:
        examples: one a question; made one by one as they are read, where they are large.
        place: which question's answer each example has, int64 [n] or, of examples with several sides, [n, sides].
    """

    examples: Iterable[Example]
    place: Ints


@dataclass(frozen=True)
class Form:
    """How a deployment asks for a model, decided before it is traced.

    Attributes:
        signature: the signature, or several joined by "+", that the file is made from.
        io: dtype of the file's inputs: "float32", "uint8" or "int8".
        int8_io: dtype that the converter gives to inputs and outputs of an int8 file.
        calibration: stem of the file of examples that ranges are measured with.
        golden: stem of the file of examples that prove it.
        exact: whether what a device does before the model is exactly what training did.
        note: what people should know about it, or "".
    """

    signature: str
    io: str = "float32"
    int8_io: str = "float32"
    calibration: str = "calibration"
    golden: str = "golden"
    exact: bool = True
    note: str = ""


@dataclass(frozen=True)
class Wanted:
    """A file that is asked for.

    Attributes:
        style: what its format holds: "serving" (several signatures, batches), "graph" (one signature, batches),
            "single" (one example at a time) or "folder" (what `Task.folder` writes).
        quantize: one of `kerastune.formats.QUANTIZATIONS`.
        images: whether its place takes images of any size or of one.
        io: how its place holds images and, in int8 models, outputs: "uint8", "int8" or "float32".
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
        modality: what an example is.
        learnt: what a recipe wants learnt about it.
        form: how a wanted file is made.
        refusal: why the task has no such file, or None.
        candidates: the quantisations that `auto` tries, from the smallest file to the most exact.
        golden: (recipe, splits) -> real examples that prove an artifact, large enough for the task.
        calibration: (recipe, split, index) -> an example to measure ranges with.
        audited: (recipe, splits) -> texts whose tokens on devices are compared with KerasHub's; mostly none.
        manifest: (recipe, wanted, form, work folder) -> the manifest's `inputs`, `outputs` (name, shape, dtype, range
            and meaning of each), `signatures`, `preprocessing`, and `reading`: what the
            modality's reader needs.
        questions: (recipe, split, indices) -> how a device is asked about examples, one by one.
        sides: how many arguments of `kerastune predict` one example takes.
        serving: names of the signatures that TensorFlow Serving answers to.
        unit: what a latency is the time of: "an image", "a token".
        options: what `kerastune predict` may be told besides examples, and the defaults; `Task.answer` gets them, and
            an artifact's reader as --max-tokens and so on.
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
    unit: str
    options: Mapping[str, Any] = field(default_factory=dict)

"""What kerastune uses of Keras and KerasHub that has no public name. tests/test_keras_private.py has a test for each.

Written for Keras 3.15 and KerasHub 0.32. Where a later version moves one of these, this is the module to mend.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
from keras.src.backend.common import global_state, masking
from keras.src.layers.layer import CallContext
from keras.src.models import functional
from keras.src.ops.core import ConvertToTensor as ConvertToTensor

Symbol = Any  # a keras.KerasTensor; Keras has no types
Node = Any  # one call of an operation: its arguments and outputs
Operation = Any  # a layer, or an operation of keras.ops


# --- layers ----------------------------------------------------------------------------------------------------


def layers(layer: keras.Layer, include_self: bool = True, recursive: bool = True) -> list[keras.Layer]:
    """A layer and all layers inside, at any depth, each once. Only models have a public `layers`, of one level."""
    found: list[keras.Layer] = layer._flatten_layers(include_self=include_self, recursive=recursive)
    return found


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly inside: of a functional model, those of its graph."""
    return list(getattr(layer, "layers", None) or layers(layer, include_self=False, recursive=False))


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """A layer's weights without those of the layers inside. The public `weights` holds both."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_parameters(layer: keras.Layer) -> list[keras.Variable]:
    """Those of a layer's own weights that were made to be trained, frozen or not: no moving statistics.

    The public `trainable_weights` leaves out those that are frozen now.
    """
    return list(layer._trainable_variables)


def random_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """The generators that a layer itself draws from. Their states are no weights, and have no public name."""
    return list(layer._seed_generators)


def kernel(layer: keras.Layer) -> keras.Variable:
    """The variable that an adapter of LoRA is added to. The public `kernel` or `embeddings` is the sum of both."""
    found: keras.Variable = layer._embeddings if isinstance(layer, keras.layers.Embedding) else layer._kernel
    return found


def remove_weight(layer: keras.Layer, name: str) -> None:
    """Takes a weight off a layer. Keras can add weights to a layer that is built, but not remove any."""
    layer._untrack_variable(getattr(layer, name))
    # Not `delattr`: Keras's collects garbage each time, a quarter of a second each.
    super(keras.Layer, layer).__delattr__(name)


# --- graphs ----------------------------------------------------------------------------------------------------


def is_functional(model: Any) -> bool:
    """Whether a model is a graph of layers. The class has no public name: `keras.Model(inputs, outputs)` makes one."""
    return isinstance(model, functional.Functional)


def runs_as_its_graph(model: Any) -> bool:
    """Whether a functional model's `call` does what its graph says. A class with one of its own may do more."""
    return is_functional(model) and type(model).call is functional.Functional.call


def graph_of(model: keras.Sequential) -> keras.Model:
    """The functional model that a built Sequential runs."""
    found: keras.Model = model._functional
    return found


def standardized(model: keras.Model, x: Any) -> list[Any]:
    """Inputs of a functional model as a flat list, converted as its call converts them."""
    found: list[Any] = model._standardize_inputs(x)
    return found


def input_structure(model: keras.Model) -> Any:
    """The inputs of a functional model in the dicts and lists that it is called with. `Model.inputs` is flat."""
    return model._inputs_struct


def output_structure(model: keras.Model) -> Any:
    """The outputs of a functional model as it returns them. `Model.outputs` is flat."""
    return model._outputs_struct


def made_by(symbol: Symbol) -> tuple[Operation, Node, int]:
    """The operation, and its call, that made a symbol, and which of its outputs it is.

    The operation and call of a symbol that nothing made are None. Publicly, a layer has one input and one output.
    """
    history = getattr(symbol, "_keras_history", None)
    if history is None or history.operation is None:
        return None, None, 0
    return history.operation, history.operation._inbound_nodes[history.node_index], history.tensor_index


@contextmanager
def without_new_calls(model: keras.Model) -> Iterator[None]:
    """Forgets the calls on symbols that are made inside the block: they leave nodes at every layer."""
    inner = layers(model)
    operations = [*inner, *(each for layer in inner if is_functional(layer) for each in layer.operations)]
    before = [(each, len(each._inbound_nodes), len(each._outbound_nodes)) for each in operations]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            del operation._inbound_nodes[inbound:]
            del operation._outbound_nodes[outbound:]


# --- calls -----------------------------------------------------------------------------------------------------


def mask_of(x: Any) -> Any:
    """The mask that Keras hands on beside a tensor or symbol, or None."""
    return masking.get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Gives a tensor the mask that a layer would find beside it."""
    masking.set_keras_mask(x, mask)


def takes_training(layer: keras.Layer) -> bool:
    """Whether a layer's `call` has an argument `training`. A signature does not tell: Keras sees through wrappers."""
    return bool(layer._call_has_training_arg)


@contextmanager
def called_by(layer: keras.Layer, training: bool) -> Iterator[None]:
    """Does what `Layer.__call__` does around `call`: layers inside that are not told the mode look it up."""
    context = CallContext(entry_layer=layer)
    context.set_value("training", training)
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", None)


# --- optimizers ------------------------------------------------------------------------------------------------


class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Mixed into a Keras optimizer, gives public names to the parts of a step that a subclass may replace."""

    def key(self, variable: Any) -> Any:
        """Identifies a variable, Keras's or the TensorFlow variable inside, which `update_step` gets."""
        return self._var_key(variable)

    @property
    def batches(self) -> Any:
        """Batches whose gradients were given. The public `iterations` counts what was applied."""
        return self._iterations

    def index(self, variable: keras.Variable) -> int:
        """The place of a variable among those that the optimizer was built on."""
        return int(self._get_variable_index(variable))

    @property
    def variables_trained(self) -> list[keras.Variable]:
        """The variables that the optimizer was built on."""
        return list(self._trainable_variables)

    @property
    def moments(self) -> tuple[list[keras.Variable], list[keras.Variable]]:
        """Adam's running means of gradients and of their squares, in the order of `index`."""
        return self._momentums, self._velocities

    @property
    def moving_averages(self) -> list[keras.Variable]:
        """The averages of the weights, in the order of `index`; none without EMA."""
        return list(self._model_variables_moving_average) if self.use_ema else []

    @property
    def accumulators(self) -> list[keras.Variable]:
        """The sums of gradients that are not applied yet, in the order of `index`."""
        return list(self._accumulated_gradients)

    def decays(self, variable: keras.Variable) -> bool:
        """Whether weight decay is for this variable."""
        return bool(self._use_weight_decay(variable))

    def decay(self, variables: Sequence[keras.Variable]) -> None:
        """Applies weight decay; Keras's, unless replaced."""
        super()._apply_weight_decay(variables)

    def clip(self, gradients: Sequence[Any]) -> list[Any]:
        """Clips gradients; as Keras does, unless replaced."""
        return list(super()._clip_gradients(gradients))

    def move_averages(self) -> None:
        """Moves the averages of the weights; as Keras does, unless replaced."""
        super()._update_model_variables_moving_average(self._trainable_variables)

    def apply_all(self, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        """Changes the variables by their gradients: clipping, decay, then `update_step` for each."""
        gradients = self._clip_gradients(gradients)
        self._apply_weight_decay(variables)
        self._backend_update_step(gradients, variables, self.learning_rate)

    def accumulate_or_apply(self, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        """What a batch's gradients do; Keras's, unless replaced."""
        super()._backend_apply_gradients(gradients, variables)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        self.decay(variables)

    def _clip_gradients(self, grads: Sequence[Any]) -> Any:
        return self.clip(grads)

    def _update_model_variables_moving_average(self, _: Any) -> None:
        self.move_averages()

    def _backend_apply_gradients(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]) -> None:
        self.accumulate_or_apply(grads, trainable_variables)


# --- KerasHub --------------------------------------------------------------------------------------------------


def preset_file(preset: str, name: str) -> Path | None:
    """A file of a preset, downloaded if it must be; None where it has none. Publicly, presets are only loaded whole.

    Raises:
        ValueError: there is no such preset.
    """
    from keras_hub.src.utils.preset_utils import get_file

    try:
        return Path(get_file(preset, name))
    except FileNotFoundError:
        return None


def write_hugging_face(backbone: Any, folder: Path, head: bool) -> None:
    """Writes a backbone's weights and config as transformers reads them. The public export writes its head always.

    Args:
        head: write the language model's head beside the embedding; tied ones would be stored twice.
    """
    from keras_hub.src.utils.transformers.export import hf_exporter

    hf_exporter.export_backbone(backbone, str(folder), include_lm_head=head)


def caching(model: Any) -> Callable[[Any], Any]:
    """A function of token ids that gives a language model's hidden states and its cache of keys and values.

    Raises:
        AttributeError: the model keeps what it has read in another way.
    """
    found: Callable[[Any], Any] = model._build_cache
    return found


def split_in_graph(tokenizer: Any) -> None:
    """Lets a tokenizer split words by its graph only.

    KerasHub 0.32 splits as GPT-2 does in a tf.data pipeline, and as Llama 3 does when it is called directly.
    """
    tokenizer._allow_python_workflow = False


def special_tokens_given(tokenizer: Any) -> list[str]:
    """Special tokens that a WordPiece tokenizer was made with; `special_tokens` lists only its own."""
    return list(tokenizer._init_special_tokens or [])


def byte_pair_patterns() -> tuple[str, str, str]:
    """The white space that the byte-pair tokenizer marks, and its two expressions for words, in RE2's syntax."""
    from keras_hub.src.tokenizers import byte_pair_tokenizer as module

    return module.SPECIAL_WHITESPACES, module.SPLIT_PATTERN_1, module.SPLIT_PATTERN_2

"""Parts of Keras and KerasHub that kerastune uses and that have no public name, each tested in test_keras_private.py.

Written for Keras 3.15 and KerasHub 0.32. If a later version moves one of them, fix this module.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
from keras.src.backend.common import global_state, masking
from keras.src.backend.common.variables import AutocastScope
from keras.src.layers.layer import CallContext
from keras.src.models import functional
from keras.src.ops.core import ConvertToTensor as ConvertToTensor

Symbol = Any  # a keras.KerasTensor; Keras has no types
Node = Any  # one call of an operation: its arguments and outputs
Operation = Any  # a layer, or an operation of keras.ops


# --- layers ----------------------------------------------------------------------------------------------------


def layers(layer: keras.Layer, include_self: bool = True, recursive: bool = True) -> list[keras.Layer]:
    """Returns a layer and all layers inside, at any depth, each once.

    The public `layers` has one level, of models only.
    """
    found: list[keras.Layer] = layer._flatten_layers(include_self=include_self, recursive=recursive)
    return found


def children(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers directly inside; for a functional model, those of its graph."""
    return list(getattr(layer, "layers", None) or layers(layer, include_self=False, recursive=False))


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns a layer's weights without those of layers inside. The public `weights` holds both."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_parameters(layer: keras.Layer) -> list[keras.Variable]:
    """Returns a layer's own weights that can be trained, frozen or not; no moving statistics.

    The public `trainable_weights` omits frozen ones.
    """
    return list(layer._trainable_variables)


def random_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """Returns the generators that a layer draws from. Their states are not weights."""
    return list(layer._seed_generators)


def kernel(layer: keras.Layer) -> keras.Variable:
    """Returns the variable that a LoRA adapter is added to. The public `kernel` or `embeddings` is the sum."""
    found: keras.Variable = layer._embeddings if isinstance(layer, keras.layers.Embedding) else layer._kernel
    return found


def remove_weight(layer: keras.Layer, name: str) -> None:
    """Removes a weight from a layer. Publicly, Keras can only add weights to a built layer."""
    layer._untrack_variable(getattr(layer, name))
    # Not `delattr`: Keras's version collects garbage, a quarter of a second each time.
    super(keras.Layer, layer).__delattr__(name)


# --- graphs ----------------------------------------------------------------------------------------------------


def is_functional(model: Any) -> bool:
    """Returns whether a model is a graph of layers, like `keras.Model(inputs, outputs)`. The class is not public."""
    return isinstance(model, functional.Functional)


def runs_as_its_graph(model: Any) -> bool:
    """Returns whether a functional model's `call` runs its graph. A class with its own `call` may do more."""
    return is_functional(model) and type(model).call is functional.Functional.call


def graph_of(model: keras.Sequential) -> keras.Model:
    """Returns the functional model that a built Sequential runs."""
    found: keras.Model = model._functional
    return found


def standardized(model: keras.Model, x: Any) -> list[Any]:
    """Returns inputs of a functional model as a flat list, converted as its call does."""
    found: list[Any] = model._standardize_inputs(x)
    return found


def input_structure(model: keras.Model) -> Any:
    """Returns the inputs of a functional model in the structure that it is called with. `Model.inputs` is flat."""
    return model._inputs_struct


def output_structure(model: keras.Model) -> Any:
    """Returns the outputs of a functional model in the structure that it returns. `Model.outputs` is flat."""
    return model._outputs_struct


def made_by(symbol: Symbol) -> tuple[Operation, Node, int]:
    """Returns the operation and the call that made a symbol, and the symbol's index among the outputs.

    Operation and call are None for a symbol that nothing made. Publicly, a layer has one input and one output.
    """
    history = getattr(symbol, "_keras_history", None)
    if history is None or history.operation is None:
        return None, None, 0
    return history.operation, history.operation._inbound_nodes[history.node_index], history.tensor_index


@contextmanager
def without_new_calls(model: keras.Model) -> Iterator[None]:
    """Forgets calls on symbols made inside the block, which leave nodes at every layer."""
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
    """Returns the mask that Keras attaches to a tensor or symbol, or None."""
    return masking.get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Attaches a mask to a tensor, for the next layer."""
    masking.set_keras_mask(x, mask)


def takes_training(layer: keras.Layer) -> bool:
    """Returns whether a layer's `call` takes `training`. A signature is not enough: Keras looks through wrappers."""
    return bool(layer._call_has_training_arg)


def autocast(model: keras.Model) -> AbstractContextManager[Any]:
    """Casts variables in the block as a call of the model does, inside which tied embeddings alone stay in float32."""
    return nullcontext() if model.compute_dtype == model.variable_dtype else AutocastScope(model.compute_dtype)


@contextmanager
def called_by(layer: keras.Layer, training: bool) -> Iterator[None]:
    """Sets the context that `Layer.__call__` sets around `call`, where inner layers look up the mode."""
    context = CallContext(entry_layer=layer)
    context.set_value("training", training)
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", None)


# --- optimizers ------------------------------------------------------------------------------------------------


class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Mixin for Keras optimizers with public names for the parts of a step that a subclass can replace."""

    def key(self, variable: Any) -> Any:
        """Returns the identity of a variable: Keras's, or the TensorFlow variable inside that `update_step` gets."""
        return self._var_key(variable)

    @property
    def batches(self) -> Any:
        """Number of batches whose gradients were given. The public `iterations` counts applied steps."""
        return self._iterations

    def index(self, variable: keras.Variable) -> int:
        """Returns the index of a variable among those that the optimizer was built with."""
        return int(self._get_variable_index(variable))

    @property
    def variables_trained(self) -> list[keras.Variable]:
        """The variables that the optimizer was built with."""
        return list(self._trainable_variables)

    @property
    def moments(self) -> tuple[list[keras.Variable], list[keras.Variable]]:
        """Adam's running means of gradients and of their squares, in the order of `index`."""
        return self._momentums, self._velocities

    @property
    def moving_averages(self) -> list[keras.Variable]:
        """The averages of the weights, in the order of `index`; empty without EMA."""
        return list(self._model_variables_moving_average) if self.use_ema else []

    @property
    def accumulators(self) -> list[keras.Variable]:
        """The sums of gradients not yet applied, in the order of `index`."""
        return list(self._accumulated_gradients)

    def decays(self, variable: keras.Variable) -> bool:
        """Returns whether weight decay applies to this variable."""
        return bool(self._use_weight_decay(variable))

    def decay(self, variables: Sequence[keras.Variable]) -> None:
        """Applies weight decay, as Keras does unless overridden."""
        super()._apply_weight_decay(variables)

    def clip(self, gradients: Sequence[Any]) -> list[Any]:
        """Clips gradients, as Keras does unless overridden."""
        return list(super()._clip_gradients(gradients))

    def move_averages(self) -> None:
        """Updates the averages of the weights, as Keras does unless overridden."""
        super()._update_model_variables_moving_average(self._trainable_variables)

    def apply_all(self, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        """Updates variables from their gradients: clips, decays, then calls `update_step` for each."""
        gradients = self._clip_gradients(gradients)
        self._apply_weight_decay(variables)
        self._backend_update_step(gradients, variables, self.learning_rate)

    def accumulate_or_apply(self, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        """Accumulates or applies a batch's gradients, as Keras does unless overridden."""
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
    """Returns a file of a preset, downloaded if necessary, or None. Publicly, presets load only as a whole.

    Raises:
        ValueError: there is no such preset.
    """
    from keras_hub.src.utils.preset_utils import get_file

    try:
        return Path(get_file(preset, name))
    except FileNotFoundError:
        return None


def write_hugging_face(backbone: Any, folder: Path, head: bool) -> None:
    """Writes a backbone's weights and config for transformers. The public export always writes the head.

    Args:
        head: write the language model's head as well; a tied head would be stored twice.
    """
    from keras_hub.src.utils.transformers.export import hf_exporter

    hf_exporter.export_backbone(backbone, str(folder), include_lm_head=head)


def caching(model: Any) -> Callable[[Any], Any]:
    """Returns a function from token ids to a language model's hidden states and its cache of keys and values.

    Raises:
        AttributeError: the model's cache works differently.
    """
    found: Callable[[Any], Any] = model._build_cache
    return found


def split_in_graph(tokenizer: Any) -> None:
    """Makes a tokenizer split words only with its graph.

    KerasHub 0.32 splits like GPT-2 in a tf.data pipeline, and like Llama 3 when called directly.
    """
    tokenizer._allow_python_workflow = False


def special_tokens_given(tokenizer: Any) -> list[str]:
    """Returns the special tokens that a WordPiece tokenizer was created with; `special_tokens` lists only its own."""
    return list(tokenizer._init_special_tokens or [])


def byte_pair_patterns() -> tuple[str, str, str]:
    """Returns the white space that the byte-pair tokenizer marks, and its two word patterns, in RE2's syntax."""
    from keras_hub.src.tokenizers import byte_pair_tokenizer as module

    return module.SPECIAL_WHITESPACES, module.SPLIT_PATTERN_1, module.SPLIT_PATTERN_2

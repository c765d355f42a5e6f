"""Keras and KerasHub still have what kerastune uses of them without a public name, a test each."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny
from keras import layers, ops

from kerastune import keras_private as private


def block() -> Any:
    """A layer with a layer inside, and a weight of its own."""

    class Block(layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="block")
            self.inner = layers.BatchNormalization(name="inner")
            self.scale = self.add_weight(name="scale", shape=())
            self.steps = self.add_weight(name="steps", shape=(), trainable=False)

        def call(self, x: Any) -> Any:
            return self.inner(x) * self.scale

    made = Block()
    made(np.ones((2, 3)))
    return made


def model(outputs: Any = None) -> Any:
    """A functional model of two inputs, with a block inside."""
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    return keras.Model({"x": x, "y": y}, {"sum": block()(x) + y} if outputs is None else outputs(x, y))


def named(found: Any) -> list[str]:
    return [each.name for each in found]


# --- layers --------------------------------------------------------------------------------------------------


def test_layers_are_found_at_any_depth() -> None:
    assert "inner" in named(private.layers(model()))
    assert named(private.layers(block())) == ["block", "inner"]
    assert named(private.layers(block(), include_self=False)) == ["inner"]
    assert "inner" not in named(private.layers(model(), recursive=False))


def test_children_are_the_layers_directly_inside() -> None:
    assert named(private.children(block())) == ["inner"]
    assert "block" in named(private.children(model())) and "inner" not in named(private.children(model()))


def test_own_weights_are_without_those_of_layers_inside() -> None:
    assert named(private.own_weights(block())) == ["scale", "steps"]
    assert named(private.own_weights(block().inner)) == ["gamma", "beta", "moving_mean", "moving_variance"]


def test_own_parameters_are_those_made_to_be_trained_frozen_or_not() -> None:
    made = block()
    made.trainable = False
    assert named(private.own_parameters(made)) == ["scale"]


def test_random_layers_have_generators_with_a_state() -> None:
    (generator,) = private.random_generators(layers.Dropout(0.5))
    assert generator.state.shape == (2,)
    assert private.random_generators(layers.Dense(1)) == []


@pytest.mark.parametrize("layer", [layers.Dense(2), layers.EinsumDense("ab,bc->ac", 2), layers.Embedding(4, 2)])
def test_the_kernel_is_the_variable_that_an_adapter_is_added_to(layer: Any) -> None:
    layer.build((None, 3))
    layer.enable_lora(1)
    b = layer.lora_embeddings_b if isinstance(layer, layers.Embedding) else layer.lora_kernel_b
    a = layer.lora_embeddings_a if isinstance(layer, layers.Embedding) else layer.lora_kernel_a
    b.assign(ops.ones_like(b))
    total = layer.embeddings if isinstance(layer, layers.Embedding) else layer.kernel
    np.testing.assert_allclose(total, private.kernel(layer) + a @ b, rtol=1e-6)


def test_a_weight_can_be_taken_off_a_layer_that_is_built() -> None:
    made = block()
    private.remove_weight(made, "scale")
    assert "scale" not in named(made.weights) and not hasattr(made, "scale")


# --- graphs --------------------------------------------------------------------------------------------------


def test_functional_models_are_told_from_others() -> None:
    class Other(keras.Model):
        pass

    assert private.is_functional(model())
    assert not private.is_functional(Other())
    assert not private.is_functional(layers.Dense(1))


def test_a_functional_model_with_a_call_of_its_own_is_more_than_its_graph() -> None:
    class Doubled(keras.Model):
        def __init__(self) -> None:
            x = keras.Input((3,))
            super().__init__(x, layers.Dense(1)(x))

        def call(self, x: Any) -> Any:
            return 2 * super().call(x)

    assert private.runs_as_its_graph(model())
    assert private.is_functional(Doubled()) and not private.runs_as_its_graph(Doubled())


def test_a_sequential_model_has_a_graph() -> None:
    made = keras.Sequential([keras.Input((3,)), layers.Dense(1, name="one")])
    assert "one" in named(private.graph_of(made).layers)
    assert private.is_functional(private.graph_of(made))


def test_inputs_are_flattened_in_the_models_order_and_converted() -> None:
    found = private.standardized(model(), {"y": np.ones((2, 3)), "x": np.zeros((2, 3))})
    assert [float(ops.max(x)) for x in found] == [0.0, 1.0]
    assert all(x.dtype == "float32" for x in found)


def test_inputs_and_outputs_keep_their_structure() -> None:
    made = model()
    assert {name: x.name for name, x in private.input_structure(made).items()} == {"x": "x", "y": "y"}
    assert list(private.output_structure(made)) == ["sum"]


def test_a_symbol_knows_the_call_that_made_it() -> None:
    x = keras.Input((4,))
    first, second = ops.split(x, 2, axis=1)
    for i, symbol in enumerate((first, second)):
        operation, call, index = private.made_by(symbol)
        assert (type(operation).__name__, index) == ("Split", i)
        assert call.input_tensors == [x] and call.outputs[i] is symbol
        assert call.arguments.args[0] is x and call.operation is operation
    assert private.made_by(keras.KerasTensor((None, 4)))[:2] == (None, None)


def test_calls_on_symbols_are_forgotten() -> None:
    made = model()
    layer = made.get_layer("block")
    before = len(layer._inbound_nodes)
    with private.without_new_calls(made):
        layer(keras.KerasTensor((None, 3)))
        assert len(layer._inbound_nodes) == before + 1
    assert len(layer._inbound_nodes) == before


def test_a_functional_model_receives_its_inputs_through_an_operation() -> None:
    made = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    (x,) = private.standardized(private.graph_of(made), keras.Input((3,), dtype="int32"))
    operation, _, _ = private.made_by(x)
    assert isinstance(operation, private.ConvertToTensor)


# --- calls ---------------------------------------------------------------------------------------------------


def test_masks_go_along_with_tensors() -> None:
    x = layers.Embedding(4, 2, mask_zero=True)(np.array([[1, 0]]))
    assert private.mask_of(x).numpy().tolist() == [[True, False]]
    other = ops.zeros((1, 2, 2))
    assert private.mask_of(other) is None
    private.set_mask(other, ops.convert_to_tensor([[False, True]]))
    assert private.mask_of(other).numpy().tolist() == [[False, True]]


def test_a_layer_says_whether_its_call_takes_the_mode() -> None:
    assert private.takes_training(layers.Dropout(0.5))
    assert not private.takes_training(layers.Flatten())


@pytest.mark.parametrize("training", [False, True])
def test_a_layer_inside_looks_the_mode_up(training: bool) -> None:
    drop = layers.Dropout(0.9)
    with private.called_by(layers.Layer(), training):
        dropped = drop(ops.ones((100,)))
    assert bool(ops.any(dropped == 0)) is training


# --- optimizers ----------------------------------------------------------------------------------------------


class Recorded(private.Optimizer, keras.optimizers.Adam):  # type: ignore[misc]
    """Adam that writes down which of its parts are asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(learning_rate=0.1, **settings)
        self.asked: list[str] = []

    def decay(self, variables: Any) -> None:
        self.asked.append("decay")
        super().decay(variables)

    def clip(self, gradients: Any) -> Any:
        self.asked.append("clip")
        return super().clip(gradients)

    def move_averages(self) -> None:
        self.asked.append("move_averages")
        super().move_averages()

    def accumulate_or_apply(self, gradients: Any, variables: Any) -> None:
        self.asked.append("accumulate_or_apply")
        super().accumulate_or_apply(gradients, variables)


def stepped(gradients: tuple[float, float], **settings: Any) -> tuple[Any, list[Any]]:
    variables = [keras.Variable([1.0], name="one"), keras.Variable([2.0], name="other")]
    made = Recorded(**settings)
    made.build(variables)
    made.apply([ops.convert_to_tensor([gradient]) for gradient in gradients], variables)
    return made, variables


def test_the_parts_of_a_step_can_be_replaced() -> None:
    made, _ = stepped((1.0, 1.0), use_ema=True, weight_decay=0.1, global_clipnorm=1.0)
    assert made.asked == ["accumulate_or_apply", "clip", "decay", "move_averages"]


def test_variables_are_known_by_their_place() -> None:
    made, variables = stepped((1.0, 1.0), use_ema=True)
    assert [made.index(each) for each in variables] == [0, 1]
    assert made.variables_trained == variables
    np.testing.assert_allclose([np.ravel(x) for x in made.moving_averages], [np.ravel(x) for x in variables])


def test_a_variable_and_the_tensorflow_variable_inside_have_one_key() -> None:
    made, (one, other) = stepped((1.0, 1.0))
    assert made.key(one) == made.key(one.value) != made.key(other)


def test_batches_are_counted_beside_what_is_applied() -> None:
    made, _ = stepped((1.0, 1.0), gradient_accumulation_steps=2)
    assert (int(made.batches), int(made.iterations)) == (1, 0)


def test_adam_keeps_two_moments_a_variable() -> None:
    made, _ = stepped((1.0, 0.0))
    means, squares = made.moments
    np.testing.assert_allclose([np.ravel(x)[0] for x in (*means, *squares)], [0.1, 0.0, 0.001, 0.0], rtol=1e-5)


def test_gradients_wait_in_accumulators() -> None:
    made, variables = stepped((3.0, 4.0), gradient_accumulation_steps=2)
    assert [float(x[0]) for x in made.accumulators] == [3.0, 4.0]
    assert [float(x[0]) for x in variables] == [1.0, 2.0]


def test_weight_decay_is_not_for_what_is_excluded() -> None:
    made, variables = stepped((1.0, 1.0), weight_decay=0.1)
    assert made.decays(variables[0])
    other = Recorded(weight_decay=0.1)
    other.build(variables)
    other.exclude_from_weight_decay(var_list=variables[:1])
    assert [other.decays(each) for each in variables] == [False, True]


def test_all_parts_of_a_step_are_one_call() -> None:
    made, variables = stepped((0.0, 0.0), global_clipnorm=1.0)
    made.apply_all([ops.convert_to_tensor([1.0]), ops.convert_to_tensor([1.0])], variables)
    assert all(float(x[0]) < start for x, start in zip(variables, (1.0, 2.0), strict=True))


# --- KerasHub ------------------------------------------------------------------------------------------------


def test_a_file_of_a_preset_is_found_or_is_none(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    assert private.preset_file(str(tmp_path), "there.json") == tmp_path / "there.json"
    assert private.preset_file(str(tmp_path), "missing.json") is None
    with pytest.raises(ValueError, match="Unknown preset identifier"):
        private.preset_file(str(tmp_path / "nowhere"), "there.json")


@pytest.mark.parametrize("head", [False, True])
def test_a_backbone_is_written_for_transformers_with_its_head_or_without(head: bool, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    private.write_hugging_face(tiny.causal_lm("Llama3").backbone, tmp_path, head)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert ("lm_head.weight" in safetensors.load_file(tmp_path / "model.safetensors")) is head


def test_a_language_model_has_a_cache_of_one_tensor() -> None:
    _, cache = private.caching(tiny.causal_lm("Qwen3"))(np.ones((1, 5), "int32"))
    assert cache.shape == (1, 2, 2, 5, 1, 16)  # batch, layers, keys and values, tokens, heads, numbers
    with pytest.raises(AttributeError):
        private.caching(tiny.text_classifier("Bert"))


def test_a_tokenizer_splits_in_its_graph_when_it_is_told_to() -> None:
    tokenizer = tiny.causal_lm("Llama3").preprocessor.tokenizer
    assert tokenizer._allow_python_workflow is True
    private.split_in_graph(tokenizer)
    assert tokenizer._allow_python_workflow is False
    assert np.asarray(tokenizer("a b")).tolist()


def test_a_tokenizer_tells_the_special_tokens_that_it_was_given() -> None:
    tokenizer = tiny.text_classifier("Bert").preprocessor.tokenizer
    given = type(tokenizer)(tokenizer.get_vocabulary(), lowercase=True, special_tokens=["[MASK]"])
    assert private.special_tokens_given(tokenizer) == []
    assert private.special_tokens_given(given) == ["[MASK]"]


def test_byte_pairs_are_split_by_two_expressions() -> None:
    spaces, words, last = private.byte_pair_patterns()
    assert "\u00a0" in spaces or "\\x{a0}" in spaces
    assert r"\p{L}" in words and last.endswith("$")

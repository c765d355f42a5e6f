"""Adapters on tiny real models: which layers get one, what trains, and that merging changes no prediction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from tiny import BACKBONES, classifier

from kerastune import weights
from kerastune.errors import RecipeError
from kerastune.recipe import Lora, Phase
from kerastune.records import Adapters, Audit, from_json, to_json
from kerastune.training import lora
from kerastune.training.freezing import freeze, frozen_hashes, prove_frozen
from kerastune.training.optimizers import averaged, of_phase
from kerastune.weights import restore, state

QUERIES = ("query", "value")


def text_classifier(seed: int = 0, num_classes: int = 2, policy: str = "float32") -> Any:
    """A new BERT for two labels, without a preprocessor."""
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(seed)
        backbone = BACKBONES["BERT"]()
    finally:
        keras.config.set_dtype_policy("float32")
    return keras_hub.models.BertTextClassifier(
        backbone, num_classes=num_classes, preprocessor=None, dtype=policy, dropout=0.0
    )


def tokens() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "token_ids": tf.constant(random.integers(1, 50, (6, 8))),
        "segment_ids": tf.zeros((6, 8), tf.int32),
        "padding_mask": tf.ones((6, 8), tf.int32),
    }


def images() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=(6, 32, 32, 3)), tf.float32)


def phase(unfreeze: str = "all", **settings: Any) -> Phase:
    return Phase(unfreeze=unfreeze, **{"learning_rate": 0.05, "optimizer": "sgd", **settings})


def lora_phase(unfreeze: str = "all", rank: int = 2, settings: dict[str, Any] | None = None, **of: Any) -> Phase:
    return phase(unfreeze, lora=Lora(rank=rank, **{"targets": QUERIES, **of}), **(settings or {}))


def train(task: Any, x: Any, of: Phase, steps: int = 3) -> Audit:
    """Real steps of a phase, with the proof; the audit."""
    audit = freeze(task, of)
    made, before = of_phase(of, task, steps), frozen_hashes(task)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = loss(np.array([0, 1] * 3), task(x, training=True))
        made.apply(tape.gradient(value, task.trainable_weights), task.trainable_weights)
    prove_frozen(before, frozen_hashes(task))
    return audit


def predict(task: Any, x: Any) -> bytes:
    return np.asarray(task(x, training=False), np.float32).tobytes()


def moved(task: Any, before: dict[str, Any]) -> set[str]:
    return {
        name for name, value in state(task).items() if name not in before or not np.array_equal(value, before[name])
    }


def kinds(names: set[str]) -> set[str]:
    """The names without numbers, and without all but the last two parts of the path: "a query/kernel"."""
    short = {
        (weights.key(name).lstrip("0123456789"), "/".join(name.partition(":")[2].split("/")[-2:])) for name in names
    }
    return {f"{letter} {path}".strip() for letter, path in short}


# --- who gets an adapter -----------------------------------------------------------------------------------


def test_in_the_unfrozen_units_the_targets_get_adapters_and_nothing_else_trains_but_the_head() -> None:
    task = text_classifier()
    audit = freeze(task, lora_phase("top:1", rank=3))
    assert [path.split("/")[-1] for path in audit.lora.layers] == ["query", "value"]
    assert audit.lora == Adapters(3, 3.0, False, audit.lora.layers, 2 * (8 * 2 * 3 + 3 * 4))
    count = {unit.name: unit.trainable_parameters for unit in audit.units}
    assert count == {
        "stem": 0,
        "transformer_layer_0": 0,
        "transformer_layer_1": 120,
        "pooled_dense": 0,
        "head": 8 * 2 + 2,
    }
    assert {w.name for w in task.backbone.trainable_weights} == {"lora_kernel_a", "lora_kernel_b"}
    assert from_json(Audit, json.loads(json.dumps(to_json(audit)))) == audit


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((r"^(query|value)(_dense)?$",), ["query", "value"]),  # the recipe's default
        (("attention_output$", "intermediate"), ["attention_output", "feedforward_intermediate_dense"]),
        (("self_attention",), ["attention_output", "key", "query", "value"]),  # a path finds all below it
        (("embedding",), ["token_embedding"]),
    ],
)
def test_targets_are_tried_on_names_and_paths(targets: tuple[str, ...], expected: list[str]) -> None:
    audit = freeze(text_classifier(), lora_phase(targets=targets))
    names = {path.split("/")[-1] for path in audit.lora.layers}
    assert {name for name in names if not name.startswith(("segment", "position"))} == set(expected)


@pytest.mark.parametrize(
    ("make", "unfreeze", "candidates"),
    [
        (text_classifier, "top:1", "query, key, value, attention_output, feedforward_intermediate_dense"),
        (lambda: classifier("ResNet"), "all", "conv1_conv, stack0_block0_1_conv … stack1_block0_2_conv."),
        (lambda: classifier("EfficientNet"), "match:top_bn", "none."),
    ],
)
def test_targets_that_match_no_layer_are_an_error_that_lists_what_can_be_adapted(
    make: Callable[[], Any], unfreeze: str, candidates: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        freeze(make(), lora_phase(unfreeze, targets=("^nothing$",)))
    assert "lora.targets = ['^nothing$'] matches no layer of the units that this phase" in caught.value.message
    assert candidates in caught.value.message
    assert "name and path" in str(caught.value.hint)


def test_names_that_differ_in_their_block_are_listed_once() -> None:
    with pytest.raises(RecipeError) as caught:
        freeze(text_classifier(), lora_phase(targets=("^nothing$",)))
    assert caught.value.message.count("attention_output") == 1


@pytest.mark.parametrize("bias", [False, True])
def test_biases_of_the_targeted_layers_train_only_on_request_and_kernels_never(bias: bool) -> None:
    task = text_classifier()
    before = state(task)
    train(task, tokens(), lora_phase(bias=bias))
    found = kinds(moved(task, before)) - {"logits/kernel", "logits/bias"}
    adapters = {"a query/kernel", "b query/kernel", "a value/kernel", "b value/kernel"}
    assert found == adapters | ({"query/bias", "value/bias"} if bias else set())


def test_convolutions_can_be_adapted() -> None:
    task = classifier("ResNet")
    before = state(task)
    audit = train(task, images(), lora_phase("top:1", targets=("_conv$",)))
    names = {f"stack1_block0_{i}_conv" for i in (0, 1, 2)}
    assert {path.split("/")[-1] for path in audit.lora.layers} == names
    assert {kind.split("/")[-1] for kind in kinds(moved(task, before))} == {"kernel", "bias"}
    assert all(kind[:2] in ("a ", "b ") or "predictions" in kind for kind in kinds(moved(task, before)))


def test_a_convolution_that_is_never_built_has_no_adapter() -> None:
    """EfficientNet's first block does not expand, and holds the convolution that would."""
    task = classifier("EfficientNet")
    audit = train(task, images(), lora_phase("all", targets=("conv",)))
    assert len(audit.lora.layers) > 2


def test_adapters_are_drawn_from_the_seed_and_stay_through_later_epochs() -> None:
    def drawn(seed: int) -> dict[str, Any]:
        task = text_classifier()
        keras.utils.set_random_seed(seed)
        freeze(task, lora_phase())
        return state(task)

    first, again, other = drawn(1), drawn(1), drawn(2)
    names = [name for name in first if weights.key(name).endswith("a")]
    assert names
    assert all(
        np.array_equal(first[name], again[name]) and not np.array_equal(first[name], other[name]) for name in names
    )
    task = text_classifier()
    train(task, tokens(), lora_phase())
    kept = state(task)
    freeze(task, lora_phase(), epoch=1)
    assert moved(task, kept) == set()


@pytest.mark.parametrize(
    ("then", "asked"),
    [
        (lora_phase(rank=3), "asks for rank 3 and alpha 3"),
        (lora_phase(alpha=8.0), "asks for rank 2 and alpha 8"),
        (lora_phase("top:1"), "asks for none"),
        (phase("all"), "asks for none"),
    ],
)
def test_other_adapters_have_to_be_merged_first(then: Phase, asked: str) -> None:
    task = text_classifier()
    freeze(task, lora_phase())
    with pytest.raises(RecipeError, match=f"has an adapter of rank 2 and alpha 2; the phase {asked}") as caught:
        freeze(task, then)
    assert "Merge the adapters first" in str(caught.value.hint)
    lora.merge(task)
    assert (freeze(task, then).lora is not None) == (then.lora is not None)


def test_averages_hold_for_adapters_too() -> None:
    task = text_classifier()
    of = lora_phase(settings={"ema": 0.9, "weight_decay": 0.1})
    freeze(task, of)
    made = of_phase(of, task, 2)
    for _ in range(2):
        made.apply([keras.ops.ones_like(w) for w in task.trainable_weights], task.trainable_weights)
    before = state(task)
    with averaged(made, task):
        assert kinds(moved(task, before)) >= {"a query/kernel", "b value/kernel", "logits/kernel"}
    assert moved(task, before) == set()


def test_weight_decay_is_for_kernels_and_adapters_of_them_and_not_for_embeddings_biases_and_norms() -> None:
    def decayed(of: Phase) -> set[str]:
        task = text_classifier()
        freeze(task, of)
        for weight in task.weights:
            weight.assign(keras.ops.ones_like(weight))
        before = state(task)
        made = of_phase(of, task, 1)
        made.apply([keras.ops.zeros_like(w) for w in task.trainable_weights], task.trainable_weights)
        return kinds(moved(task, before))

    assert decayed(lora_phase(bias=True, settings={"weight_decay": 0.1})) == {
        *("a query/kernel", "b query/kernel", "a value/kernel", "b value/kernel"),
        "logits/kernel",
    }
    assert all(kind.endswith("/kernel") for kind in decayed(phase("all", weight_decay=0.1)))
    embeddings = decayed(lora_phase(targets=("token_embedding$",), settings={"weight_decay": 0.1}))
    assert embeddings == {"logits/kernel"}


# --- merging -----------------------------------------------------------------------------------------------

MODELS = [(text_classifier, tokens, QUERIES), (text_classifier, tokens, ("token_embedding$", "dense$"))]
MODELS += [(lambda: classifier("ViT"), images, ("query", "value")), (lambda: classifier("ResNet"), images, ("_conv$",))]
IDS = ["BERT", "BERT-embedding", "ViT", "ResNet"]


@pytest.mark.parametrize(("make", "inputs", "targets"), MODELS, ids=IDS)
def test_a_merged_model_predicts_to_the_bit_what_it_did_and_has_no_trace_of_adapters(
    make: Any, inputs: Any, targets: tuple[str, ...]
) -> None:
    task, x = make(), inputs()
    n_weights, config = len(task.weights), json.dumps([layer.get_config() for layer in _adaptable(task)], default=str)
    train(task, x, lora_phase(targets=targets, alpha=3.0))
    eager, graph = predict(task, x), predict(tf.function(task), x)
    base = state(task)
    lora.merge(task)
    assert predict(task, x) == eager
    assert predict(tf.function(task), x) == graph
    assert {kind.split("/")[-1] for kind in kinds(moved(task, base))} <= {"kernel", "embeddings"}
    assert len(task.weights) == len(task.variables) - sum(len(m._seed_generators) for m in task._flatten_layers())
    assert len(task.weights) == n_weights
    assert json.dumps([layer.get_config() for layer in _adaptable(task)], default=str) == config
    assert not any(name.startswith("lora_kernel") for layer in _adaptable(task) for name in vars(layer))


def _adaptable(task: Any) -> list[Any]:
    return [layer for layer in task._flatten_layers() if hasattr(layer, "lora_enabled")]


def test_after_merging_kernels_train_and_adapters_can_be_put_on_anew() -> None:
    task = text_classifier()
    train(task, tokens(), lora_phase())
    lora.merge(task)
    before = state(task)
    train(task, tokens(), phase("all"))
    assert {"query/kernel", "value/kernel", "query/bias"} <= kinds(moved(task, before))
    before = state(task)
    train(task, tokens(), lora_phase(rank=4))
    assert {"a query/kernel", "b query/kernel"} <= kinds(moved(task, before))
    assert "query/kernel" not in kinds(moved(task, before))


def test_merging_adapters_that_have_not_trained_changes_no_bit_not_even_a_minus_zero() -> None:
    task = text_classifier()
    kernel = next(layer for layer in task._flatten_layers() if layer.name == "query")._kernel
    kernel.assign(-0.0 * np.ones(kernel.shape))
    before = [weight.numpy().tobytes() for weight in task.weights]
    freeze(task, lora_phase())
    lora.merge(task)
    assert [weight.numpy().tobytes() for weight in task.weights] == before


def test_a_merged_model_comes_back_from_its_preset_to_the_bit(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    kind = keras_hub.models.ViTImageClassifier
    converter = kind.preprocessor_cls.image_converter_cls(image_size=(32, 32))
    task = kind(BACKBONES["ViT"](), num_classes=2, preprocessor=kind.preprocessor_cls(converter))
    train(task, images(), lora_phase())
    lora.merge(task)
    task.save_to_preset(str(tmp_path))
    assert "lora" not in (tmp_path / "config.json").read_text() + (tmp_path / "task.json").read_text()
    again = kind.from_preset(str(tmp_path))
    assert predict(again, images()) == predict(task, images())
    assert freeze(again, phase("all")).trainable_parameters == task.count_params()


def test_in_mixed_precision_the_merged_kernel_is_the_unrounded_sum() -> None:
    task = text_classifier(policy="mixed_bfloat16")
    train(task, tokens(), lora_phase())
    layer = next(layer for layer in task._flatten_layers() if layer.name == "query")
    kernel, a, b = (np.asarray(part, np.float64) for part in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b))
    outputs = np.asarray(task(tokens()), np.float32)
    lora.merge(task)
    np.testing.assert_allclose(layer._kernel, kernel + a @ b, rtol=1e-6, atol=1e-8)
    assert not np.allclose(layer._kernel, (kernel + a @ b).astype(tf.bfloat16.as_numpy_dtype), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.asarray(task(tokens()), np.float32), outputs, atol=0.05)  # bfloat16 has 3 digits


# --- names and states --------------------------------------------------------------------------------------


def test_names_are_the_same_with_adapters_and_without_but_for_theirs() -> None:
    task = text_classifier()
    before = list(weights.named(task))
    assert len({weights.key(name) for name in before}) == len(task.weights)
    freeze(task, lora_phase())
    after = weights.named(task)
    assert [name for name in after if weights.key(name).isdigit()] == before
    assert len(after) == len(task.weights) == len(before) + 2 * 4
    assert kinds(set(after) - set(before)) == {f"{part} {of}/kernel" for part in "ab" for of in QUERIES}


def test_a_state_without_adapters_switches_them_off() -> None:
    task, x = text_classifier(), tokens()
    before, outputs = state(task), predict(task, x)
    train(task, x, lora_phase())
    assert predict(task, x) != outputs
    restore(task, before)
    assert predict(task, x) == outputs
    assert all(not value.any() for name, value in state(task).items() if weights.key(name).endswith("b"))


def test_a_state_with_adapters_puts_them_back_and_needs_them_there() -> None:
    task, x = text_classifier(), tokens()
    train(task, x, lora_phase())
    kept, outputs = state(task), predict(task, x)
    train(task, x, lora_phase())
    assert predict(task, x) != outputs
    restore(task, kept)
    assert predict(task, x) == outputs
    with pytest.raises(ValueError, match="weights that the model lacks"):
        restore(text_classifier(), kept)

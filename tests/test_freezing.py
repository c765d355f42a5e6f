"""What trains when, on tiny real models of many families; and the proof, which must be able to fail."""

import json
import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from fitting import fit, moved, phase, values
from tiny import backbone, classifier, examples

from kerastune.errors import RecipeError, VerificationError
from kerastune.records import Audit, Norms, Stage, from_json, to_json
from kerastune.training import lora
from kerastune.training.freezing import freeze, frozen_hashes, prove_frozen
from kerastune.training.optimizers import averaged, of_phase
from kerastune.training.units import stages, units

# --- freezing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfreeze", ["none", "head", "top:1", "match:block1a", "all"])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_the_audits_parameters_add_up(unfreeze: str, batch_norm: str) -> None:
    task = classifier("EfficientNet")
    audit = freeze(task, phase(unfreeze, batch_norm=batch_norm))
    assert audit.trainable_parameters + audit.frozen_parameters == task.count_params()
    assert sum(unit.parameters for unit in audit.units) == task.count_params()
    assert sum(unit.trainable_parameters for unit in audit.units) == audit.trainable_parameters
    assert audit.trainable_parameters == sum(math.prod(w.shape) for w in task.trainable_weights)
    assert audit.units[-1].name == "head"


@pytest.mark.parametrize(
    ("unfreeze", "training"),
    [
        ("none", ""),
        ("head", "head"),
        ("top:1", "block2b top_conv top_bn head"),
        ("match:block1a", "block1a head"),
        ("all", "stem block1a block2a block2b top_conv top_bn head"),
    ],
)
def test_exactly_the_named_units_and_the_head_train(unfreeze: str, training: str) -> None:
    audit = freeze(classifier("EfficientNet"), phase(unfreeze, batch_norm="train"))
    assert " ".join(unit.name for unit in audit.units if unit.trainable_parameters) == training


def test_the_audit_counts_who_is_in_inference_mode() -> None:
    task = classifier("EfficientNet")
    norms = [x for x in task.backbone._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    top = [norm for norm in norms if norm.name.startswith(("block2b", "top"))]
    audit = freeze(task, phase("top:1", batch_norm="train"))
    assert audit.batch_norm == Norms(len(norms) - len(top), len(top))
    assert freeze(task, phase("all")).batch_norm == Norms(len(norms), 0)


def test_frozen_batch_norm_keeps_its_statistics_in_a_real_fit_while_unfrozen_weights_move() -> None:
    task = classifier("EfficientNet")
    before = values(task)
    fit(task, phase("top:1"))
    changed = moved(task, before)
    assert "block2b_/block2b_expand_conv/kernel" in changed
    assert "top_conv/kernel" in changed
    assert "predictions/kernel" in changed
    assert not {path for path in changed if "_bn/" in path or "moving" in path}
    assert all(path.startswith(("block2b", "top_conv", "predictions")) for path in changed)


def test_batch_norm_that_trains_moves_its_statistics_and_only_where_it_is_unfrozen() -> None:
    task = classifier("EfficientNet")
    before = values(task)
    fit(task, phase("top:1", batch_norm="train"))
    statistics = {path for path in moved(task, before) if "moving" in path}
    assert {"top_bn/moving_mean", "top_bn/moving_variance"} <= statistics
    assert all(path.startswith(("block2b", "top_bn")) for path in statistics)


@pytest.mark.parametrize("family", ["EfficientNet", "MobileNet"])  # flat layers, and layers in layers
def test_batch_norm_that_was_frozen_in_one_phase_can_train_in_the_next(family: str) -> None:
    task, train = classifier(family), phase("top:1", batch_norm="train")
    freeze(task, phase("top:1"))
    assert freeze(task, train).batch_norm == freeze(classifier(family), train).batch_norm


def test_adapters_that_were_merged_leave_no_weight_frozen() -> None:
    task = classifier("ViT")
    everything = len(task.trainable_weights)
    freeze(task, phase("all", lora={"rank": 2, "targets": ["query"]}))
    lora.merge(task)
    freeze(task, phase("all"))
    assert len(task.trainable_weights) == everything


@pytest.mark.parametrize("family", ["EfficientNet", "ViT"])
def test_a_second_phase_trains_what_it_says_whatever_the_first_did(family: str) -> None:
    task = classifier(family)
    fit(task, phase("all"))
    middle = values(task)
    fit(task, phase("head"))
    assert moved(task, middle) == {"predictions/kernel", "predictions/bias"}
    middle = values(task)
    fit(task, phase("all"))
    assert {weight.path for weight in task.trainable_weights if "kernel" in weight.path} <= moved(task, middle)


def test_what_was_frozen_before_does_not_stay_so() -> None:
    task = classifier("EfficientNet")
    task.trainable = False
    freeze(task, phase("none"))
    audit = freeze(task, phase("all", batch_norm="train"))
    assert audit.batch_norm.inference == 0
    moving = sum(math.prod(w.shape) for w in task.weights if "moving" in w.path)
    assert audit.frozen_parameters == moving  # statistics are no parameters of the optimizer's


# --- gradual unfreezing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "epochs", "expected"),  # what starts to train in each epoch, the head aside
    [
        ("EfficientNet", 7, ["", "block2b top_conv top_bn", "block2a", "block1a", "stem"]),
        ("EfficientNet", 2, ["", "block2b top_conv top_bn"]),
        ("EfficientNet", 1, [""]),
        ("ResNet", 9, ["", "stack1_block0", "stack0_block1", "stack0_block0", "stem"]),
        ("ViT", 9, ["", "transformer_block_2 ln", "transformer_block_1", "stem"]),
        ("BERT", 9, ["", "transformer_layer_1 pooled_dense", "transformer_layer_0", "stem"]),
        ("GPT-2", 3, ["", "transformer_layer_1 layer_norm", "transformer_layer_0"]),
        ("VGG", 9, ["", "block2", "block1"]),  # has no stem
        (
            "Whisper",
            9,
            [
                "",
                "transformer_decoder_layer_1 decoder_layer_norm",
                "transformer_decoder_layer_0",
                "transformer_encoder_layer_1 encoder_layer_norm decoder_token_and_position_embedding",
                "transformer_encoder_layer_0",
                "stem",
            ],
        ),
    ],
)
def test_a_gradual_phase_unfreezes_one_more_block_an_epoch_from_the_top(
    family: str, epochs: int, expected: list[str]
) -> None:
    found = stages(phase("gradual", epochs), SimpleNamespace(backbone=backbone(family)))
    assert [stage.epoch for stage in found] == list(range(1, len(expected) + 1))
    before = [[], *(stage.units for stage in found)]
    news = [[u.name for u in stage.units if u not in old] for stage, old in zip(found, before, strict=False)]
    assert [" ".join(names) for names in news] == expected
    assert all(stage.units[len(stage.units) - len(old) :] == old for stage, old in zip(found, before, strict=False))


def test_the_audit_of_a_gradual_phase_lists_its_stages() -> None:
    task = classifier("EfficientNet")
    audit = freeze(task, phase("gradual", 9, batch_norm="train"))
    count = {unit.name: unit.trainable_parameters for unit in audit.units}
    assert audit.stages == (
        Stage(1, ("head",), count["head"]),
        Stage(2, top := ("block2b", "top_conv", "top_bn", "head"), sum(count[name] for name in top)),
        Stage(3, ("block2a", *top), sum(count.values()) - count["stem"] - count["block1a"]),
        Stage(4, ("block1a", "block2a", *top), sum(count.values()) - count["stem"]),
        Stage(5, tuple(count), audit.trainable_parameters),
    )
    assert all(count.values())
    assert from_json(Audit, json.loads(json.dumps(to_json(audit)))) == audit
    assert not freeze(task, phase("all")).stages


def test_in_each_epoch_exactly_its_stage_trains_and_the_proof_holds() -> None:
    task = classifier("ViT")
    gradual = phase("gradual", 5, optimizer="sgd", ema=0.9, clip_norm=1.0)
    freeze(task, gradual)
    made = of_phase(gradual, task, steps=10)  # one for all epochs
    everything = [weight.path for weight in task.trainable_variables]
    trained = []
    for epoch in range(1, 6):
        audit = freeze(task, gradual, epoch)
        before, proof = values(task), frozen_hashes(task)
        made.apply([keras.ops.ones_like(w) for w in task.trainable_variables], task.trainable_variables)
        prove_frozen(proof, frozen_hashes(task))
        assert moved(task, before) == {w.path for w in task.trainable_variables}
        with averaged(made, task):
            prove_frozen(proof, frozen_hashes(task))
        trained.append(sum(unit.trainable_parameters > 0 for unit in audit.units))
    assert trained == [1, 3, 4, 5, 5]
    assert [w.path for w in task.trainable_variables] == everything


# --- learning rates ----------------------------------------------------------------------------------------


def peaks(family: str, unfreeze: str, **settings: Any) -> dict[str, float]:
    """The audit's learning rates, of units that train."""
    audit = freeze(classifier(family), phase(unfreeze, batch_norm="train", **settings))
    assert all((unit.learning_rate is None) == (unit.trainable_parameters == 0) for unit in audit.units)
    return {unit.name: unit.learning_rate for unit in audit.units if unit.learning_rate is not None}


def test_layer_decay_takes_one_more_power_a_block() -> None:
    found = peaks("EfficientNet", "all", learning_rate=0.8, layer_decay=0.5)
    assert found == {
        "stem": 0.05,
        "block1a": 0.1,
        "block2a": 0.2,
        "block2b": 0.4,
        "top_conv": 0.4,
        "top_bn": 0.4,
        "head": 0.8,
    }
    assert peaks("ViT", "top:1", learning_rate=0.8, layer_decay=0.5) == {
        "transformer_block_2": 0.4,
        "ln": 0.4,
        "head": 0.8,
    }


def test_learning_rates_are_those_of_the_first_expression_that_finds_a_unit() -> None:
    own = {"^block2b$": 0.5, "block2|block1a_se_reduce": 0.25}
    found = peaks("EfficientNet", "all", learning_rate=0.1, learning_rates=own)
    assert found == {
        "stem": 0.1,
        "block1a": 0.25,
        "block2a": 0.25,
        "block2b": 0.5,
        "top_conv": 0.1,
        "top_bn": 0.1,
        "head": 0.1,
    }


@pytest.mark.parametrize(
    ("unfreeze", "own", "problem"),
    [
        ("all", {"block9": 0.1}, "'block9' matches no unit. The phase trains: stem, block1a, block2a"),
        ("all", {"head": 0.1}, "'head' matches no unit."),
        (
            "top:1",
            {"block1a|stem": 0.1},
            "matches only frozen units: stem, block1a. The phase trains: block2b, top_conv",
        ),
        ("head", {"block1a": 0.1}, "matches only frozen units: block1a. The phase trains: no unit of the backbone."),
        ("gradual", {"stem": 0.1}, "matches only frozen units: stem."),
        ("all", {"block2": 0.1, "block2b": 0.2}, "'block2b' matches only units of an earlier expression."),
    ],
)
def test_a_learning_rate_for_no_one_is_an_error(unfreeze: str, own: dict[str, float], problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        freeze(classifier("EfficientNet"), phase(unfreeze, learning_rates=own))
    assert problem in caught.value.message
    assert caught.value.hint == "The head has the phase's learning_rate."


@pytest.mark.parametrize(("decay", "ratio"), [(0.5, 0.5), (1.0, 1.0)])
def test_layer_decay_changes_the_steps_of_a_real_model_by_its_powers(decay: float, ratio: float) -> None:
    task = classifier("ViT")
    everything = phase("all", optimizer="sgd", learning_rate=0.1, layer_decay=decay)
    freeze(task, everything)
    made = of_phase(everything, task, steps=1)
    for weight in task.weights:
        weight.assign(keras.ops.zeros_like(weight))  # so that the step is the weight, without rounding
    made.apply([keras.ops.ones_like(w) for w in task.trainable_variables], task.trainable_variables)
    steps = {u.name: np.unique(np.concatenate([w.numpy().ravel() for w in u.weights])) for u in units(task.backbone)}
    powers = {"stem": 3, "transformer_block_1": 2, "transformer_block_2": 1, "ln": 1}
    head = task.get_layer("predictions").kernel.numpy()[0, 0]
    assert head == pytest.approx(-0.19, rel=1e-6)  # Nesterov's first step is 1.9 times the rate
    assert {name: values.tolist() for name, values in steps.items()} == {
        name: [pytest.approx(head * ratio**power, rel=1e-6)] for name, power in powers.items()
    }


def test_the_audit_says_what_else_was_set_and_only_that() -> None:
    task = classifier("ViT")
    plain = freeze(task, phase("all"))
    assert not {"ema", "clip_norm", "gradient_accumulation", "lora", "stages"} & to_json(plain).keys()
    audit = freeze(task, phase("all", ema=0.9, clip_norm=1.0, gradient_accumulation=4))
    assert (audit.ema, audit.clip_norm, audit.gradient_accumulation) == (0.9, 1.0, 4)


# --- the proof ---------------------------------------------------------------------------------------------


def test_the_proof_passes_after_a_real_fit_and_fails_when_a_frozen_weight_moves_by_a_millionth() -> None:
    task = classifier("EfficientNet")
    assert len(fit(task, phase("top:1"))) == 64
    before = frozen_hashes(task)
    assert prove_frozen(before, frozen_hashes(task)) == prove_frozen(before, dict(before))
    weight = next(w for w in task.backbone.weights if w.path == "block1a_project/kernel")
    weight.assign(weight + 1e-6)
    with pytest.raises(VerificationError, match="1 frozen weights changed during the phase: block1a_project/kernel"):
        prove_frozen(before, frozen_hashes(task))


def test_the_proof_fails_when_a_statistic_of_a_frozen_batch_norm_moves() -> None:
    task = classifier("EfficientNet")
    freeze(task, phase("all"))
    before = frozen_hashes(task)
    task.backbone.get_layer("top_bn").moving_mean.assign_add(1e-6 * np.ones(task.backbone.output_shape[-1]))
    with pytest.raises(VerificationError, match="top_bn/moving_mean"):
        prove_frozen(before, frozen_hashes(task))


def test_the_proof_catches_keras_training_what_an_older_compile_saw() -> None:
    task = classifier("EfficientNet")
    fit(task, phase("all"))
    freeze(task, phase("head"))  # without the compile that has to follow
    before = frozen_hashes(task)
    task.fit(examples(), shuffle=False, verbose=0)
    with pytest.raises(VerificationError, match="frozen weights changed"):
        prove_frozen(before, frozen_hashes(task))


def test_the_proof_fails_when_a_weight_is_not_there_any_more() -> None:
    task = classifier("ViT")
    freeze(task, phase("head"))
    before = frozen_hashes(task)
    freeze(task, phase("all"))
    with pytest.raises(VerificationError):
        prove_frozen(before, frozen_hashes(task))


def test_with_everything_unfrozen_there_is_nothing_to_prove_and_with_none_everything() -> None:
    task = classifier("ViT")
    freeze(task, phase("all"))
    assert frozen_hashes(task) == {}
    freeze(task, phase("none"))
    assert len(frozen_hashes(task)) == len(task.weights)

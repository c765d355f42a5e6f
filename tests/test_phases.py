"""Who is trainable when, on tiny real models of many families; and the proof, which must be able to fail."""

import json
import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import BACKBONES, backbone, classifier, examples

from kerastune.errors import RecipeError, VerificationError
from kerastune.recipe import Phase
from kerastune.training import lora, phases
from kerastune.training.optimizers import Schedule
from kerastune.training.phases import (
    averaged,
    freeze,
    frozen_hashes,
    optimizer,
    prove_frozen,
    recalibrate,
    restore,
    seed_states,
    select,
    stages,
    state,
    units,
)

OPTIMIZERS = ["adam", "adamw", "lion", "rmsprop", "sgd"]


def phase(unfreeze: str, epochs: int = 1, **settings: Any) -> Phase:
    return Phase(unfreeze=unfreeze, epochs=0 if unfreeze == "none" else epochs, **settings)


def names(family: str, unfreeze: str) -> str:
    return " ".join(unit.name for unit in select(phase(unfreeze), units(backbone(family))))


def fit(task: Any, of: Phase) -> dict[str, Any]:
    """One real epoch of a phase, as kerastune trains it; the audit, with the proof's hash."""
    audit = freeze(task, of)
    task.compile(optimizer(of, task, steps=2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[])
    before = frozen_hashes(task)
    task.fit(examples(), shuffle=False, verbose=0)
    return {**audit, "proof": prove_frozen(before, frozen_hashes(task))}


def values(task: Any) -> dict[str, Any]:
    return {weight.path: weight.numpy() for weight in task.weights}


def moved(task: Any, before: dict[str, Any]) -> set[str]:
    """Paths of the weights that are no longer bit-identical."""
    return {path for path, value in values(task).items() if not np.array_equal(value, before[path])}


# --- units -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),  # what is no block is in brackets
    [
        ("EfficientNet", "[stem] block1a block2a block2b [top_conv] [top_bn]"),
        ("MobileNet", "[stem] block_0_0 block_1_0 block_1_1 block_2_0 block_2_1 block_3_0"),
        ("ResNet", "[stem] stack0_block0 stack0_block1 stack1_block0"),
        ("ViT", "[stem] transformer_block_1 transformer_block_2 [ln]"),
        ("DeiT", "[stem] transformer_block_1 transformer_block_2 [ln]"),
        ("Swin", "[stem] stage_0 stage_1 [norm]"),
        ("HGNetV2", "[stem] stage_0 stage_1"),
        ("DenseNet", "[stem] stack1_block1 stack1_block2 [transition1_bn] [transition1_conv] stack2_block1 [bn]"),
        ("VGG", "block1 block2"),
        ("Xception", "block1 block2"),
        ("BERT", "[stem] transformer_layer_0 transformer_layer_1 [pooled_dense]"),
        ("GPT-2", "[stem] transformer_layer_0 transformer_layer_1 [layer_norm]"),
        ("Gemma", "[stem] decoder_block_0 decoder_block_1 [final_normalization]"),
        (
            "Whisper",
            "[stem] transformer_encoder_layer_0 transformer_encoder_layer_1 [encoder_layer_norm] "
            "[decoder_token_and_position_embedding] transformer_decoder_layer_0 transformer_decoder_layer_1 "
            "[decoder_layer_norm]",
        ),
    ],
)
def test_a_backbone_is_a_stem_its_blocks_in_order_and_what_follows(family: str, expected: str) -> None:
    assert " ".join(u.name if u.is_block else f"[{u.name}]" for u in units(backbone(family))) == expected


def test_a_mit_has_its_patch_embeddings_and_norms_between_its_blocks() -> None:
    found = units(backbone("MiT"))
    blocks = [unit.name for unit in found if unit.is_block]
    assert blocks == ["hierarchical_encoder_0_0", "hierarchical_encoder_1_0", "hierarchical_encoder_1_1"]
    # Keras numbers unnamed layers by what else was built in the process.
    others = [unit.name.rstrip("_0123456789") for unit in found if not unit.is_block]
    assert others == ["stem", "layer_normalization", "patch_and_embed", "layer_normalization"]


@pytest.mark.parametrize("family", BACKBONES)
def test_every_weight_belongs_to_exactly_one_unit(family: str) -> None:
    owned = [id(weight) for unit in units(backbone(family)) for weight in unit.weights]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(weight) for weight in backbone(family).weights}


# --- selecting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "unfreeze", "expected"),
    [
        ("EfficientNet", "head", ""),
        ("EfficientNet", "none", ""),
        ("EfficientNet", "all", "stem block1a block2a block2b top_conv top_bn"),
        ("EfficientNet", "top:1", "block2b top_conv top_bn"),  # what follows the last block trains too
        ("EfficientNet", "top:3", "block1a block2a block2b top_conv top_bn"),
        ("ResNet", "top:1", "stack1_block0"),
        ("ViT", "top:1", "transformer_block_2 ln"),
        ("DenseNet", "top:2", "stack1_block2 transition1_bn transition1_conv stack2_block1 bn"),
        ("Whisper", "top:1", "transformer_decoder_layer_1 decoder_layer_norm"),  # the output is the decoder's
        ("EfficientNet", "gradual", ""),  # in one epoch it gets no further than the head
        ("EfficientNet", "match:^block2", "block2a block2b"),  # a unit's name
        ("EfficientNet", "match:stem|top_conv", "stem top_conv"),
        ("EfficientNet", "match:block1a_se_reduce$", "block1a"),  # a layer's name trains its whole unit
        ("ViT", "match:vit_encoder/transformer_block_1$", "transformer_block_1"),  # a layer's path
    ],
)
def test_a_phase_trains_the_units_it_names(family: str, unfreeze: str, expected: str) -> None:
    assert names(family, unfreeze) == expected


@pytest.mark.parametrize(
    ("unfreeze", "problem"), [("top:4", "the backbone has 3 blocks"), ("match:block9", "matches no unit")]
)
def test_units_that_are_not_there_are_an_error_that_lists_those_that_are(unfreeze: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        names("EfficientNet", unfreeze)
    assert f"unfreeze = {unfreeze!r}" in caught.value.message
    assert problem in caught.value.message
    assert all(unit.name in caught.value.message for unit in units(backbone("EfficientNet")) if unit.is_block)


# --- freezing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfreeze", ["none", "head", "top:1", "match:block1a", "all"])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_the_audits_parameters_add_up(unfreeze: str, batch_norm: str) -> None:
    task = classifier("EfficientNet")
    audit = freeze(task, phase(unfreeze, batch_norm=batch_norm))
    assert audit["trainable_parameters"] + audit["frozen_parameters"] == task.count_params()
    assert sum(unit["parameters"] for unit in audit["units"]) == task.count_params()
    assert sum(unit["trainable_parameters"] for unit in audit["units"]) == audit["trainable_parameters"]
    assert audit["trainable_parameters"] == sum(math.prod(w.shape) for w in task.trainable_weights)
    assert audit["units"][-1]["name"] == "head"


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
    assert " ".join(unit["name"] for unit in audit["units"] if unit["trainable_parameters"]) == training


def test_the_audit_counts_who_is_in_inference_mode() -> None:
    task = classifier("EfficientNet")
    norms = [x for x in task.backbone._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    top = [norm for norm in norms if norm.name.startswith(("block2b", "top"))]
    audit = freeze(task, phase("top:1", batch_norm="train"))
    assert audit["batch_norm"] == {"inference": len(norms) - len(top), "training": len(top)}
    assert freeze(task, phase("all"))["batch_norm"] == {"inference": len(norms), "training": 0}


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
    assert freeze(task, train)["batch_norm"] == freeze(classifier(family), train)["batch_norm"]


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
    assert audit["batch_norm"]["inference"] == 0
    moving = sum(math.prod(w.shape) for w in task.weights if "moving" in w.path)
    assert audit["frozen_parameters"] == moving  # statistics are no parameters of the optimizer's


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
    count = {unit["name"]: unit["trainable_parameters"] for unit in audit["units"]}
    assert audit["stages"] == [
        {"epoch": 1, "units": ["head"], "trainable_parameters": count["head"]},
        {
            "epoch": 2,
            "units": ["block2b", "top_conv", "top_bn", "head"],
            "trainable_parameters": sum(count[name] for name in ("block2b", "top_conv", "top_bn", "head")),
        },
        {
            "epoch": 3,
            "units": ["block2a", "block2b", "top_conv", "top_bn", "head"],
            "trainable_parameters": sum(count.values()) - count["stem"] - count["block1a"],
        },
        {
            "epoch": 4,
            "units": ["block1a", "block2a", "block2b", "top_conv", "top_bn", "head"],
            "trainable_parameters": sum(count.values()) - count["stem"],
        },
        {"epoch": 5, "units": list(count), "trainable_parameters": audit["trainable_parameters"]},
    ]
    assert all(count.values())
    assert json.loads(json.dumps(audit)) == audit
    assert "stages" not in freeze(task, phase("all"))


def test_in_each_epoch_exactly_its_stage_trains_and_the_proof_holds() -> None:
    task = classifier("ViT")
    gradual = phase("gradual", 5, optimizer="sgd", ema=0.9, clip_norm=1.0)
    freeze(task, gradual)
    made = optimizer(gradual, task, steps=10)  # one for all epochs
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
        trained.append(sum(unit["trainable_parameters"] > 0 for unit in audit["units"]))
    assert trained == [1, 3, 4, 5, 5]
    assert [w.path for w in task.trainable_variables] == everything


# --- learning rates ----------------------------------------------------------------------------------------


def peaks(family: str, unfreeze: str, **settings: Any) -> dict[str, float]:
    """The audit's learning rates, of units that train."""
    audit = freeze(classifier(family), phase(unfreeze, batch_norm="train", **settings))
    assert all((unit["learning_rate"] is None) == (unit["trainable_parameters"] == 0) for unit in audit["units"])
    return {unit["name"]: unit["learning_rate"] for unit in audit["units"] if unit["learning_rate"] is not None}


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
        ("all", {"block2": 0.1, "block2b": 0.2}, "'block2b' matches only units that an expression before it has."),
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
    made = optimizer(everything, task, steps=1)
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
    assert not {"ema", "clip_norm", "gradient_accumulation", "lora", "stages"} & plain.keys()
    audit = freeze(task, phase("all", ema=0.9, clip_norm=1.0, gradient_accumulation=4))
    assert (audit["ema"], audit["clip_norm"], audit["gradient_accumulation"]) == (0.9, 1.0, 4)


# --- the proof ---------------------------------------------------------------------------------------------


def test_the_proof_passes_after_a_real_fit_and_fails_when_a_frozen_weight_moves_by_a_millionth() -> None:
    task = classifier("EfficientNet")
    assert len(fit(task, phase("top:1"))["proof"]) == 64
    before = frozen_hashes(task)
    assert prove_frozen(before, frozen_hashes(task)) == prove_frozen(before, dict(before))
    weight = next(w for w in task.backbone.weights if w.path == "block1a_project/kernel")
    weight.assign(weight + 1e-6)
    with pytest.raises(VerificationError, match="1 frozen weights moved during the phase: block1a_project/kernel"):
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
    with pytest.raises(VerificationError, match="frozen weights moved"):
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


# --- the learning rate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("constant", 0, {0: 1, 5: 1, 10: 1}),
        ("linear", 0, {0: 1, 5: 0.5, 9: 0.1, 10: 0, 20: 0}),
        ("cosine", 0, {0: 1, 2.5: 0.5 + math.sqrt(2) / 4, 5: 0.5, 10: 0, 20: 0}),
        ("constant", 4, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 10: 1}),
        ("linear", 4, {0: 0.25, 3: 1, 4: 1, 7: 0.5, 10: 0}),
        ("cosine", 4, {0: 0.25, 3: 1, 4: 1, 7: 0.5, 10: 0}),
    ],
)
def test_the_learning_rate_climbs_then_stays_or_falls_to_zero(
    kind: str, warmup: int, expected: dict[float, float]
) -> None:
    schedule = Schedule(kind, peak=2.0, steps=10, warmup_steps=warmup)
    found = [float(schedule(step)) for step in expected]
    assert found == pytest.approx([2 * rate for rate in expected.values()], abs=1e-6)


def test_a_schedule_survives_saving_alone_and_inside_an_optimizer() -> None:
    schedule = Schedule("cosine", peak=1e-3, steps=10, warmup_steps=2)
    again = Schedule.from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()
    adam = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.Adam(schedule)))
    restored = adam._learning_rate
    assert isinstance(restored, Schedule)
    assert [float(restored(step)) for step in range(12)] == [float(schedule(step)) for step in range(12)]


def test_a_phases_warm_up_is_a_share_of_its_steps() -> None:
    made = optimizer(phase("head", schedule="linear", warmup=0.25, learning_rate=0.1), classifier("ViT"), steps=40)
    config = made._learning_rate.get_config()
    assert config == {"kind": "linear", "peak": 0.1, "steps": 40, "warmup_steps": 10}


# --- the optimizer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_weight_decay_a_step_with_zero_gradients_moves_nothing(name: str) -> None:
    task = classifier("ViT")
    before = values(task)
    made = optimizer(phase("all", optimizer=name, learning_rate=0.1), task, steps=1)
    made.apply([keras.ops.zeros_like(w) for w in task.trainable_variables], task.trainable_variables)
    assert moved(task, before) == set()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", ["EfficientNet", "ViT"])
def test_weight_decay_shrinks_kernels_and_leaves_biases_and_norms_alone(family: str, name: str) -> None:
    task = classifier(family)
    for weight in task.trainable_variables:  # biases start at zero, where decay would not show
        weight.assign_add(keras.ops.ones(weight.shape))
    before = values(task)
    made = optimizer(phase("all", optimizer=name, learning_rate=0.1, weight_decay=0.5), task, steps=1)
    made.apply([keras.ops.zeros_like(w) for w in task.trainable_variables], task.trainable_variables)
    changed = moved(task, before)
    assert {path for path in changed if path.endswith(("bias", "beta", "gamma"))} == set()
    kernels = {w.path: w.numpy() for w in task.trainable_variables if w.path.endswith("kernel")}
    assert kernels.keys() <= changed
    for path, value in kernels.items():
        np.testing.assert_allclose(value, before[path] * (1 - 0.1 * 0.5), rtol=1e-5, atol=1e-7)


def test_an_optimizer_takes_its_name_literally() -> None:
    task = classifier("ViT")
    made = {name: optimizer(phase("all", optimizer=name, weight_decay=0.1), task, steps=1) for name in OPTIMIZERS}
    assert [type(each).__name__.lower() for each in made.values()] == OPTIMIZERS
    assert made["sgd"].momentum == 0.9
    assert made["sgd"].nesterov


def test_block_names_of_other_layers_are_not_taken_for_blocks() -> None:
    for name in ("stem_conv", "top_bn", "predictions", "layer_norm", "patch_and_embed_1", "decoder_layer_norm"):
        assert not phases.BLOCK.search(name)


def test_half_batches_accumulated_are_the_whole_batch_in_a_real_model() -> None:
    def trained(size: int, **settings: Any) -> dict[str, Any]:
        task = classifier("ViT")
        everything = phase("all", optimizer="sgd", learning_rate=0.1, clip_norm=0.5, **settings)
        freeze(task, everything)
        made, loss = optimizer(everything, task, 1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for x, y in examples().unbatch().batch(size):
            with tf.GradientTape() as tape:
                value = loss(y, task(x, training=False))
            made.apply(tape.gradient(value, task.trainable_weights), task.trainable_weights)
        return values(task)

    halves, whole = trained(4, gradient_accumulation=2), trained(8)
    for path, value in whole.items():
        np.testing.assert_allclose(halves[path], value, rtol=0, atol=1e-6, err_msg=path)
    assert any(not np.allclose(trained(4)[path], value, rtol=0, atol=1e-4) for path, value in whole.items())


# --- BatchNorm ---------------------------------------------------------------------------------------------


def uneven() -> list[Any]:
    """Batches of 5 and 3 noise images."""
    images = np.concatenate([x for x, _ in examples()])
    return [tf.constant(images[:5] + 1), tf.constant(3 * images[5:])]


def test_recalibrated_statistics_are_those_of_the_training_data() -> None:
    task = classifier("EfficientNet")
    lowest = phase("match:^block1a$", batch_norm="recalibrate")
    freeze(task, lowest)
    norm = task.backbone.get_layer("block1a_dwconv_bn")
    seen = keras.Model(task.backbone.inputs, norm.input)
    inputs = np.concatenate([np.asarray(seen(x), np.float64) for x in uneven()])  # all before it runs as in inference
    assert not np.allclose(norm.moving_variance, inputs.var(axis=(0, 1, 2)), rtol=0.1)
    assert recalibrate(task, lowest, uneven()) == {"layers": 2, "batches": 2, "examples": 8}
    np.testing.assert_allclose(norm.moving_mean, inputs.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, inputs.var(axis=(0, 1, 2)), rtol=1e-4)


def test_recalibration_moves_the_unfrozen_units_statistics_only_and_comes_after_the_proof() -> None:
    task = classifier("EfficientNet")
    top = phase("top:1", batch_norm="recalibrate")
    freeze(task, top)
    before, proof = values(task), frozen_hashes(task)
    audit = recalibrate(task, top, uneven())
    changed = moved(task, before)
    assert len(changed) == 2 * audit["layers"]
    assert {path.split("/")[0] for path in changed} == {"block2b_", "top_bn"}
    assert all("moving" in path for path in changed)
    with pytest.raises(VerificationError):
        prove_frozen(proof, frozen_hashes(task))


def test_recalibration_leaves_no_trace_but_the_statistics() -> None:
    task = classifier("EfficientNet")
    everything = phase("all", batch_norm="recalibrate")
    before = freeze(task, everything)
    norms = [x for x in task.backbone._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    seeds = [state.numpy().tolist() for state in seed_states(task)]
    recalibrate(task, everything, uneven())
    once = values(task)
    assert [state.numpy().tolist() for state in seed_states(task)] == seeds
    assert freeze(task, everything) == before
    assert [norm.momentum for norm in norms] == momenta
    assert not any("call" in vars(norm) for norm in norms)
    norms[0].moving_mean.assign_add(np.ones(norms[0].moving_mean.shape))
    recalibrate(task, everything, uneven())
    assert moved(task, once) == set()  # the statistics that were there do not count


def test_an_interrupted_recalibration_puts_the_statistics_back() -> None:
    task = classifier("EfficientNet")
    everything = phase("all", batch_norm="recalibrate")
    freeze(task, everything)
    before = values(task)

    def batches() -> Any:
        yield uneven()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(task, everything, batches())
    assert moved(task, before) == set()


def test_without_batch_norm_there_is_nothing_to_recalibrate() -> None:
    nothing = {"layers": 0, "batches": 0, "examples": 0}
    assert recalibrate(classifier("ViT"), phase("all", batch_norm="recalibrate"), uneven()) == nothing
    assert recalibrate(classifier("EfficientNet"), phase("head", batch_norm="recalibrate"), uneven()) == nothing


# --- state -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You are using a softmax")  # the tiny MiT's attention has one key
@pytest.mark.parametrize("family", ["EfficientNet", "MiT"])  # MiT's layers are numbered by what else was built
def test_a_state_fits_another_build_of_the_model_to_the_bit(family: str) -> None:
    task, other = classifier(family, seed=0), classifier(family, seed=1)
    x = uneven()[0]
    assert not np.array_equal(task(x), other(x))
    kept = state(task)
    assert len(kept) == len(task.weights)
    restore(other, kept)
    assert np.array_equal(task(x), other(x))


def test_a_state_with_weights_that_the_model_has_not_is_refused() -> None:
    task = classifier("ViT")
    with pytest.raises(ValueError, match="the state has weights that the model has not: 999"):
        restore(task, {**state(task), "999:nowhere": np.zeros(1)})


def test_random_layers_put_back_draw_the_same() -> None:
    task = classifier("EfficientNet")
    freeze(task, phase("all"))  # with BatchNorm in inference mode, so that only random layers differ
    assert len(seed_states(task)) == 2
    x = uneven()[0]
    kept = [variable.numpy() for variable in seed_states(task)]
    first = task(x, training=True)
    assert not np.array_equal(task(x, training=True), first)
    for variable, value in zip(seed_states(task), kept, strict=True):
        variable.assign(value)
    assert np.array_equal(task(x, training=True), first)

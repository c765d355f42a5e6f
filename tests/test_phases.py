"""Who is trainable when, on tiny real models of many families; and the proof, which must be able to fail."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from tiny import BACKBONES, backbone, classifier, examples

from kerastune import phases
from kerastune.errors import RecipeError, VerificationError
from kerastune.phases import Schedule, freeze, frozen_hashes, optimizer, prove_frozen, select, units
from kerastune.recipe import Phase

OPTIMIZERS = ["adam", "adamw", "lion", "rmsprop", "sgd"]


def phase(unfreeze: str, **settings: Any) -> Phase:
    return Phase(unfreeze=unfreeze, epochs=0 if unfreeze == "none" else 1, **settings)


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

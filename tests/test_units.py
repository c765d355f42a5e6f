"""Units of tiny real models of many families, and which of them a phase trains, how fast."""

import pytest
from fitting import phase
from tiny import BACKBONES, backbone, classifier

from kerastune.errors import RecipeError
from kerastune.training.expressions import refuse_endless
from kerastune.training.units import BLOCK, select, units


def names(family: str, unfreeze: str) -> str:
    return " ".join(unit.name for unit in select(phase(unfreeze), units(backbone(family))))


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


def test_block_names_of_other_layers_are_not_taken_for_blocks() -> None:
    for name in ("stem_conv", "top_bn", "predictions", "layer_norm", "patch_and_embed_1", "decoder_layer_norm"):
        assert not BLOCK.search(name)


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


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("phases.1.unfreeze", {"unfreeze": "match:(.*)*_$"}),
        ("phases.1.learning_rates", {"unfreeze": "all", "learning_rates": {"stem": 1e-4, "(.*)*_$": 1e-5}}),
        ("phases.1.lora.targets", {"unfreeze": "all", "lora": {"rank": 2, "targets": ["query", "(.*)*_$"]}}),
    ],
)
def test_an_expression_that_backtracks_without_end_is_refused(key: str, settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: '\(\.\*\)\*_\$' takes more than 2 s") as caught:
        refuse_endless([phase("match:block1a$"), phase(**settings)], classifier("EfficientNet"))
    assert "(a+)+" in str(caught.value.hint)


def test_expressions_that_end_are_taken() -> None:
    refuse_endless([phase("head"), phase("match:^(?!block1a).*_(expand|project)+$")], classifier("EfficientNet"))

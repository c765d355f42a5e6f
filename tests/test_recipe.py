"""The recipe: every mistake has its key path and a suggestion, all at once; overrides; round trips; the schema.

Nothing in a recipe is ever executed.
"""

import json
import os
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kerastune import recipe
from kerastune.errors import RecipeError
from kerastune.recipe import Export, read

PETS = """\
# Cats or dogs?
task = "image_classification"
preset = "some_preset"

[data]
source = "folder"
path = "photos"

[train]
batch_size = 8

[[phases]]
unfreeze = "head"

[[phases]]
unfreeze = "top:2"
learning_rate = 1e-4

[[exports]]
target = "linux"
"""


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """The path of a good recipe with two phases and one export."""
    return write(tmp_path / "pets.toml", PETS)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(reference: str | dict[str, Any], *overrides: str) -> str:
    """What a user reads who gives this recipe."""
    with pytest.raises(RecipeError) as caught:
        read(reference, overrides)
    assert caught.value.exit_code == 1
    return str(caught.value)


# --- one mistake each --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("sed=1", "sed: unknown key (did you mean 'seed'?)"),
        ("trian.batch_size=1", "trian: unknown key (did you mean 'train'?)"),
        ("train.batchsize=1", "train.batchsize: unknown key (did you mean 'batch_size'?)"),
        ("augment.flips=none", "augment.flips: unknown key (did you mean 'flip'?)"),
        ("data.pth=photos", "data.pth: unknown key (did you mean 'path'?)"),
        ("data.folder=photos", "data.folder: unknown key"),  # "folder" is a source's name too
        ("phases.1.epoch=2", "phases.1.epoch: unknown key (did you mean 'epochs'?)"),
        ("exports.0.quantise=int8", "exports.0.quantise: unknown key (did you mean 'quantize'?)"),
        ("train.zzzzz=1", "train.zzzzz: unknown key"),
        ("phases.1.lora={rank=4, targts=['q']}", "phases.1.lora.targts: unknown key (did you mean 'targets'?)"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_what_is_near(pets: str, mistake: str, message: str) -> None:
    found = refused(pets, mistake)
    assert "has 1 problem:" in found
    assert message in found


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ('train.batch_size="8"', "train.batch_size: must be a valid integer; received '8'"),
        ("train.batch_size=8.5", "train.batch_size: must be a valid integer; received 8.5"),
        ("train.batch_size=true", "train.batch_size: must be a valid integer; received True"),
        ("train.batch_size=0", "train.batch_size: must be greater than or equal to 1; received 0"),
        ("train.xla=ture", "train.xla: 'ture' is not one of 'auto', True or False"),
        ("train=8", "train: must be a valid dictionary"),
        ("data=photos", "data: must be a valid dictionary"),
        ("data.path=3", "data.path: must be a valid string; received 3"),
        ("data.path=", "data.path: string should have at least 1 character"),
        ("data.image_size=8", "data.image_size: must be greater than or equal to 16; received 8"),
        ("phases.0.epochs=1.0", "phases.0.epochs: must be a valid integer; received 1.0"),
        ("phases.0.learning_rate=nan", "phases.0.learning_rate: must be a finite number; received nan"),
        ("phases.0.learning_rate=inf", "phases.0.learning_rate: must be a finite number; received inf"),
        ("phases.0.learning_rate=0", "phases.0.learning_rate: must be greater than 0; received 0"),
        ("phases.0.learning_rate=-1e-3", "phases.0.learning_rate: must be greater than 0; received -0.001"),
        ("exports.0.max_accuracy_drop=2", "exports.0.max_accuracy_drop: must be less than or equal to 1; received 2"),
        ("exports.0.name=../elsewhere", "exports.0.name: string should match pattern"),
        ('name="a/b"', "name: string should match pattern"),
    ],
)
def test_a_wrong_type_or_value_is_named_with_what_was_received(pets: str, mistake: str, message: str) -> None:
    found = refused(pets, mistake)
    assert "has 1 problem:" in found
    assert message in found


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            "task=image_clasification",
            "(did you mean 'image_classification'?)",
        ),
        ("data.source=foldr", "data.source: 'foldr' is not a source (did you mean 'folder'?)"),
        ("exports.0.target=linx", "exports.0.target: there is no target 'linx' (did you mean 'linux'?)"),
        ("phases.0.optimizer=adan", "phases.0.optimizer: 'adan' is not one of"),
        ("phases.0.optimizer=adan", "(did you mean 'adam'?)"),
        ("phases.0.schedule=cosin", "(did you mean 'cosine'?)"),
        ("phases.0.batch_norm=freeze", "(did you mean 'frozen'?)"),
        ("augment.flip=horizontl", "(did you mean 'horizontal'?)"),
        ("train.precision=mixed_bf16", "(did you mean 'mixed_bfloat16'?)"),
    ],
)
def test_an_unknown_choice_is_answered_with_what_is_near(pets: str, mistake: str, message: str) -> None:
    assert message in refused(pets, mistake)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('task = "image_classification"', "task: is missing"),
        ('preset = "some_preset"', "preset: is missing"),
        ('source = "folder"', 'data.source: is missing; one of \'source\' = "folder", "csv", "tfds"'),
        ('path = "photos"', "data.path: is missing"),
        ('unfreeze = "head"', "phases.0.unfreeze: is missing"),
        ('target = "linux"', "exports.0: an export needs a `target` or a `format`"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, line: str, message: str) -> None:
    assert message in refused(write(tmp_path / "pets.toml", PETS.replace(line, "")))


@pytest.mark.parametrize(
    "spec", ["", "heads", "HEAD", "head:1", "top", "top:", "top:0", "top:-1", "top:1.5", "top: 2", "top:two", "match:"]
)
def test_an_unfreeze_that_means_nothing_is_refused_with_what_it_may_be(pets: str, spec: str) -> None:
    message = refused(pets, f'phases.1.unfreeze="{spec}"')
    assert "phases.1.unfreeze: " in message
    assert spec == "" or '"head", "all", "none", "gradual", "top:N" (N = 1, 2, …), "match:REGEX"' in message


@pytest.mark.parametrize("expression", ["block(", "*", "a{99999999999999999999}"])
def test_an_unfreeze_that_is_no_regular_expression_is_refused(pets: str, expression: str) -> None:
    message = refused(pets, f"phases.1.unfreeze=match:{expression}")
    assert f"phases.1.unfreeze: {expression!r} is not a regular expression: " in message


@pytest.mark.parametrize("spec", ["head", "all", "top:1", "top:12", "match:block[34]", "match:a:b"])
def test_an_unfreeze_that_means_something_is_taken(pets: str, spec: str) -> None:
    assert read(pets, [f"phases.1.unfreeze={spec}"]).phases[1].unfreeze == spec


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("phases.0.epochs=0", "phases.0: epochs = 0 trains nothing"),
        ("phases.0.unfreeze=none", 'phases.0: unfreeze = "none" trains nothing, so it needs epochs = 0'),
        ("phases=[]", "phases: a recipe needs at least one [[phases]] table"),
        ("data.test_fraction=0.85", "data: validation_fraction + test_fraction = 1 leaves nothing to train on"),
        ("phases.0.lora={rank=4}", 'phases.0: lora has no units to adapt with unfreeze = "head"'),
        ("phases.1={unfreeze='all', batch_norm='train', lora={rank=4}}", "phases.1: lora trains only adapters"),
        ("phases.1={unfreeze='all', layer_decay=0.5, learning_rates={stem=1e-5}}", "phases.1: layer_decay and"),
        ("train.cache_views=2", "train.cache_views caches augmented views, but [augment] changes nothing"),
        ("exports.0.format=onnx", "exports.0: target 'linux' takes format = tflite, not 'onnx'"),
        ("exports=[{}]", "exports.0: an export needs a `target` or a `format`"),
        ("exports=[{target='linux'}, {target='linux'}]", "two exports would be called 'linux'"),
        ("exports=[{target='linux'}, {format='onnx', name='linux'}]", "two exports would be called 'linux'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(pets: str, mistake: str, message: str) -> None:
    found = refused(pets, mistake)
    assert "has 1 problem:" in found
    assert message in found


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("train.cache_views=2", "train.cache_views caches augmented views, but texts are not augmented"),
        ("train.class_weights=balanced", "train.class_weights needs one label per example, or per pixel"),
        ("train.label_smoothing=0.1", "train.label_smoothing needs one label per example"),
    ],
)
def test_what_needs_images_or_classes_is_refused_where_there_are_none(
    sentences: str, mistake: str, message: str
) -> None:
    assert message in refused(sentences, "data.regression=true", mistake)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augment.flip=horizontal", "train.cache=disk"], 'train.cache = "disk" would show every epoch the same'),
        (["augment.mixup=0.2", "train.cache_views=3"], "train.cache_views cannot cache mixup or cutmix"),
    ],
)
def test_training_that_augmentation_would_falsify_is_refused(pets: str, overrides: list[str], message: str) -> None:
    assert message in refused(pets, *overrides)


@pytest.mark.parametrize("value", ["5", "5 epochs", "0 steps", "-1 minutes", "often"])
def test_a_checkpoint_interval_is_steps_or_minutes(pets: str, value: str) -> None:
    assert "train.checkpoint_every: " in refused(pets, f"train.checkpoint_every='{value}'")


@pytest.mark.parametrize("key", ["phases.1.lora={rank=4, targets=['(']}", "phases.1.learning_rates={'('=1e-4}"])
def test_every_expression_is_checked_before_training(pets: str, key: str) -> None:
    assert "is not a regular expression" in refused(pets, key)


@pytest.mark.parametrize(("format", "quantize"), [("onnx", "int4"), ("saved_model", "int8")])
def test_a_quantisation_that_the_format_cannot_have_is_refused_before_training(
    pets: str, format: str, quantize: str
) -> None:
    message = refused(pets, f"exports=[{{format='{format}', quantize='{quantize}'}}]")
    assert "exports.0" in message
    assert quantize in message
    assert format in message


def test_one_phase_in_single_brackets_is_answered_with_double_ones(tmp_path: Path) -> None:
    text = PETS.partition("[[phases]]")[0] + '[phases]\nunfreeze = "head"\n'
    assert "[[phases]]" in refused(write(tmp_path / "pets.toml", text))


def test_all_problems_are_in_one_message_each_with_its_path(tmp_path: Path) -> None:
    wrong = {
        "task = ": "tusk = ",
        '"folder"': '"folder"\nshuffle = true',
        "batch_size = 8": "batch_size = 0",
        '"head"': '"haed"',
        "1e-4": '"fast"',
        '"linux"': '"linus"',
    }
    text = PETS
    for good, bad in wrong.items():
        text = text.replace(good, bad)
    message = refused(write(tmp_path / "pets.toml", text))
    paths = ["task", "tusk", "data.shuffle", "train.batch_size"]
    paths += ["phases.0.unfreeze", "phases.1.learning_rate", "exports.0.target"]
    assert f"has {len(paths)} problems:" in message
    assert all(f"\n  {path}: " in message for path in paths)
    assert "kerastune recipes schema" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "a `target` or a `format`"),
        ({"target": "linx"}, "did you mean 'linux'?"),
        ({"target": "linux", "format": "onnx"}, "target 'linux' takes format = tflite, not 'onnx'"),
        ({"target": "browser", "format": "saved_model"}, "takes format = tflite or onnx, not 'saved_model'"),
        ({"format": "onxx"}, "'onnx'"),
        ({"format": "onnx", "max_accuracy_drop": float("nan")}, "max_accuracy_drop"),  # click's range lets NaN through
        ({"format": "onnx", "quantize": "int4"}, "quantize"),
        ({"format": "onnx", "quantise": "none"}, "quantise"),
    ],
)
def test_an_export_asked_for_outside_a_recipe_has_its_mistakes_explained_too(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.parse_export(values)
    assert message in str(caught.value)


# --- finding and reading -----------------------------------------------------------------------------------


def test_invalid_toml_is_named_with_its_line(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "pets.toml", 'task = "image_classification"\n\npreset = some_preset\n'))
    assert "pets.toml is not valid TOML" in message
    assert "line 3" in message


def test_toml_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    assert "deep.toml" in refused(write(tmp_path / "deep.toml", f"a = {'[' * 5000}{']' * 5000}"))


def test_a_file_that_is_not_there_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"There is no file {tmp_path}/pets.toml" in refused("pets.toml")


def test_a_home_folder_that_is_not_there_is_a_mistake_and_no_bug() -> None:
    assert "~nobody-of-that-name" in refused("~nobody-of-that-name/pets.toml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "pets.toml", "# Kätzchen\n".encode("latin-1")))
    assert "pets.toml cannot be read as text" in message


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "pets.toml").mkdir()
    assert "pets.toml cannot be read as text" in refused(str(tmp_path / "pets.toml"))


def test_an_unknown_name_is_answered_with_a_near_one_and_with_all() -> None:
    message = refused("quikstart")
    assert "There is no recipe called 'quikstart' (did you mean 'quickstart'?)" in message
    assert all(name in message for name in recipe.shipped())


def test_the_files_name_stands_in_for_the_recipes_name(tmp_path: Path) -> None:
    assert read(write(tmp_path / "my pets!.toml", PETS)).name == "my-pets"
    assert read(write(tmp_path / "猫.toml", PETS)).name == "recipe"
    assert read(write(tmp_path / "pets.toml", 'name = "cats"\n' + PETS)).name == "cats"


def test_relative_paths_become_absolute_where_the_command_runs(
    pets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", "/home/someone")
    assert read(pets).data.path == str(tmp_path / "work" / "photos")
    assert read(pets, ["data.path=../photos"]).data.path == str(tmp_path / "photos")
    assert read(pets, ["data.path=~/photos"]).data.path == "/home/someone/photos"


SENTENCES = """\
task = "text_classification"
preset = "some_preset"

[data]
source = "csv"
path = "sentences.csv"

[[phases]]
unfreeze = "head"
"""


@pytest.fixture
def sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a recipe for a file in the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write(tmp_path / "sentences.toml", SENTENCES)


def test_a_bare_file_name_becomes_absolute_even_before_the_file_is_there(sentences: str) -> None:
    assert read(sentences).data.path == os.path.abspath("sentences.csv")
    assert read(sentences, ["data.path=mine.csv"]).data.path == os.path.abspath("mine.csv")


def test_a_resolved_recipe_names_the_same_data_from_any_folder(
    sentences: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(sentences, ["data.source=jsonl", "data.path=tone.jsonl"])
    resolved = write(tmp_path / "recipe.toml", before.to_toml())
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tone.jsonl", "{}")  # another file of that name
    assert read(resolved) == before


def test_an_asset_is_named_in_every_folder_and_a_file_of_that_name_by_its_path(sentences: str) -> None:
    Path("trec-questions").mkdir()
    assert read(sentences, ["data.path=trec-questions"]).data.path == "trec-questions"
    assert read(sentences, ["data.path=./trec-questions"]).data.path == os.path.abspath("trec-questions")


def test_a_shipped_file_is_meant_unless_one_of_its_name_is_there(sentences: str) -> None:
    assert Path(read("tone").data.path).parent.joinpath("tone.toml").is_file()
    write(Path("tone.jsonl"), "{}")
    assert read("tone").data.path == os.path.abspath("tone.jsonl")


def test_every_path_of_a_source_becomes_absolute(sentences: str) -> None:
    overrides = ["data={source='csv', path='a.csv', images='b'}", "task=image_classification"]
    data = read(sentences, overrides).data
    assert (data.path, data.images) == (os.path.abspath("a.csv"), os.path.abspath("b"))
    overrides[0] = "data={source='tfds', name='mnist', data_dir='here'}"
    assert read(sentences, overrides).data.data_dir == os.path.abspath("here")


@pytest.mark.parametrize("name", ["efficientnet_b0_ra_imagenet", "hf://owner/model", "kaggle://keras/vit/keras/base"])
def test_a_presets_name_or_address_stays_as_it_is(pets: str, name: str) -> None:
    assert read(pets, [f"preset={name}"]).preset == name


def test_a_presets_folder_becomes_absolute(pets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(pets, ["preset=./tuned"]).preset == str(tmp_path / "tuned")


def test_a_presets_bare_name_is_a_folder_only_if_a_preset_lies_in_it(
    pets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert_tiny_en_uncased").mkdir()  # somebody's results
    assert read(pets, ["preset=bert_tiny_en_uncased"]).preset == "bert_tiny_en_uncased"
    write(tmp_path / "bert_tiny_en_uncased" / "config.json", "{}")
    assert read(pets, ["preset=bert_tiny_en_uncased"]).preset == str(tmp_path / "bert_tiny_en_uncased")


def test_nothing_in_a_recipe_is_executed(pets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = tmp_path / "ran"
    for code in (f"__import__('os').system('touch {trap}')", f"$(touch {trap})", f"{{{{ {trap} }}}}", "!!python/x"):
        assert read(pets, [f"data.path='''{code}'''"]).data.path == os.path.abspath(code)
    assert not trap.exists()


# --- overrides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("train.batch_size=64", "train.batch_size", 64),
        ("phases.0.epochs=3", "phases.0.epochs", 3),
        ("phases.1.schedule=cosine", "phases.1.schedule", "cosine"),  # a bare word
        ('phases.1.schedule="cosine"', "phases.1.schedule", "cosine"),
        ("phases.1.schedule='cosine'", "phases.1.schedule", "cosine"),
        ("train.xla=false", "train.xla", False),
        ('preset="7"', "preset", "7"),  # quotes keep a figure a text
        ("preset=a=b=c", "preset", "a=b=c"),
        ("preset=", "preset", None),  # no text at all: refused below
        ("phases.1.unfreeze=match:^block(3|4)$", "phases.1.unfreeze", "match:^block(3|4)$"),
        ("augment.flip=horizontal", "augment.flip", "horizontal"),  # a section the file does not have
        ("augment={crop = 0.1, color = 0.2}", "augment.crop", 0.1),
        ("exports=[{format = 'onnx'}, {target = 'linux'}]", "exports.1.target", "linux"),
        ("exports.0={format = 'onnx'}", "exports.0.format", "onnx"),
        (" train.batch_size =64", "train.batch_size", 64),
    ],
)
def test_an_override_sets_one_key(pets: str, override: str, key: str, value: object) -> None:
    if value is None:
        assert f"{key}: string should have at least 1 character" in refused(pets, override)
        return
    found: Any = read(pets, [override])
    for part in key.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    assert found == value


def test_an_override_wins_over_the_file_and_the_last_over_the_first(pets: str) -> None:
    assert read(pets).train.batch_size == 8
    assert read(pets, ["train.batch_size=16"]).train.batch_size == 16
    assert read(pets, ["train.batch_size=16", "train.batch_size=32"]).train.batch_size == 32


def test_an_override_is_checked_like_the_file(pets: str) -> None:
    message = refused(pets, "train.batchsize=1", "phases.0.epochs=-1")
    assert "has 2 problems:" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "-s 'seed' is not KEY=VALUE."),
        ("=7", "-s '=7' is not KEY=VALUE."),
        ("phases.2.epochs=1", "phases has 2 entries, so '2' is not one of them.\n\nhint: Count from 0: use 0 to 1."),
        ("phases.-1.epochs=1", "phases has 2 entries, so '-1' is not one of them."),
        ("phases.first.epochs=1", "phases has 2 entries, so 'first' is not one of them."),
        ("phases.2={unfreeze = 'all'}", "phases has 2 entries, so '2' is not one of them."),
        ("preset.name=x", "preset is 'some_preset', which has no key 'name'."),
        ("preset.name.first=x", "there is nothing below preset, it is 'some_preset'."),
        ("seed=1\nname='x'", "seed"),  # the second line would be lost without a word
    ],
)
def test_an_override_that_cannot_be_obeyed_is_an_error(pets: str, override: str, message: str) -> None:
    assert message in refused(pets, override)


# --- mappings ----------------------------------------------------------------------------------------------


def test_a_recipe_may_be_a_mapping(pets: str, tmp_path: Path) -> None:
    values = tomllib.loads(PETS)
    assert read(values) == read(pets).model_copy(update={"name": "recipe"})
    assert read({**values, "name": "cats"}).name == "cats"


def test_a_mapping_takes_overrides_and_paths_and_stays_as_it_was() -> None:
    values = tomllib.loads(PETS)
    values["data"]["path"] = Path("photos")
    found = read(values, ["train.batch_size=16", "phases.0.epochs=3"])
    assert (found.train.batch_size, found.phases[0].epochs, found.data.path) == (16, 3, os.path.abspath("photos"))
    assert (values["train"]["batch_size"], values["data"]["path"]) == (8, Path("photos"))


def test_a_mapping_has_its_mistakes_explained() -> None:
    with pytest.raises(RecipeError, match="The recipe has 2 problems"):
        read({**tomllib.loads(PETS), "sed": 1, "seeds": 2})


def test_the_package_reads_mappings() -> None:
    import kerastune

    assert kerastune.read_recipe(tomllib.loads(PETS)).task == "image_classification"


# --- hostile recipes ---------------------------------------------------------------------------------------

DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("task=[]", "task: [] is not one of"),
        ("task={}", "task: {} is not one of"),
        (f"seed={DIGITS}", "a number has more than 4,300 digits"),
        (f"seed=0x{'f' * 5000}", "seed: "),
        (f"phases.0.learning_rate=0x{'f' * 5000}", "phases.0.learning_rate: "),
        (f"phases.{DIGITS}.epochs=1", "phases has 2 entries"),
        (f"phases.0.unfreeze=top:{DIGITS}", "phases.0.unfreeze: "),
        (f"train.checkpoint_every='{DIGITS} steps'", "train.checkpoint_every: "),
        (f"train.batch_size={2**63 - 1}", "train.batch_size: must be less than or equal to 1000000"),
        (f"train.batch_size={2**64}", "train.batch_size: must be less than or equal to 1000000"),
        ("phases.0.epochs=1e30", "phases.0.epochs: must be a valid integer"),
        (f"phases.0.epochs={10**30}", "phases.0.epochs: must be less than or equal to 1000000"),
        (f"name={'n' * 256}", "name: string should have at most 200 characters"),
        (f"exports.0.name={'n' * 256}", "exports.0.name: string should have at most 200 characters"),
        ('data.path="a\\u0000b"', "data.path: a path cannot contain a NUL character"),
        (f"data.path={'p' * 5000}", "data.path: string should have at most 4096 characters"),
        (f"seed={'[' * 5000}{']' * 5000}", "nests too deeply"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_words(pets: str, mistake: str, message: str) -> None:
    assert message in refused(pets, mistake)


@pytest.mark.parametrize(
    "mistake",
    [
        "task=X",
        "X=1",
        "seed=X",
        "data.source=X",
        "data.X=1",
        "phases.0.unfreeze=X",
        "phases.0.unfreeze=match:(X",
        "exports.0.target=X",
        "train.xla=X",
        "data=X",
        "preset.name=X",
        "X",
        "phases.X.epochs=1",
        "preset.X=1",
    ],
)
def test_a_long_value_is_cut(pets: str, mistake: str) -> None:
    assert len(refused(pets, mistake.replace("X", "x" * 1_000_000))) < 1500


def test_a_mapping_without_end_is_refused() -> None:
    itself: dict[str, Any] = tomllib.loads(PETS)
    itself["data"] = itself
    assert "it nests too deeply" in refused(itself)


def test_of_many_problems_fifty_are_listed(pets: str) -> None:
    many = tomllib.loads(PETS) | {f"key{number}": 1 for number in range(20_000)}
    with pytest.raises(RecipeError) as caught:
        read(many)
    message = str(caught.value)
    assert "has 20,000 problems" in message
    assert message.count("unknown key") == 50
    assert "and 19,950 more" in message


def test_a_list_of_long_problems_is_cut_as_well(pets: str) -> None:
    assert len(refused(tomllib.loads(PETS) | {f"{number}{'k' * 10_000}": 1 for number in range(60)})) < 4000


@pytest.mark.parametrize("table", ["phases", "exports"])
def test_a_recipe_has_a_hundred_phases_and_exports_at_most(pets: str, table: str) -> None:
    values = tomllib.loads(PETS)
    values[table] *= 5000
    assert f"{table}: has {len(values[table]):,} entries, but 100 are allowed" in refused(values)


@pytest.mark.parametrize(
    "text", ["a." * 400_000 + "a = 1", f"[{'a.' * 400_000}a]", "x = {" + '"b c" . ' * 300 + "a = 1}"]
)
def test_a_key_of_many_parts_is_refused_before_python_reads_it_for_hours(tmp_path: Path, text: str) -> None:
    assert "a key of more than 200 parts" in refused(write(tmp_path / "pets.toml", PETS + text))


def test_no_control_character_of_a_path_reaches_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in refused("\x1b[31mred.toml") + refused(write(tmp_path / "\x1b[31m.toml", "task = 1"))


def test_a_file_with_a_long_name_trains_under_a_shorter_one(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / f"{'n' * 240}.toml", PETS)).name) == 200


@pytest.mark.parametrize("reference", ["n" * 300, f"{'n' * 300}.toml", "a\0b.toml", "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(reference: str) -> None:
    refused(reference)


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pets.toml")
    assert "it is not a file" in refused(str(tmp_path / "pets.toml"))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    assert "2,000,000 bytes" in refused(write(tmp_path / "pets.toml", "#" * 2_000_000))


# --- what is shipped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_shipped_recipe_is_valid_and_says_first_what_it_does_and_how_to_run_it(name: str) -> None:
    assert read(name).name == name
    comment = [line for line in recipe.find(name)[1].partition("task =")[0].splitlines() if line]
    assert len(comment) >= 2
    assert all(line.startswith("#") for line in comment)
    assert any("$ kerastune run " in line for line in comment)


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in recipe.shipped()


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_resolved_recipe_reads_back_equal_with_the_same_hash(name: str, tmp_path: Path) -> None:
    before = read(name)
    after = read(write(tmp_path / "recipe.toml", before.to_toml()))
    assert after == before
    assert after.sha256() == before.sha256()


def test_a_recipe_with_every_kind_of_value_reads_back_equal(pets: str, tmp_path: Path) -> None:
    overrides = ["train.xla=true", "data.image_size=64", "augment.crop=0.1", "phases.1.unfreeze=match:\\d\"'#\\\\"]
    before = read(pets, overrides)
    assert read(write(tmp_path / "recipe.toml", before.to_toml())) == before


def test_the_hash_changes_with_any_value(pets: str) -> None:
    changed = [[], ["seed=1"], ["train.batch_size=9"], ["phases.1.epochs=2"], ["exports.0.quantize=int8"]]
    assert len({read(pets, overrides).sha256() for overrides in changed}) == len(changed)


def test_a_recipe_cannot_be_changed(pets: str) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(pets).seed = 1


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"target": "linux"}, "linux"),
        ({"target": "linux", "quantize": "none"}, "linux"),
        ({"target": "linux", "quantize": "int8"}, "linux-int8"),
        ({"format": "tflite", "quantize": "dynamic"}, "tflite-dynamic"),
        ({"format": "onnx", "name": "for-the-web"}, "for-the-web"),
    ],
)
def test_an_artifact_is_called_after_its_target_or_format_and_quantisation(values: dict[str, Any], name: str) -> None:
    assert recipe.export_name(Export(**values)) == name


# --- the schema --------------------------------------------------------------------------------------------


def test_the_schema_allows_no_unknown_key_anywhere_and_knows_every_section() -> None:
    schema = recipe.json_schema()
    tables = schema["$defs"]
    assert {"FolderData", "CsvData", "TfdsData", "TableData", "Augment", "Train", "Phase", "Export"} <= tables.keys()
    assert all(table["additionalProperties"] is False for table in tables.values())
    for task in recipe.recipes().values():
        assert set(tables[task.__name__]["properties"]) == set(task.model_fields)
        assert "name" not in tables[task.__name__]["required"]  # the file's name stands in
    json.dumps(schema)


@pytest.mark.skipif(find_spec("jsonschema") is None, reason="needs the package jsonschema")
def test_the_schema_accepts_shipped_recipes_and_rejects_an_unknown_key() -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(recipe.json_schema())
    validator.check_schema(recipe.json_schema())
    for name in recipe.shipped():
        values = tomllib.loads(recipe.find(name)[1])
        assert validator.is_valid(values)
        assert not validator.is_valid({**values, "sed": 1})
        assert not validator.is_valid({**values, "train": {"batchsize": 1}})


def test_examples_without_a_label_are_not_drawn_by_label() -> None:
    data = {"source": "csv", "path": "prices.csv", "regression": True, "per_label": 8}
    said = refused({"task": "text_classification", "preset": "p", "data": data, "phases": [{"unfreeze": "head"}]})
    assert "data.per_label draws examples by their label, and these data have none" in said

"""Where tiny real models of many families are cut, that the two parts are the whole, and what is kept of the first."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiny import BACKBONES, VIT, classifier, hub

from kerastune import files
from kerastune.errors import KerastuneError, RecipeError
from kerastune.recipe import Phase
from kerastune.training import decide, freezing
from kerastune.training.prefix import cache, cutting, forward
from kerastune.training.prefix.cache import Spec

random = np.random.default_rng(0)
IMAGES = tf.constant(random.normal(size=(8, 32, 32, 3)), tf.float32)
TOKENS = {
    "token_ids": tf.constant(random.integers(1, 50, (8, 8)), tf.int32),
    "segment_ids": tf.zeros((8, 8), tf.int32),
    "padding_mask": tf.constant(np.arange(8)[None] < random.integers(2, 9, (8, 1)), tf.int32),
}
SOUNDS = tf.constant(random.normal(size=(8, 20, 80)), tf.float32)
LABELS = tf.constant([0, 1] * 4)


def bert(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    return hub.BertTextClassifier(backbone=BACKBONES["BERT"](), num_classes=2, preprocessor=None)


def whisper(seed: int = 0) -> Any:
    """No KerasHub task: a head on Whisper's encoder."""
    keras.utils.set_random_seed(seed)
    whole = BACKBONES["Whisper"]()
    encoder = keras.Model(whole.input["encoder_features"], whole.output["encoder_sequence_output"], name="encoder")
    sounds = keras.Input((20, 80))
    pooled = layers.GlobalAveragePooling1D(name="pooler")(encoder(sounds))
    return with_backbone(keras.Model(sounds, layers.Dense(2, name="logits")(pooled)), encoder)


def with_backbone(task: Any, backbone: Any) -> Any:
    task.backbone = backbone
    return task


def build(family: str, seed: int = 0) -> tuple[Any, Any]:
    """A task and a batch of eight."""
    made = {"BERT": (bert, TOKENS), "Whisper": (whisper, SOUNDS)}.get(family)
    return (made[0](seed), made[1]) if made else (classifier(family, seed), IMAGES)


def frozen(task: Any, unfreeze: str = "head", **settings: Any) -> Any:
    freezing.freeze(task, Phase(unfreeze=unfreeze, **settings))
    return task


def cut(task: Any, x: Any) -> cutting.Cut:
    found, why = cutting.cut(task, x)
    assert found is not None, why
    return found


def relative(one: Any, other: Any) -> float:
    return cutting.difference([np.asarray(one)], [np.asarray(other)])


# --- where ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "unfreeze", "after", "size"),
    [
        ("EfficientNet", "head", ["output_dropout"], 4 * 1280),  # a dropout of rate 0
        ("EfficientNet", "top:1", ["block2a_"], 4 * 8 * 8 * 16),
        ("EfficientNet", "match:top_", ["block2b_"], 4 * 8 * 8 * 16),
        ("ResNet", "head", ["output_dropout"], 4 * 64),
        ("ResNet", "top:1", ["stack0_block1_out"], 4 * 8 * 8 * 64),
        ("ResNet", "match:stack0_block1", ["stack0_block0_out"], 4 * 8 * 8 * 64),
        ("ViT", "head", ["output_dropout"], 4 * 8),
        ("ViT", "top:1", ["transformer_block_1"], 4 * 17 * 8),
        ("ViT", "match:ln$", ["transformer_block_2"], 4 * 17 * 8),
        ("BERT", "head", ["pooled_dense"], 4 * 8),
        ("BERT", "top:1", ["padding_mask", "transformer_layer_0"], 4 * 8 + 4 * 8 * 8),
        ("BERT", "match:pooled", ["transformer_layer_1.GetItem"], 4 * 8),
        ("Whisper", "head", ["pooler"], 4 * 8),
        ("Whisper", "top:1", ["transformer_encoder_layer_0"], 4 * 10 * 8),
        ("Whisper", "match:layer_norm", ["transformer_encoder_layer_1"], 4 * 10 * 8),
        ("MobileNet", "top:1", ["block_2_1"], 4 * 4 * 4 * 16),
        ("DenseNet", "top:1", ["transition1_pool"], 4 * 4 * 4 * 36),
    ],
)
def test_a_model_is_cut_before_the_first_layer_that_trains(
    family: str, unfreeze: str, after: list[str], size: int
) -> None:
    task, x = build(family)
    found = cut(frozen(task, unfreeze), x)
    assert list(found.after) == after
    assert found.bytes_per_example == size
    assert cutting.prove(found, x) is None


def test_the_share_is_that_of_the_backbones_parameters() -> None:
    task, x = build("ResNet")
    assert cut(frozen(task, "head"), x).share == 1
    found = cut(frozen(task, "top:1"), x)
    ahead = sum(np.prod(w.shape) for w in found.prefix_weights)
    assert found.share == pytest.approx(ahead / task.backbone.count_params())


def test_nothing_is_cut_where_the_first_layer_trains() -> None:
    task, x = build("ResNet")
    found, why = cutting.cut(frozen(task, "all"), x)
    assert found is None
    assert why == "conv1_conv (trains) comes first, so there is no frozen prefix"


def test_cutting_leaves_the_model_as_it_was() -> None:
    task, x = build("ViT")
    before = [len(layer._inbound_nodes) for layer in task._flatten_layers()]
    cut(frozen(task, "top:1"), x)
    assert [len(layer._inbound_nodes) for layer in task._flatten_layers()] == before


def toy(
    backbone: Callable[[Any], Any], head: Callable[[Any], Any], *, shape: Any = (8, 8, 3), dtype: Any = None
) -> Any:
    """A task of a backbone, frozen, and a head, which trains."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    inner, outer = keras.Input(shape, dtype=dtype), keras.Input(shape, dtype=dtype)
    base = keras.Model(inner, backbone(inner), name="base")
    base.trainable = False
    return with_backbone(keras.Model(outer, head(base(outer))), base)


PIXELS = IMAGES[:4, :8, :8]


def test_several_tensors_cross_where_a_skip_connection_does() -> None:
    def backbone(x: Any) -> Any:
        first = layers.Conv2D(4, 3, padding="same", name="first")(x)
        return [first, layers.Conv2D(2, 3, padding="same", name="second")(first)]

    def head(tensors: Any) -> Any:
        return layers.Concatenate()([tensors[0], layers.Conv2D(2, 1)(tensors[1])])

    found = cut(toy(backbone, head), PIXELS)
    assert found.after == ("first", "second")
    assert found.specs == (Spec((8, 8, 4), "float32"), Spec((8, 8, 2), "float32"))
    assert cutting.prove(found, PIXELS) is None


def test_a_tensor_that_is_read_twice_is_kept_once() -> None:
    def head(x: Any) -> Any:
        return layers.Add()([x, layers.Conv2D(4, 1)(x)])

    assert cut(toy(layers.Conv2D(4, 3, padding="same", name="first"), head), PIXELS).after == ("first",)


@pytest.mark.parametrize(
    ("layer", "after"),
    [(layers.GlobalAveragePooling2D, "free"), (layers.Flatten, "free"), (layers.UpSampling2D, "convolution")],
)
def test_layers_without_weights_move_in_front_unless_they_make_it_larger(layer: Any, after: str) -> None:
    convolution = layers.Conv2D(4, 3, padding="same", name="convolution")
    task = toy(lambda x: layer(name="free")(convolution(x)), layers.Dense(2))
    assert cut(task, PIXELS).after == (after,)


@pytest.mark.filterwarnings("ignore:.*mask:UserWarning")
def test_masks_cross_with_the_tensors_that_carry_them() -> None:
    ids = tf.constant([[3, 4, 0, 0, 0], [1, 2, 3, 4, 0]])
    task = toy(layers.Embedding(9, 8, mask_zero=True, name="table"), layers.LSTM(4), shape=(5,), dtype="int32")
    found = cut(task, ids)
    assert dict(zip(found.after, found.specs, strict=True)) == {
        "input 0.NotEqual": Spec((5,), "bool"),
        "table": Spec((5, 8), "float32"),
    }
    assert cutting.prove(found, ids) is None
    mask, table = found.prefix(ids)
    assert relative(found.tail((tf.ones_like(mask), table), training=False), task(ids)) > 1e-3  # it is obeyed


def test_raw_inputs_cross_that_the_tail_reads() -> None:
    task, x = build("BERT")
    found = cut(frozen(task, "top:1"), x)
    assert np.array_equal(found.prefix(x)[0], x["padding_mask"])


def test_a_trainable_batch_norm_is_not_cut_through_even_if_it_has_no_weights_that_train() -> None:
    def head(x: Any) -> Any:
        return layers.Dense(2)(layers.BatchNormalization(center=False, scale=False, name="norm")(x))

    found, why = cutting.cut(toy(layers.Conv2D(4, 3, name="convolution"), head), PIXELS)
    assert found is not None
    assert found.after == ("convolution",)
    assert "norm (updates its statistics) comes next" in why


def test_what_crosses_keeps_its_type() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        task = hub.ViTImageClassifier(backbone=BACKBONES["ViT"](), num_classes=2, preprocessor=None)
    finally:
        keras.config.set_dtype_policy("float32")
    found = cut(frozen(task, "top:1"), IMAGES)
    assert found.specs == (Spec((17, 8), "bfloat16"),)
    assert found.bytes_per_example == 2 * 17 * 8
    assert cutting.prove(found, IMAGES) is None
    kept = cache.compute(forward.forward(found, "tensorflow", IMAGES), [(IMAGES, range(8))], 8, found.specs)
    assert relative(found.tail(kept.rows(np.arange(8)), training=False), task(IMAGES)) == 0


# --- that the parts are the whole ------------------------------------------------------------------------------


def test_the_proof_fails_when_the_parts_are_not_the_whole() -> None:
    task, x = build("ResNet")
    found = cut(frozen(task, "top:1"), x)
    task.trainable = False
    assert cutting.prove(found, x) == "the trainable weights are not those after the cut"


class Restless(layers.Layer):
    """Computes something else each time, which no graph shows."""

    calls = 0

    def call(self, x: Any) -> Any:
        self.calls += 1
        return x + 0.001 * self.calls


def test_the_proof_fails_when_the_split_model_computes_something_else() -> None:
    base = keras.Sequential([layers.Conv2D(4, 3), Restless()])
    found = cut(toy(base, layers.Conv2D(2, 3)), PIXELS)
    assert "the split model's outputs differ by 0.0" in str(cutting.prove(found, PIXELS))


def losses(task: Any, outputs: Callable[[Any], Any], batches: list[tuple[Any, Any]]) -> list[float]:
    optimizer, found = keras.optimizers.Adam(1e-2), []
    for x, labels in batches:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, outputs(x), from_logits=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, task.trainable_variables), task.trainable_variables, strict=True)
        )
        found.append(float(loss))
    return found


@pytest.mark.parametrize("unfreeze", ["head", "top:1"])
@pytest.mark.parametrize("family", ["EfficientNet", "ResNet", "ViT", "BERT", "Whisper"])
def test_training_from_kept_features_is_training(family: str, unfreeze: str) -> None:
    """Three steps: the losses agree to 1e-5, and then the predictions, with the head's dropout active."""
    tasks = []
    for _ in range(2):
        task, x = build(family)
        for layer in task.backbone._flatten_layers():  # else `task(x, training=True)` has them in frozen blocks too
            if isinstance(layer, layers.Dropout):
                layer.rate = 0
            elif hasattr(layer, "_dropout"):
                layer._dropout = 0
        tasks.append(frozen(task, unfreeze))
    whole, split = tasks
    found = cut(split, x)
    kept = cache.compute(forward.forward(found, "tensorflow", x), [(x, range(8))], 8, found.specs)
    orders = [np.array(order) for order in ([0, 3, 5, 6], [1, 2, 4, 7], [7, 6, 5, 4])]
    pick: Any = lambda order: keras.tree.map_structure(lambda t: tf.gather(t, order), x)  # noqa: E731
    expected = losses(whole, lambda x: whole(x, training=True), [(pick(o), tf.gather(LABELS, o)) for o in orders])
    got = losses(split, lambda x: found.tail(x, training=True), [(kept.rows(o), tf.gather(LABELS, o)) for o in orders])
    assert got == pytest.approx(expected, rel=1e-5)
    assert got[-1] != pytest.approx(got[0], rel=1e-3)  # they learn
    assert relative(whole(x), split(x)) < 1e-4


def test_dropout_is_off_in_front_and_on_behind() -> None:
    """ViT's blocks take no `training` argument: it has to reach the dropout inside them by itself."""
    backbone = hub.ViTBackbone(mlp_dim=16, **VIT, dropout_rate=0.5, attention_dropout=0.5)
    task = frozen(hub.ViTImageClassifier(backbone=backbone, num_classes=2, preprocessor=None), "top:1")
    found = cut(task, IMAGES)
    assert found.after == ("transformer_block_1",)
    kept = found.prefix(IMAGES)
    assert np.array_equal(kept[0], found.prefix(IMAGES)[0])
    assert relative(found.tail(kept, training=True), found.tail(kept, training=True)) > 1e-3
    assert relative(found.tail(kept, training=False), task(IMAGES)) == 0


def test_dropout_in_front_of_all_that_trains_is_off_behind_the_cut_too() -> None:
    """Upsampling stays behind the cut, and so does the dropout after it."""

    def backbone(x: Any) -> Any:
        return layers.Dropout(0.5)(layers.UpSampling2D()(layers.Conv2D(4, 3, name="convolution")(x)))

    found = cut(toy(backbone, layers.Dense(2)), PIXELS)
    assert found.after == ("convolution",)
    kept = found.prefix(PIXELS)
    assert np.array_equal(found.tail(kept, training=True), found.tail(kept, training=False))


def test_the_heads_dropout_ends_the_prefix() -> None:
    task = hub.ResNetImageClassifier(backbone=BACKBONES["ResNet"](), num_classes=2, preprocessor=None, dropout=0.5)
    found = cut(frozen(task), IMAGES)
    assert found.after == ("pooler",)
    kept = found.prefix(IMAGES)
    assert relative(found.tail(kept, training=True), found.tail(kept, training=True)) > 1e-3


def test_a_fingerprint_tells_weights_and_graphs_apart_and_not_buildings() -> None:
    def made(pooling: str, seed: int) -> str:
        keras.utils.set_random_seed(seed)
        task = hub.ResNetImageClassifier(
            backbone=BACKBONES["ResNet"](), num_classes=2, preprocessor=None, pooling=pooling
        )
        return cut(frozen(task), IMAGES).fingerprint()

    first = made("avg", 0)
    assert made("avg", 0) == first
    assert first not in (made("avg", 1), made("max", 0))


class Scaled(layers.Layer):
    """A layer whose settings are a dictionary, a set and an array."""

    def __init__(self, **scale: Any) -> None:
        super().__init__()
        self.scale, self.names, self.array = {"by": scale}, set(scale), np.array(list(scale.values()))

    def call(self, x: Any) -> Any:
        return x * sum(self.scale["by"].values())


def test_settings_in_dictionaries_sets_and_arrays_are_told_apart() -> None:
    first = json.dumps(cutting._settings(Scaled(a=1.0)))
    assert json.dumps(cutting._settings(Scaled(a=1.0))) == first
    for other in (Scaled(a=2.0), Scaled(b=1.0)):
        assert json.dumps(cutting._settings(other)) != first
    one, two = Scaled(a=1.0), Scaled(a=1.0)
    two.array = np.array([1.5])
    assert json.dumps(cutting._settings(one)) != json.dumps(cutting._settings(two))


# --- keeping -------------------------------------------------------------------------------------------------

SPECS = (Spec((3,), "float32"), Spec((2, 2), "int32"))
INDICES = np.array([6, 0, 6, 3])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path))
    return tmp_path / "features"


def rows(start: int, count: int) -> tuple[Any, Any]:
    n = np.arange(start, start + count)
    return (n[:, None] + np.zeros(3, np.float32)).astype(np.float32), (n[:, None, None] * np.ones((2, 2))).astype(
        np.int32
    )


def keep(key: str | None, n: int = 7, each: Any = lambda done: None) -> cache.Features:
    sizes = [(start, min(4, n - start)) for start in range(0, n, 4)]
    batches = [((start, count), range(start, start + count)) for start, count in sizes]
    return cache.compute(lambda batch: rows(*batch), batches, n, SPECS, key, f"rows for {key}", each)


def test_rows_from_disk_are_those_from_memory(home: Path) -> None:
    told: list[int] = []
    memory, disk = keep(None), keep("a" * 64, each=told.append)
    assert told == [4, 7]
    for one, other in zip(memory.rows(INDICES), disk.rows(INDICES), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert disk.rows(INDICES)[0][:, 0].tolist() == [6, 0, 6, 3]


def test_rows_that_come_in_any_order_are_put_where_they_belong(home: Path) -> None:
    batches = [((4, 3), [4, 5, 6]), ((0, 4), [0, 1, 2, 3])]
    for key in (None, "c" * 64):
        kept = cache.compute(lambda batch: rows(*batch), batches, 7, SPECS, key)
        assert kept.rows(INDICES)[0][:, 0].tolist() == [6, 0, 6, 3]


def test_reading_from_disk_keeps_memory_flat(home: Path) -> None:
    """64 MB of rows, all read: resident memory grows by less than 16 MB, where one lasting map would take all."""
    import psutil

    block = np.ones((1024, 2048), np.float32)  # 8 MB
    kept = cache.compute(
        lambda i: (block * i,),
        [(i, range(1024 * i, 1024 * (i + 1))) for i in range(8)],
        8 * 1024,
        [Spec((2048,), "float32")],
        "b" * 64,
    )
    before = psutil.Process().memory_info().rss
    for start in range(0, kept.n, 64):
        kept.rows(np.arange(start, start + 64))
    assert psutil.Process().memory_info().rss - before < 16e6


def test_kept_features_are_found_again(home: Path) -> None:
    assert cache.stored("a" * 64) is None
    keep("a" * 64)
    found = cache.stored("a" * 64)
    assert found is not None
    assert np.array_equal(found.rows(INDICES)[1], keep(None).rows(INDICES)[1])
    (entry,) = cache.listing()
    assert (entry["key"], entry["bytes"], entry["examples"]) == ("a" * 64, 7 * (12 + 16), 7)
    assert entry["of"] == "rows for " + "a" * 64


@pytest.mark.parametrize("damage", ["1.bin", "features.json"])
def test_damaged_features_are_deleted_and_made_anew(home: Path, damage: str) -> None:
    keep("a" * 64)
    path = home / ("a" * 64) / damage
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.stored("a" * 64) is None
    assert not path.parent.exists()
    assert len(keep("a" * 64).rows(INDICES)[0]) == 4


def test_features_with_a_changed_byte_are_told_of_and_made_anew(home: Path) -> None:
    keep("a" * 64)
    path, told = home / ("a" * 64) / "1.bin", list[str]()
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")  # as a power cut leaves zeros in a file of the right size
    assert cache.stored("a" * 64, told.append) is None
    assert "is damaged; it is made again" in told[0] and str(path.parent) in told[0]
    assert keep("a" * 64).rows(INDICES)[1].tolist() == keep(None).rows(INDICES)[1].tolist()


def test_a_shared_cache_that_may_only_be_read_is_read_and_not_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("a" * 64)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}

    def refused(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "is_writable", lambda folder: False)
    for name in ("utime", "mkdir", "rename"):
        monkeypatch.setattr(os, name, refused)
    found = cache.stored("a" * 64)
    assert found is not None and len(found.rows(INDICES)[0]) == 4
    assert cache.room() == 0
    assert all(isinstance(source, np.ndarray) for source in keep("b" * 64).sources)  # in memory
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_what_cannot_be_written_and_is_larger_than_the_memory_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_writable", lambda folder: False)
    monkeypatch.setattr(cache.environment, "memory_available", lambda: 7)
    with pytest.raises(KerastuneError, match=r"cannot be kept: .* cannot be written, and 0.0 MB of memory are free"):
        keep("a" * 64)


def test_a_damaged_entry_of_a_shared_cache_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("a" * 64)
    (home / ("a" * 64) / "0.bin").write_bytes(b"")
    monkeypatch.setattr(files, "discard", lambda folder: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert cache.stored("a" * 64) is None


def test_of_two_processes_at_once_the_slower_one_discards_its_own(home: Path) -> None:
    keep("a" * 64, each=lambda done: done == 4 and keep("a" * 64))  # another starts and ends in the middle of this one
    assert [path.name for path in home.iterdir()] == ["a" * 64]


def test_a_pass_that_fails_leaves_nothing(home: Path) -> None:
    with pytest.raises(ValueError, match="8 examples instead of 9"):
        cache.compute(lambda batch: rows(*batch), [((0, 8), range(8))], 9, SPECS, "a" * 64)
    with pytest.raises(ValueError, match="instead of"):
        cache.compute(lambda batch: rows(*batch)[:1], [((0, 8), range(8))], 8, SPECS, "a" * 64)
    assert list(home.iterdir()) == []


def test_what_is_half_written_is_never_listed_and_cleared_when_its_process_is_gone(home: Path) -> None:
    home.mkdir(parents=True)
    dead = home / f".{'a' * 64}-0123abcd.partial"
    with files.beside(home / ("b" * 64)) as alive:
        for partial in (dead / ("a" * 64), alive / ("b" * 64)):
            partial.mkdir(parents=True)
            (partial / "features.json").write_text(json.dumps({"of": "", "examples": 1, "bytes": 1, "created": ""}))
            (partial / "0.bin").write_bytes(b"12345")
        assert cache.listing() == []
        os.utime(alive, (0, 0))  # however old it is
        assert cache.clear() == 5
        assert list(home.iterdir()) == [alive]


def test_the_least_recently_used_make_room_but_never_those_in_use(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 7 * (12 + 16)
    monkeypatch.setenv("KERASTUNE_CACHE_GB", str(4.5 * size / 1e9))
    held = keep("0" * 64)
    for key in "123":
        keep(key * 64)
    for used, key in enumerate("0123"):
        os.utime(home / (key * 64) / "features.json", (used, used))
    cache.stored("1" * 64)
    keep("4" * 64)
    assert {entry["key"][0] for entry in cache.listing()} == {"0", "1", "3", "4"}
    assert len(held.rows(INDICES)[0]) == 4


def test_what_does_not_fit_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASTUNE_CACHE_GB", "1e-7")
    assert cache.room() == 100
    with pytest.raises(KerastuneError, match="do not fit on the disk"):
        keep("a" * 64)
    monkeypatch.setenv("KERASTUNE_CACHE_GB", "plenty")
    with pytest.raises(KerastuneError, match="'plenty' is no number of gigabytes"):
        cache.room()


def test_keys_may_be_cleared_by_their_beginnings(home: Path) -> None:
    keep("a" * 64), keep("b" * 64)
    with pytest.raises(KerastuneError, match="under the key 'c'"):
        cache.clear(["c"])
    assert cache.clear(["aaaa"]) == 7 * (12 + 16)
    assert [entry["key"][0] for entry in cache.listing()] == ["b"]


def test_a_key_holds_all_that_the_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"digests": ["1", "2"], "fingerprint": "f", "specs": SPECS, "preprocessing": "p", "device": "CPU"}
    base = cache.key(**same, forward="tensorflow", batch_size=4)
    assert cache.key(**same, forward="tensorflow", batch_size=4) == base
    changes: list[dict[str, Any]] = [
        {"digests": ["2", "1"]},
        {"fingerprint": "g"},
        {"specs": SPECS[:1]},
        {"preprocessing": "q"},
        {"forward": "onnxruntime"},
        {"batch_size": 8},
        {"device": "GPU"},
    ]
    others = {cache.key(**{**same, "forward": "tensorflow", "batch_size": 4, **change}) for change in changes}
    for name in ("pillow", "tokenizers", "sentencepiece"):
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_version", lambda of, name=name: "99" if of == name else None)
            others.add(cache.key(**same, forward="tensorflow", batch_size=4))
    assert len(others | {base}) == 11


ROOM: dict[str, Any] = {
    "bytes_needed": 10**9,
    "epochs": 5,
    "memory_available": 8 * 10**9,
    "disk_available": 2 * 10**9,
    "changes": False,
    "cut_reason": None,
}


@pytest.mark.parametrize(
    ("asked", "case", "got", "why"),
    [
        ("off", {}, "off", "as asked"),
        ("auto", {}, "memory", "1.0 GB, at most a quarter of the 8.0 GB of free memory"),
        ("auto", {"memory_available": 3 * 10**9}, "disk", "the disk has room for 2.0 GB"),
        ("auto", {"memory_available": 10**9, "disk_available": 10**8}, "off", "than the disk has room for (100.0 MB)"),
        ("auto", {"epochs": 1}, "off", "one epoch"),
        ("auto", {"epochs": 1, "is_stored": True}, "disk", "an earlier run cached them"),
        ("auto", {"changes": True, "is_stored": True}, "off", "train.cache_views"),
        ("auto", {"cut_reason": "x trains first"}, "off", "nothing to cache: x trains first"),
        ("memory", {"epochs": 1}, "memory", "as requested"),
        ("disk", {}, "disk", "as requested; 1.0 GB"),
    ],
)
def test_where_features_are_kept(asked: Any, case: dict[str, Any], got: str, why: str) -> None:
    found = decide.place(asked, **{**ROOM, **case})
    assert found[0] == got
    assert why in found[1]


@pytest.mark.parametrize(
    ("asked", "case", "message"),
    [
        ("memory", {"cut_reason": "stem (trains) comes first"}, "nothing to cache: stem"),
        ("disk", {"changes": True}, r"\[augment\] changes the images every epoch"),
        ("memory", {"memory_available": 10**8}, "the features take 1.0 GB, and the memory has room for 100.0 MB"),
        ("disk", {"disk_available": 10**8}, "the features take 1.0 GB, and the disk has room for 100.0 MB"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_an_error(asked: Any, case: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        decide.place(asked, **{**ROOM, **case})
    assert caught.value.message.startswith(f'train.cache = "{asked}"')
    assert caught.value.hint


# --- the forward pass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family"),
    [("tensorflow", "EfficientNet"), ("xla", "EfficientNet")]
    + [("folded", family) for family in ("EfficientNet", "ViT", "BERT", "Whisper")],
)
def test_every_implementation_computes_the_prefix_for_full_and_partial_batches(name: Any, family: str) -> None:
    """Within 1e-4 of the largest value, and the same bits for the same batch."""
    task, x = build(family)
    found = cut(frozen(task), x)
    run = forward.forward(found, name, x)
    part, other = ({k: v[i] for k, v in x.items()} if isinstance(x, dict) else x[i] for i in (slice(3), slice(1, 4)))
    assert cutting.difference(found.prefix(x), run(x)) < 1e-4
    assert cutting.difference(found.prefix(part), run(part)) < 1e-4
    assert np.array_equal(run(x)[0], run(x)[0])
    assert cutting.difference(found.prefix(other), run(part)) > 1e-3


def test_nothing_else_is_tried_for_a_short_pass() -> None:
    task, x = build("EfficientNet")
    _, got, why = forward.fastest(cut(frozen(task), x), [x, x], n_batches=10)
    assert got == "tensorflow"
    assert "too short to try folded" in why
    assert "too short to try onnxruntime" in why


def test_the_faster_candidate_is_taken_if_it_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime is faster here: the batch is one small image, and TensorFlow's overhead is larger. 1e-4 relative."""
    monkeypatch.setitem(forward._TRYING, "onnxruntime", 0.0)
    found = cut(toy(layers.Conv2D(4, 3, name="convolution"), layers.Conv2D(2, 3)), PIXELS[:1])
    run, got, _ = forward.fastest(found, [PIXELS[:1]] * 6, n_batches=10**6)
    assert got == "onnxruntime"
    for x in (PIXELS, PIXELS[:3]):
        assert cutting.difference(found.prefix(x), run(x)) < 1e-4
        assert np.array_equal(run(x)[0], run(x)[0])


def test_a_faster_candidate_that_disagrees_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    task, x = build("EfficientNet")
    found = cut(frozen(task), x)
    wrong = tuple(np.asarray(tensor) * 1.001 for tensor in found.prefix(x))
    monkeypatch.setitem(forward._TRYING, "onnxruntime", 0.0)
    monkeypatch.setattr(forward, "_onnxruntime", lambda made, signature: lambda x: wrong)
    monkeypatch.setattr(forward, "_frozen", lambda made, signature: lambda *x: map(tf.constant, wrong))
    _, got, why = forward.fastest(found, [x, x], n_batches=10**6)
    assert got == "tensorflow"
    assert why.count("differing by 0.001 of the largest value") == 2


def test_a_candidate_that_cannot_run_the_prefix_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(forward._TRYING, "onnxruntime", 0.0)
    task, x = build("BERT")
    *_, why = forward.fastest(cut(frozen(task, "top:1"), x), [x], n_batches=10**6)
    assert "onnxruntime cannot run it: it supports only one input and one output" in why
    assert "no BatchNorm to fold" in why

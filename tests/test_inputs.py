"""Examples are decoded once, kept by the rules of the cache, and train to the same bits as when they are not kept."""

from dataclasses import replace

import numpy as np
import pytest
from bits import assert_same_bits

from kerastune import data, fine_tune
from kerastune.data import Order
from kerastune.errors import RecipeError
from kerastune.progress import Progress
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.image_classification.settings import Augment
from kerastune.training import decide, inputs
from kerastune.training.feed import Feed
from kerastune.training.plan import plan
from kerastune.workers.group import Group

CHANGES = {"flip": "horizontal", "crop": 0.2, "color": 0.3, "mixup": 0.2}
PHASES = [{"unfreeze": "all", "epochs": 2, "learning_rate": 1e-3}]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def wanted(recipe):
    """Pictures that are resized to 48 pixels and changed, in batches of 7."""

    def make(where="auto", phases=PHASES, augment=CHANGES, **train):
        settings = {"batch_size": 7, "precision": "float32", "xla": False, "inputs": where, **train}
        made = recipe("resnet", phases=phases, augment=augment, train=settings)
        return made.model_copy(update={"data": made.data.model_copy(update={"image_size": 48})})

    return make


def test_kept_pictures_train_to_the_same_bits(wanted, tmp_path):
    for where in ("off", "memory", "disk"):
        fine_tune(wanted(where), tmp_path / where)
    assert_same_bits(tmp_path / "off", tmp_path / "memory")
    assert_same_bits(tmp_path / "off", tmp_path / "disk")
    (decision,) = [one for one in plan(wanted()).decisions if one.key == "train.inputs"]
    assert decision.got == "disk" and decision.why.startswith("an earlier run kept them")


def test_kept_pictures_are_read_once_however_many_epochs_there_are(wanted):
    made, read = plan(wanted()), []
    train, validation = made.splits.train, made.splits.validation
    counted = replace(train, read=lambda i: read.append(int(i)) or train.read(i))
    batches = replace(made.batches, splits=replace(made.splits, train=counted))
    kept = inputs.keep(batches, False, Progress())
    for _ in kept.of("train", kept.order("train", 3, (0,)), kept.changes(1)):
        pass
    assert sorted(read) == list(range(len(train)))
    assert len(kept.splits.validation.kept(np.arange(len(validation)))) == len(validation)


def test_a_picture_is_changed_alike_in_batches_of_any_size(wanted):
    made = plan(wanted())
    task, split = made.task, made.splits.train
    augment = Augment(flip="horizontal", crop=0.2, color=0.3, rand_augment=0.3)
    seen = []
    for size, start in ((3, 0), (7, 0), (len(split), 1)):
        order = Order(len(split), size, 2, (5,), start if size == len(split) else -(-len(split) // size))
        found = feeding.training(task, split, order, augment, seed=3)
        x, i = (np.concatenate(parts) for parts in zip(*found, strict=True))
        seen.append(x[np.argsort(i)])
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


def test_a_picture_is_changed_otherwise_in_each_epoch_and_unlike_its_neighbour(wanted):
    made = plan(wanted())
    split = made.splits.train
    same = replace(split, read=lambda i: split.read(0))  # all pictures are one
    found = feeding.training(made.task, same, Order(len(split), len(split), 2), Augment(crop=0.3), seed=3)
    first, second = (x.numpy() for x, _ in found)
    assert not np.array_equal(first[0], second[0])
    assert len({x.tobytes() for x in first}) > len(split) / 2


def test_pixels_of_training_are_those_of_devices_rounded(wanted):
    made = plan(wanted())
    split, order = made.splits.validation, Order(len(made.splits.validation), 4)
    (decoded,) = (np.concatenate([x for x, _ in feeding.decoded(made.task, split, order)]),)
    converter = feeding.normaliser(made.task)
    seen = np.concatenate([x for x, _ in feeding.batches(made.task, split, order)])
    scale = np.ptp(converter(np.array([0.0, 255.0], np.float32).reshape(2, 1, 1, 1) * np.ones((1, 1, 1, 3)))) / 255
    assert decoded.dtype == np.uint8
    assert 0 < np.abs(np.asarray(converter(decoded.astype(np.float32))) - seen).max() <= 0.501 * scale


def test_nothing_is_kept_that_is_read_once(wanted):
    phases = [{"unfreeze": "head", "epochs": 5, "learning_rate": 1e-2}]
    (decision,) = [one for one in plan(wanted(phases=phases, augment={})).decisions if one.key == "train.inputs"]
    assert (decision.got, decision.asked) == ("off", "auto")
    assert "read once" in decision.why


@pytest.mark.parametrize(("memory", "disk", "got"), [(2**40, 0, "memory"), (0, 2**40, "disk"), (0, 0, "off")])
def test_the_place_is_chosen_by_size(wanted, monkeypatch, memory, disk, got):
    monkeypatch.setattr(decide.environment, "memory_available", lambda: memory)
    monkeypatch.setattr(decide.store, "room", lambda: disk)
    (decision,) = [one for one in plan(wanted()).decisions if one.key == "train.inputs"]
    assert decision.got == got
    assert "read 2 times" in decision.why


def test_what_was_asked_for_and_does_not_fit_is_an_error(wanted, monkeypatch):
    monkeypatch.setattr(decide.store, "room", lambda: 10)
    with pytest.raises(RecipeError, match="the disk has room for"):
        plan(wanted("disk"))


def test_texts_have_no_decoded_inputs(text_recipe):
    with pytest.raises(RecipeError, match="keeps no decoded texts"):
        plan(text_recipe(train={"inputs": "memory"}))


def test_a_changed_byte_on_disk_is_found_and_made_again(wanted, tmp_path):
    made = plan(wanted("disk"))
    first = inputs.keep(made.batches, True, Progress()).splits.train.kept(np.arange(3))
    inputs.cache._checked.clear()
    for path in (tmp_path / "home" / "features").glob("*/0.bin"):
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
    again = inputs.keep(made.batches, True, Progress()).splits.train.kept(np.arange(3))
    np.testing.assert_array_equal(first, again)


def alone(rank):
    """One of two workers, which hears only itself."""
    return Group(2, rank, lambda vector: vector)


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_worker_reads_only_its_part_of_a_batch_with_the_pixels_of_the_whole(wanted, is_kept):
    made = plan(wanted(augment={**CHANGES, "mixup": 0.0}))
    train = data.picked(made.splits.train, range(22))  # three batches of 7, and one picture, which the second gets
    batches = replace(made.batches, splits=replace(made.splits, train=train))
    whole = list(Feed(batches, 1, 1, group=Group(2)).train(1, 0))
    for rank in range(2):
        read: list[int] = []
        counted = replace(train, read=lambda i, read=read: read.append(int(i)) or train.read(i))
        own = replace(batches, splits=replace(made.splits, train=counted))
        own = inputs.keep(own, False, Progress()) if is_kept else own
        found = list(Feed(own, 1, 1, group=alone(rank)).train(1, 0))
        assert [len(part[0]) for (part,) in found] == [[3, 3, 3, 0], [4, 4, 4, 1]][rank]
        for (part,), parts in zip(found, whole, strict=True):
            for ours, theirs in zip(part, parts[rank], strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert is_kept or len(read) == len(set(read)) == sum(len(part[0]) for (part,) in found)


def test_mixed_pictures_are_made_from_whole_batches(wanted):
    made = plan(wanted())
    whole, own = (list(Feed(made.batches, 1, 1, group=group).train(1, 0)) for group in (Group(2), alone(1)))
    for parts, (part,) in zip(whole, own, strict=True):
        np.testing.assert_array_equal(parts[1][0], part[0])

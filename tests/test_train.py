"""Training: what is saved is what was trained, seeds repeat it to the bit, and nothing is lost on the way."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from processes import read_until

from kerastune import environment, evaluate, fine_tune, run, weights
from kerastune.cli import cli, show
from kerastune.data import Order
from kerastune.errors import DataError, KerastuneError, RecipeError, VerificationError
from kerastune.progress import Progress
from kerastune.recipe import Export
from kerastune.records import Decision
from kerastune.tasks import losses, text_models
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.image_classification import task as image_classification
from kerastune.tasks.image_classification.settings import Augment
from kerastune.tasks.learnt import Metric
from kerastune.training import decide, loop, precision
from kerastune.training import plan as planning
from kerastune.training.plan import plan


def splits_of(made):
    from kerastune import data

    return data.load(made.recipe.data)


def test_the_run_folder_is_a_preset_with_identical_predictions(trained):
    import keras_hub

    made = trained("efficientnet")
    task = keras_hub.models.ImageClassifier.from_preset(str(made.folder))
    split = splits_of(made).validation
    scores = image_classification.scores("label", task, split, made.recipe.train.batch_size)
    np.testing.assert_array_equal(scores, made.predictions("validation")[2]["scores"])


def test_the_record_says_what_happened(trained):
    made = trained("efficientnet")
    record = made.record
    assert record.labels == ("blue", "green", "red")
    assert record.metrics["test"]["accuracy"] > 0.8
    assert np.sum(record.metrics["test"]["confusion_matrix"]) == sum(record.data.counts["test"].values())
    assert record.phases[0].ran.xla is False
    assert record.phases[0].ran.precision == "float32"
    decided = [(d.phase, d.key) for d in record.decisions]
    assert {(None, "train.precision"), (1, "train.cache"), (1, "train.xla"), (2, "train.xla")} <= set(decided)
    assert len(decided) == len(set(decided))
    assert all(d.why for d in record.decisions)
    assert [row["phase"] for row in made.history] == [1, 1, 1, 2]


def test_the_resolved_recipe_trains_again(trained):
    made = trained("efficientnet")
    assert made.recipe == run.load(made.folder).recipe
    assert made.recipe.sha256() == made.record.recipe_sha256


def test_two_runs_with_one_seed_are_bit_identical(recipe, tmp_path):
    augment = Augment(flip="horizontal", crop=0.2, color=0.3, rand_augment=0.3)
    phases = [{"unfreeze": "all", "epochs": 2, "learning_rate": 1e-2}]
    wanted = recipe("resnet", augment=augment.model_dump(), phases=phases, seed=7)
    first, second = (fine_tune(wanted, tmp_path / name) for name in ("first", "second"))
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]
    np.testing.assert_array_equal(first.predictions("test")[2]["scores"], second.predictions("test")[2]["scores"])


def test_another_seed_trains_another_model(recipe, trained, tmp_path):
    other = fine_tune(recipe("resnet", seed=1), tmp_path / "other")
    assert other.history[0]["loss"] != trained("resnet").history[0]["loss"]


def test_validation_images_are_never_augmented(trained):
    made = trained("resnet")
    task = image_classification.load(str(made.folder))
    split = splits_of(made).validation
    feed = feeding.batches(task, split, Order(len(split), 4))
    first, again = (np.concatenate([x for x, _ in feed]) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_the_pipeline_makes_the_pixels_that_the_device_function_makes(trained):
    made = trained("efficientnet")
    task = image_classification.load(str(made.folder))
    split = splits_of(made).validation
    fed = np.concatenate([x for x, _ in feeding.batches(task, split, Order(len(split), 4))])
    converter = task.preprocessor.image_converter
    for i in range(len(split)):
        np.testing.assert_array_equal(fed[i], converter(split.example(i)[None].astype(np.float32))[0])


@pytest.mark.parametrize("change", [{"flip": "horizontal"}, {"crop": 0.3}, {"color": 0.5}, {"rand_augment": 0.5}])
def test_each_augmentation_changes_training_images_within_their_range(trained, change):
    task = image_classification.load(str(trained("resnet").folder))
    split = splits_of(trained("resnet")).train
    plain, changed = (
        next(iter(feeding.training(task, split, Order(len(split), 16), augment)))[0].numpy()
        for augment in (None, Augment(**change))
    )
    assert np.abs(plain - changed).max() > 0.01
    assert changed.min() >= -2 - 1e-3
    assert changed.max() <= 255 / 64 - 2 + 1e-3


def test_the_best_epoch_is_kept_not_the_last(recipe, tmp_path):
    phases = [
        {"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2},
        {"unfreeze": "all", "epochs": 1, "learning_rate": 0.1},
    ]
    made = fine_tune(recipe("resnet", phases=phases), tmp_path / "run")
    best = max(row["val_accuracy"] for row in made.history)
    assert made.history[-1]["val_accuracy"] < best
    assert made.record.metrics["validation"]["accuracy"] == pytest.approx(best)


def test_a_training_that_diverges_at_once_says_what_to_change(recipe, tmp_path):
    phases = [{"unfreeze": "all", "epochs": 2, "learning_rate": 10.0, "optimizer": "sgd"}]
    with pytest.raises(KerastuneError, match=r"phase 1/1 \(all\) diverged") as caught:
        fine_tune(recipe("resnet", phases=phases), tmp_path / "run")
    assert "phases.0.learning_rate" in caught.value.hint


def test_a_later_phase_that_diverges_is_an_error_too(recipe, tmp_path):
    phases = [{"epochs": 1}, {"unfreeze": "all", "epochs": 2, "learning_rate": 10.0, "optimizer": "sgd"}]
    with pytest.raises(KerastuneError, match=r"phase 2/2 \(all\) diverged") as caught:
        fine_tune(recipe("resnet", phases=[{"unfreeze": "head", **phases[0]}, phases[1]]), tmp_path / "run")
    assert "phases.1.learning_rate" in caught.value.hint


def test_of_equally_accurate_epochs_the_one_with_the_lowest_loss_is_kept():
    epochs = [{"val_accuracy": a, "val_loss": x} for a, x in ((0.9, 0.1), (1.0, 0.5), (1.0, 0.2), (1.0, 0.2))]
    assert max(range(4), key=lambda i: Metric("accuracy").rank(epochs[i])) == 2


def test_early_stopping_ends_a_phase(recipe, tmp_path):
    phases = [{"unfreeze": "head", "epochs": 9, "learning_rate": 1e-9}]
    wanted = recipe("resnet", phases=phases, train={"batch_size": 8, "early_stopping": 2})
    made = fine_tune(wanted, tmp_path / "run")
    assert made.record.phases[0].ran.epochs_run < 9


def test_a_phase_that_stops_early_says_so(recipe, tmp_path):
    class Told(Progress):
        lines: ClassVar[list[str]] = []

        def say(self, line):
            self.lines.append(line)

    phases = [{"unfreeze": "head", "epochs": 9, "learning_rate": 1e-9}]
    wanted = recipe("resnet", phases=phases, train={"batch_size": 8, "early_stopping": 2})
    fine_tune(wanted, tmp_path / "run", progress=Told())
    assert "phase 1/1 (head): stopped early, no better epoch in the last 2 epochs" in Told.lines


def test_the_plan_counts_the_optimizers_steps_of_all_epochs(recipe):
    phases = [{"unfreeze": "head", "epochs": 3, "gradient_accumulation": 64}]
    (audit,) = plan(recipe("resnet", phases=phases)).audits
    assert audit.optimizer_steps == 3  # an epoch has fewer batches than a group


def test_early_stopping_goes_on_while_the_loss_falls_and_the_accuracy_ties(recipe, tmp_path, monkeypatch):
    losses, validate = iter([0.5, 0.4, 0.3, 0.3, 0.3]), loop.Training._validate
    monkeypatch.setattr(
        loop.Training, "_validate", lambda *args: {**validate(*args), "accuracy": 0.5, "loss": next(losses)}
    )
    phases = [{"unfreeze": "head", "epochs": 9, "learning_rate": 1e-9}]
    wanted = recipe("resnet", phases=phases, train={"batch_size": 8, "early_stopping": 2})
    assert fine_tune(wanted, tmp_path / "run").record.phases[0].ran.epochs_run == 5


def test_a_batch_is_the_same_whenever_it_is_made(trained):
    task = image_classification.load(str(trained("resnet").folder))
    split = splits_of(trained("resnet")).train
    augment = Augment(flip="horizontal", crop=0.2, color=0.3, rand_augment=0.3)
    whole, late = (
        list(feeding.training(task, split, Order(len(split), 8, 2, (7,), start), augment, seed=3)) for start in (0, 13)
    )
    assert len(whole) == len(late) + 13
    for (x, i), (again, same) in zip(whole[13:], late, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(i, same)


def test_no_batches_have_a_tuner_whose_thread_is_waited_for(trained):
    task = image_classification.load(str(trained("resnet").folder))
    split = splits_of(trained("resnet")).train
    assert feeding.batches(task, split, Order(len(split), 8)).options().autotune.enabled is False


def test_each_epoch_has_every_example_once_in_an_order_of_its_own():
    first, second = (np.concatenate(list(Order(21, 4, n, (5,), start))) for n, start in ((1, 0), (2, 6)))
    assert sorted(first) == sorted(second) == list(range(21))
    assert list(first) != list(second)


def test_views_differ_and_each_is_the_same_again(trained):
    task = image_classification.load(str(trained("resnet").folder))
    split = splits_of(trained("resnet")).train

    def view(number):
        order = Order(len(split), 8)
        found = feeding.training(task, split, order, Augment(color=0.5), seed=3, view=number)
        return np.concatenate([x for x, _ in found])

    np.testing.assert_array_equal(view(0), view(0))
    assert np.abs(view(0) - view(1)).max() > 0.01


def test_balanced_class_weights_are_those_of_scikit_learn(trained):
    split = splits_of(trained("resnet")).train
    _, weights = losses.targets("label", 3, split.labels, balanced=True)
    expected = len(split) / (3 * np.bincount(split.labels))
    np.testing.assert_allclose(weights, expected[split.labels], rtol=1e-6)


def test_smoothed_targets_spread_a_share_over_all_labels(trained):
    targets, _ = losses.targets("label", 3, splits_of(trained("resnet")).train.labels, smoothing=0.3)
    np.testing.assert_allclose(np.sort(targets, axis=1)[:, ::-1][0], [0.8, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("family", ["efficientnet", "vit"])
def test_training_on_kept_features_is_training(recipe, tmp_path, monkeypatch, family):
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path / "home"))
    phases = [{"unfreeze": "gradual", "epochs": 2, "learning_rate": 1e-2}]
    settings = {"batch_size": 8, "xla": False}
    uncached, memory, disk = (
        fine_tune(recipe(family, phases=phases, train={**settings, "cache": where}), tmp_path / where)
        for where in ("off", "memory", "disk")
    )
    assert [d.got for d in disk.record.decisions if d.key == "train.cache"] == ["disk"]
    losses = [[row[k] for row in made.history for k in ("loss", "val_loss")] for made in (uncached, memory, disk)]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    np.testing.assert_allclose(
        memory.predictions("test")[2]["scores"], uncached.predictions("test")[2]["scores"], atol=1e-5
    )
    np.testing.assert_array_equal(memory.predictions("test")[2]["scores"], disk.predictions("test")[2]["scores"])
    assert losses[1] == losses[2]


def test_augmented_views_are_kept_and_cycled(recipe, tmp_path):
    phases = [{"unfreeze": "head", "epochs": 3, "learning_rate": 1e-9}]  # so that losses tell the views apart
    train_settings = {"batch_size": 8, "cache": "memory", "cache_views": 2}
    wanted = recipe("resnet", phases=phases, train=train_settings, augment={"color": 0.8})
    first, second, again = (row["loss"] for row in fine_tune(wanted, tmp_path / "run").history)
    assert abs(first - again) < 1e-5 < 1e-3 < abs(first - second)


def test_auto_never_drops_augmentation(recipe, tmp_path):
    made = fine_tune(recipe("resnet", augment={"flip": "horizontal"}), tmp_path / "run")
    found = [d for d in made.record.decisions if d.key == "train.cache"]
    assert {d.got for d in found} == {"off"}
    assert "train.cache_views" in found[0].why


def test_the_audit_is_told_before_each_phase_and_the_proof_after(recipe, tmp_path):
    told = []

    class Listens(Progress):
        def phase(self, title, audit):
            told.append(show.phase(audit, title))

        def say(self, line):
            told.append(line)

    fine_tune(recipe("resnet"), tmp_path / "run", progress=Listens())
    title, header, rows = next(line for line in told if isinstance(line, tuple))
    assert title.startswith("phase 1/2 (head), from epoch 1: 3 epochs; 33 optimizer steps; 195 of")
    assert header == ["units", "parameters", "trainable", "learning rate"]
    assert rows[-1] == ["head", "195", "195", "0.03"]
    assert rows[0][2:] == ["0", "frozen"]
    assert any("frozen weights did not move" in line for line in told if isinstance(line, str))


@pytest.mark.parametrize("saved", [0.0, 1e9])
def test_xla_is_measured_where_it_could_pay_and_training_is_not_touched_by_it(recipe, tmp_path, monkeypatch, saved):
    monkeypatch.setattr(decide, "_SAVED", saved)
    phases = [{"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}]
    made = fine_tune(recipe("vit", phases=phases, train={"batch_size": 8, "cache": "off"}), tmp_path / "run")
    (found,) = [d for d in made.record.decisions if d.key == "train.xla"]
    assert ("ms with it" in found.why) == (saved > 0)
    plain = fine_tune(
        recipe("vit", phases=phases, train={"batch_size": 8, "cache": "off", "xla": False}), tmp_path / "plain"
    )
    same = [row["loss"] for row in made.history], [row["loss"] for row in plain.history]
    np.testing.assert_allclose(*same, atol=1e-5)
    assert found.got or same[0] == same[1]


@pytest.mark.parametrize(("cache", "is_tried"), [("off", False), ("memory", True)])
def test_xla_is_not_tried_where_steps_run_convolutions_frozen_or_not(recipe, tmp_path, monkeypatch, cache, is_tried):
    monkeypatch.setattr(decide, "_SAVED", 1e9)
    phases = [{"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}]
    made = fine_tune(recipe("resnet", phases=phases, train={"batch_size": 8, "cache": cache}), tmp_path / "run")
    (found,) = [d for d in made.record.decisions if d.key == "train.xla"]
    assert ("no fast convolutions" in found.why) != is_tried


def test_a_run_is_repeated_to_the_bit_without_measuring_anything_again(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(decide, "_SAVED", 1e9)  # so that XLA is tried
    phases = [{"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}]
    wanted = recipe("vit", phases=phases, train={"batch_size": 8, "cache": "auto"})
    first = fine_tune(wanted, tmp_path / "first")
    for measures in ("place", "xla", "_timed"):
        monkeypatch.setattr(decide, measures, None)
    again = fine_tune(first.recipe, tmp_path / "again", like=first)
    made = [[(d.key, d.phase, d.got) for d in one.record.decisions] for one in (first, again)]
    assert made[0] == made[1] and {key for key, *_ in made[0]} >= {"train.precision", "train.cache", "train.xla"}
    assert [row["loss"] for row in first.history] == [row["loss"] for row in again.history]
    assert again.record.like == str(first.folder) and again.record.decisions[0].why.startswith("as in first: ")


def test_what_may_make_other_bits_of_a_repeated_run_is_said(recipe, tmp_path):
    said = []
    told = Progress()
    told.say = said.append
    phases = [{"unfreeze": "head", "epochs": 1}]
    first = fine_tune(recipe("resnet", phases=phases), tmp_path / "first")
    fine_tune(recipe("resnet", phases=phases, seed=1), tmp_path / "again", like=first, progress=told)
    assert "Not like first, so the bits may differ: recipe.seed: 0 then, 1 now" in said


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{}", "has schema None"), ("{", "is damaged: "), ('{"schema": 1, "status": "done"}', "status: Input should be")],
)
def test_a_record_that_is_no_record_is_refused_in_words(trained, tmp_path, content, problem):
    shutil.copytree(trained("resnet").folder, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(KerastuneError, match=problem):
        _ = run.load(tmp_path / "run").record


def test_mixed_precision_is_read_back_and_exports_as_float32(recipe, tmp_path):
    from kerastune import export
    from kerastune.recipe import Export

    wanted = recipe("resnet", train={"batch_size": 8, "precision": "mixed_bfloat16"})
    made = fine_tune(wanted, tmp_path / "run")
    assert made.record.phases[0].ran.precision == "mixed_bfloat16"
    assert export(made, Export(format="onnx"))[0].report.passed


@pytest.mark.parametrize(
    ("gpus", "policy", "why"),
    [
        ([(9, 0), (8, 0)], "mixed_bfloat16", "every GPU computes in bfloat16"),
        ([(9, 0), (7, 5)], "float32", "compute capability 7.5 has no bfloat16"),
    ],
)
def test_automatic_precision_is_bfloat16_where_every_gpu_has_it(gpus, policy, why):
    got, said = precision._on_gpus(gpus)
    assert got == policy
    assert why in said


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_texts_are_trained_in_bfloat16_on_a_cpu_that_was_measured_to_be_faster_in_it(recipe, monkeypatch, gain):
    built, seconds = [], iter([gain, 1.0] * 2)  # of a product, in float32 and bfloat16
    monkeypatch.setattr(precision, "_capabilities", list)
    monkeypatch.setattr(precision.timeit, "repeat", lambda *_, **__: [next(seconds)])
    task = image_classification.build(recipe("vit"), recipe("vit").preset, 3, "float32")
    task, decision = precision.build_fastest(
        lambda policy: built.append(policy) or task, text_models.largest_product, None
    )
    assert decision.got == built[-1] == ("float32" if gain == 1 else "mixed_bfloat16")
    assert f"{gain:.2f} times as long in float32" in decision.why
    _, unmeasured = precision.build_fastest(built.append, None, None)
    assert unmeasured.got == "float32"
    assert "no GPU" in unmeasured.why


@pytest.mark.parametrize(
    ("operations", "step", "got"), [(1.0, None, "float32"), (2.0, 1.2, "float32"), (2.0, 1.5, "mixed_bfloat16")]
)
def test_images_are_trained_in_bfloat16_where_convolutions_and_then_a_step_were_measured_to_be_faster(
    recipe, monkeypatch, operations, step, got
):
    steps = iter([step, 1.0])
    monkeypatch.setattr(precision, "_capabilities", list)
    monkeypatch.setattr(precision.environment, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_seconds", lambda op, dtype: operations if dtype.name == "float32" else 1.0)
    monkeypatch.setattr(precision, "_step_seconds", lambda task, x: next(steps))
    made = plan(recipe("resnet", train={"precision": "auto"}))
    assert made.decisions[0].got == made.task.backbone.dtype_policy.name == got
    assert f"take {operations:.2f} times as long in float32" in made.decisions[0].why
    assert step is None or f"and a step {step:.2f} times" in made.decisions[0].why


def test_every_convolution_and_product_of_a_model_is_timed_with_its_gradients(recipe):
    made = plan(recipe("resnet", train={"precision": "float32"}))
    kinds = precision.operations(made.task, made.batches.one)
    kernels = [weight for weight in made.task.weights if weight.name == "kernel"]
    assert sum(count for _, count in kinds) == len(kernels) > 8
    assert all(precision._seconds(op, "bfloat16") > 0 for op, _ in kinds)
    before = [weight.numpy() for weight in made.task.weights]
    assert precision._step_seconds(made.task, made.batches.one) > 0
    assert all(map(np.array_equal, before, (weight.numpy() for weight in made.task.weights)))


def test_a_training_that_is_gone_on_with_keeps_its_precision_whatever_is_faster_now(recipe):
    then = Decision("train.precision", "auto", "mixed_bfloat16", "it was faster there")
    made = plan(recipe("vit"), decided=[then])
    assert made.task.backbone.dtype_policy.name == "mixed_bfloat16"
    assert made.decisions[0] == then


def test_xla_that_was_asked_for_is_really_on_and_the_start_of_a_phase_is_counted_apart(recipe, tmp_path):
    phases = [{"unfreeze": "head", "epochs": 1}]
    made = fine_tune(recipe("resnet", phases=phases, train={"batch_size": 8, "xla": True}), tmp_path / "run")
    ran = made.record.phases[0].ran
    assert ran.xla is True
    assert 0 < ran.start_s <= ran.seconds


def build_with(monkeypatch, build):
    """Lets the task build its models so."""
    task = image_classification.TASK
    building = dataclasses.replace(task.building, build=lambda r, p, splits, d: build(r, p, len(splits.labels), d))
    monkeypatch.setattr(image_classification, "TASK", dataclasses.replace(task, building=building))


def test_xla_that_a_layer_forbids_is_an_error_that_names_it(recipe, monkeypatch):
    build = image_classification.build

    def with_zoom(*arguments):
        task = build(*arguments)
        task.backbone.layers[3].supports_jit = False
        return task

    build_with(monkeypatch, with_zoom)
    with pytest.raises(RecipeError, match=r"xla = true, but these layers have no XLA: conv1_bn"):
        plan(recipe("resnet", train={"batch_size": 8, "xla": True}))


def test_an_image_size_that_the_preset_was_not_built_for_is_taken(recipe, pictures, tmp_path):
    data = {"source": "folder", "path": str(pictures), "image_size": 48}
    made = fine_tune(recipe("resnet", data=data), tmp_path / "run")
    assert made.record.model["image_size"] == [48, 48]


def test_an_image_size_that_position_embeddings_forbid_is_explained(recipe, pictures):
    data = {"source": "folder", "path": str(pictures), "image_size": 48}
    with pytest.raises(RecipeError, match="at image_size = 48"):
        plan(recipe("vit", data=data))


def test_a_phase_that_trains_nothing_is_a_measurement(recipe, tmp_path):
    made = fine_tune(recipe("resnet", phases=[{"unfreeze": "none", "epochs": 0}]), tmp_path / "run")
    assert made.record.phases[0].trainable_parameters == 0
    assert made.history == []


@pytest.fixture
def hugging_face_vit(tmp_path):
    """A tiny ViT with random weights, as transformers' save_pretrained lays it out."""
    numpy = pytest.importorskip("safetensors.numpy")
    random, size = np.random.default_rng(0), 8
    square, vector, wide = (size, size), (size,), (16, size)
    layer = {
        **{f"attention.attention.{name}": square for name in ("query", "key", "value")},
        "attention.output.dense": square,
        "intermediate.dense": wide,
        "output.dense": wide[::-1],
        "layernorm_before": vector,
        "layernorm_after": vector,
    }
    shapes = {f"vit.encoder.layer.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    shapes |= {"vit.layernorm": vector, "vit.embeddings.patch_embeddings.projection": (size, 3, 8, 8)}
    weights = {f"{name}.weight": random.normal(0, 0.2, shape) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": random.normal(0, 0.2, shape[:1]) for name, shape in shapes.items()}
    weights["vit.embeddings.cls_token"] = random.normal(0, 0.2, (1, 1, size))
    weights["vit.embeddings.position_embeddings"] = random.normal(0, 0.2, (1, 17, size))
    numpy.save_file({k: v.astype(np.float32) for k, v in weights.items()}, tmp_path / "model.safetensors")
    config = {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": size,
    }
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "qkv_bias": True}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32}}
    pixels |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    return tmp_path


def test_a_hugging_face_folder_is_a_preset_with_its_own_preprocessing(recipe, hugging_face_vit, tmp_path):
    made = fine_tune(recipe(preset=str(hugging_face_vit)), tmp_path / "run")
    task = image_classification.load(str(made.folder))
    white = task.preprocessor.image_converter(np.full((1, 32, 32, 3), 255, np.float32))
    np.testing.assert_allclose(white[0, 0, 0], [1.0, 2.4, 3.5], atol=1e-5)  # (1 - mean) / std
    assert made.record.metrics["test"]["accuracy"] > 0.5


class MovesAFrozenWeight(Progress):
    """Stands in for a bug: moves the stem by 1e-6 in the middle of a phase."""

    def __init__(self):
        self.task = None

    def advance(self, stage, done, total, detail=""):
        if self.task is not None and stage.startswith("phase"):
            stem = self.task.backbone.layers[2].weights[0]
            stem.assign_add(np.full(stem.shape, 1e-6, np.float32))


def test_a_frozen_weight_that_moves_stops_the_run(recipe, tmp_path, monkeypatch):
    progress, build = MovesAFrozenWeight(), image_classification.build

    def remembered(*arguments):
        progress.task = build(*arguments)
        return progress.task

    build_with(monkeypatch, remembered)
    with pytest.raises(VerificationError, match="frozen weights changed"):
        fine_tune(recipe("resnet"), tmp_path / "run", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_training_and_force_replaces_only_our_own(recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_text("keep")
    wanted = recipe("resnet", phases=[{"unfreeze": "head", "epochs": 1}])
    for force, why in ((False, "already exists"), (True, "something else than a run")):
        with pytest.raises(KerastuneError, match=why):
            fine_tune(wanted, tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "photo.jpg").read_text() == "keep"
    first = fine_tune(wanted, tmp_path / "run").record.started
    time.sleep(1)
    assert fine_tune(wanted, tmp_path / "run", force=True).record.started != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]


def test_evaluate_finds_the_same_metrics_and_refuses_other_data(trained, copied_run, tmp_path, pictures):
    import shutil

    made = copied_run(trained("resnet"))
    assert evaluate(made) == made.record.metrics
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    (folder / "red" / "00.png").unlink()
    recipe_toml = (made.folder / "recipe.toml").read_text().replace(str(pictures), str(folder))
    (made.folder / "recipe.toml").write_text(recipe_toml)
    with pytest.raises(DataError, match="The data have changed"):
        evaluate(run.load(made.folder))


@contextlib.contextmanager
def training(recipe, folder):
    """A `kerastune train` that would take hours, stopped at the latest when the test ends."""
    (folder / "my.toml").write_text(recipe.to_toml())
    command = [sys.executable, "-m", "kerastune", "train", "my.toml", "-o", "run"]
    # A suite that runs in the background ignores SIGINT, and its children would inherit that.
    listen = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **listen) as child:
        try:
            yield child
        finally:
            child.kill()


def test_ctrl_c_keeps_what_is_done(recipe, tmp_path):
    wanted = recipe("resnet", phases=[{"unfreeze": "head", "epochs": 500, "learning_rate": 1e-2}])
    with training(wanted, tmp_path) as child:
        said = read_until("epoch 2/500: loss", child.stderr)
        child.send_signal(signal.SIGINT)
        said += child.communicate(timeout=120)[1]
    assert child.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert (tmp_path / "run" / "report.html").exists()
    assert evaluate(run.load(tmp_path / "run"))["test"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "kerastune.training.train.score",
            "What is done is in run.partial.\n\nNext, to go on with it: kerastune resume run\n",
        ),
        (
            "kerastune.exporting.exporter.export",
            "is in run.\n\nNext, to make what is missing: kerastune resume run\n",
        ),
        ("kerastune.training.train.plan", "Interrupted.\n"),
    ],
)
def test_ctrl_c_between_steps_says_what_is_there_and_how_to_go_on(recipe, tmp_path, monkeypatch, where, said):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    wanted = recipe("resnet", phases=[{"unfreeze": "head"}], exports=(Export(format="onnx"),))
    Path("my.toml").write_text(wanted.to_toml())
    monkeypatch.setattr(where, interrupt)
    result = CliRunner().invoke(cli, ["run", "my.toml", "-o", "run"])
    assert (result.exit_code, said in result.stderr) == (130, True), result.stderr
    assert ("Next" in result.stderr) == ("Next" in said)


def test_memory_is_estimated_from_the_graph(recipe):
    small, large = (plan(recipe("resnet", train={"batch_size": b})).memory_mb for b in (8, 64))
    assert 0 < small < large


def test_the_memory_of_a_known_model_is_that_of_its_weights_gradients_slots_and_tensors():
    """Four inputs, eight hidden numbers and three outputs, in batches of five."""
    import keras

    task = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    splits = SimpleNamespace(train=range(9), validation=range(2), test=range(2))
    order = SimpleNamespace(batch_size=5)
    found = planning._memory(
        SimpleNamespace(task=task, one=np.zeros((1, 4), np.float32), order=lambda split: order, splits=splits)
    )
    numbers = [weights.number(name) for name in weights.named(task)]  # two kernels and two biases
    tensors = 2 * 5 * (8 + 3)  # of each layer a product and a sum
    assert found.most(67, frozenset(numbers)) == 4 * (67 + 3 * 67 + tensors)
    largest = 5 * 4 + 4 * 8 + 5 * 8  # numbers of the first product
    assert found.least == 4 * (67 + largest)
    assert found.most(27, frozenset(numbers[2:])) == 4 * (67 + 3 * 27 + largest)  # more than the head keeps


def test_a_batch_that_the_gpu_cannot_hold_is_refused_whatever_the_machine_has(recipe, monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 81559; echo 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert environment.gpu_memory() == [81559 * 2**20, 2**20]
    monkeypatch.setattr(planning, "_gpu_mb", lambda: round(min(environment.gpu_memory()) / 1e6))
    with pytest.raises(RecipeError, match=r"A batch of 8 images needs at least .* GB, and this GPU has 0.0 GB"):
        plan(recipe("resnet", train={"batch_size": 8, "precision": "float32"}))


def test_a_batch_that_the_machine_cannot_hold_is_refused_before_it_is_computed(recipe, monkeypatch):
    monkeypatch.setattr(environment, "memory_total", lambda: 10**6)
    with pytest.raises(RecipeError, match=r"A batch of 81 images needs at least .* GB, and this machine has 0.0 GB"):
        plan(recipe("resnet", train={"batch_size": 10**6}))


def test_a_killed_run_leaves_no_run_folder_but_what_it_can_be_resumed_from(recipe, tmp_path):
    with training(recipe("resnet", phases=[{"unfreeze": "head", "epochs": 500}]), tmp_path) as child:
        read_until("epoch 1/500: loss", child.stderr)
        child.kill()
        child.communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"my.toml", "run.partial"}  # for kerastune resume

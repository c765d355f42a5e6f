"""Audio classification: the front end in the graph, the encoder, augmentation, and what is refused."""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from sounds import RATE, library, noise, tone, write

from kerastune import export, fine_tune, predict, tasks, verify
from kerastune.errors import KerastuneError, RecipeError
from kerastune.formats.metadata import KINDS
from kerastune.progress import Progress
from kerastune.recipe import Export, read
from kerastune.run import Run
from kerastune.targets import audio as reader
from kerastune.tasks import draws
from kerastune.tasks.audio_classification.feeding import batches, changed, masked, order, telephone
from kerastune.tasks.audio_classification.model import SoundClassifier, SoundEncoder
from kerastune.tasks.audio_classification.settings import SoundAugment
from kerastune.tasks.grouped import flattery
from kerastune.tasks.log_mel import log_mel
from tests.test_browser import needs_chromium, seen

# --- the front end -------------------------------------------------------------------------------------------


def converter(samples: int) -> Any:
    made = keras_hub.layers.WhisperAudioConverter()
    made.num_samples = samples
    return made


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("exported", [False, True])
def test_the_front_end_is_that_of_keras_hub(seconds: float, exported: bool) -> None:
    samples = int(seconds * RATE)
    sounds = np.stack([tone(440, seconds), noise(seconds), np.zeros(samples, np.float32), tone(5_000, seconds) ** 3])
    made = converter(samples)
    found = log_mel(made, exported)(tf.constant(sounds))
    assert np.abs(found - np.asarray(made(sounds))).max() < 1e-4


@pytest.mark.parametrize("fault", [{"sampling_rate": 8_000}, {"stride": 150}, {"num_fft_bins": 480}])
def test_filters_of_another_rate_or_a_shifted_hop_are_caught(fault: dict[str, int]) -> None:
    wrong = keras_hub.layers.WhisperAudioConverter(**fault)
    sound = noise(0.75)[None]
    found, expected = log_mel(wrong)(tf.constant(sound)), np.asarray(converter(sound.shape[1])(sound))
    count = min(found.shape[1], expected.shape[1])
    assert np.abs(found[:, :count] - expected[:, :count]).max() > 0.01


# --- the model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whisper(sound_preset: Path) -> Any:
    return keras_hub.models.WhisperBackbone.from_preset(str(sound_preset))


def test_the_encoder_computes_what_the_whole_backbone_does(whisper: Any) -> None:
    features = np.random.default_rng(0).normal(size=(2, 40, 80)).astype(np.float32)
    encoder = SoundEncoder.of(whisper, 40, None, "float32")
    inputs = {
        "encoder_features": features,
        "decoder_token_ids": np.ones((2, 1)),
        "decoder_padding_mask": np.ones((2, 1)),
    }
    expected = whisper(inputs)["encoder_sequence_output"]
    np.testing.assert_allclose(encoder(features)[-1], expected, atol=1e-5)
    assert len(encoder.outputs) == 2 + whisper.num_layers


def test_fewer_blocks_are_the_lower_ones(whisper: Any) -> None:
    features = np.random.default_rng(0).normal(size=(1, 40, 80)).astype(np.float32)
    whole, one = (SoundEncoder.of(whisper, 40, blocks, "float32")(features) for blocks in (None, 1))
    np.testing.assert_array_equal(whole[1], one[1])
    assert len(one) == 3


def test_a_classifier_is_stored_with_its_window_and_front_end(whisper: Any) -> None:
    front_end = {"num_mels": 80, "num_fft_bins": 400, "stride": 160, "sampling_rate": RATE}
    head = {"dropout": 0.1, "deviation": True}
    made = SoundClassifier(SoundEncoder.of(whisper, 40, 1, "float32"), 3, front_end, head, peak=True)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert (again.samples, again.output_shape, again.front_end) == (6_400, (None, 3), front_end)
    assert (again.head, again.peak) == (head, True)


def test_loudness_says_nothing_where_the_level_is_taken_out(wanted: Callable[..., Any], tmp_path: Path) -> None:
    more = {"blocks": 0, "pooling": "mean", "level": "peak"}
    run = fine_tune(wanted(**more, phases=[{"unfreeze": "head", "epochs": 2}]), tmp_path / "run")
    (artifact,) = export(run, Export(target="onnxruntime"))
    quiet, loud = (
        write(tmp_path / f"{level}.wav", tone(300, 0.2, level=level), subtype="FLOAT") for level in (0.02, 0.8)
    )
    for of in (run, artifact):
        one, other = (
            [label["probability"] for label in said.document["labels"]] for said in predict(of, [quiet, loud])
        )
        np.testing.assert_allclose(one, other, atol=1e-4)


# --- augmentation --------------------------------------------------------------------------------------------

SOUNDS = np.stack([tone(440), noise(0.5)])


def augmented(seed: int = 0, epoch: int = 0, chosen: slice = slice(None), **settings: float) -> Any:
    keys = draws.keys(seed, tf.constant(epoch), tf.constant([7, 3], tf.int64)[chosen])
    return changed(tf.constant(SOUNDS[chosen]), SoundAugment(**settings), keys).numpy()


@pytest.mark.parametrize("settings", [{"gain": 12.0}, {"shift": 0.3}, {"noise": 1.0}, {"telephone": 1.0}])
def test_a_change_depends_on_seed_epoch_and_example_alone(settings: dict[str, float]) -> None:
    one = augmented(**settings)
    assert not np.array_equal(one, SOUNDS)
    np.testing.assert_array_equal(one[1:], augmented(chosen=slice(1, 2), **settings))  # whatever else is in the batch
    if "telephone" not in settings:
        assert not np.array_equal(one, augmented(epoch=1, **settings))
        assert not np.array_equal(one, augmented(seed=1, **settings))


def test_gain_and_noise_stay_within_their_limits() -> None:
    louder = 20 * np.log10(np.abs(augmented(gain=6.0)).max(1) / np.abs(SOUNDS).max(1))
    assert np.abs(louder).max() <= 6.001
    added = augmented(noise=1.0) - SOUNDS
    below = 10 * np.log10(np.square(SOUNDS).mean(1) / np.square(added).mean(1))
    assert (below > 9.5).all() and (below < 40.5).all()


def test_a_shift_moves_a_sound_into_silence() -> None:
    for sound, found in zip(SOUNDS, augmented(shift=0.5), strict=True):
        at = next(
            k
            for k in range(-4_000, 4_001)
            if np.array_equal(found[max(k, 0) : 8_000 + min(k, 0)], sound[max(-k, 0) : 8_000 - max(k, 0)])
        )
        assert at and not found[:at].any() if at > 0 else not found[8_000 + at :].any()


def test_a_telephone_passes_low_tones_and_stops_high_ones() -> None:
    low, high = telephone(tf.constant(np.stack([tone(1_000), tone(6_000)]))).numpy()
    assert np.abs(low - tone(1_000)).max() < 0.03 and np.abs(high).max() < 0.01
    assert len(np.unique(low)) <= 256


def test_a_mask_hides_one_band_of_time_and_one_of_frequencies() -> None:
    frames = tf.random.stateless_normal([4, 50, 80], [0, 0])
    hidden = (
        masked(frames, SoundAugment(mask=0.4), draws.keys(0, tf.constant(0), tf.range(4, dtype=tf.int64))) != frames
    ).numpy()
    assert 0 < hidden.mean() < 0.8
    for one in hidden:
        assert one.all(1).any() and one.all(0).any() and not one.all()


# --- recipes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wanted(hits: Path, sound_preset: Path) -> Callable[..., Any]:
    def make(data: dict[str, Any] | None = None, **more: Any) -> Any:
        return read(
            {
                "name": "hits",
                "task": "audio_classification",
                "preset": str(sound_preset),
                "data": {"source": "folder", "path": str(hits), "group_folders": True, "window": 0.2, **(data or {})},
                "train": {"batch_size": 8, "xla": False, "precision": "float32"},
                "phases": [{"unfreeze": "head", "epochs": 20, "learning_rate": 0.03}],
                **more,
            }
        )

    return make


@pytest.fixture(scope="module")
def made(wanted: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fine_tune(wanted(), tmp_path_factory.mktemp("runs") / "hits")


def test_it_learns_on_kept_outputs_and_then_with_the_top_block(wanted: Callable[..., Any], tmp_path: Path) -> None:
    phases = [
        {"unfreeze": "head", "epochs": 20, "learning_rate": 0.03},
        {"unfreeze": "top:1", "epochs": 2, "learning_rate": 1e-3},
    ]
    run = fine_tune(wanted(phases=phases, train={"batch_size": 8, "cache": "memory", "xla": False}), tmp_path / "run")
    assert run.record.metrics and run.record.metrics["test"]["accuracy"] == 1.0
    first, second = run.record.phases
    assert first.ran and second.ran and (first.ran.epochs_run, second.ran.epochs_run) == (20, 2)


def test_several_labels_are_learnt(wanted: Callable[..., Any], tmp_path: Path) -> None:
    rows = ["audio,label,kit"]
    for kit in range(10):
        for n, parts in enumerate([("low",), ("high",), ("low", "high")]):
            sound = sum(tone({"low": 300, "high": 3_000}[part], 0.2, level=0.3) for part in parts)
            write(tmp_path / f"{kit}-{n}.wav", sound + noise(0.2, seed=kit, level=0.01))
            rows.append(f"{kit}-{n}.wav,{'|'.join(parts)},{kit}")
    (tmp_path / "hits.csv").write_text("\n".join(rows))
    data = {"source": "csv", "path": str(tmp_path / "hits.csv"), "group_column": "kit", "label_separator": "|"}
    recipe = read({**wanted().model_dump(exclude_none=True, mode="json"), "data": {**data, "window": 0.2}})
    run = fine_tune(recipe, tmp_path / "run")
    assert run.labels == ("high", "low") and run.record.metrics and run.record.metrics["test"]["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("data", "more", "why"),
    [
        ({"window": 5.0}, {}, r"data.window = 5, but '.*' hears 2 s at a time"),
        ({}, {"blocks": 3}, r"blocks = 3, but the encoder of '.*' has 2"),
    ],
)
def test_what_the_preset_cannot_do_is_refused(
    wanted: Callable[..., Any], tmp_path: Path, data: dict[str, Any], more: dict[str, Any], why: str
) -> None:
    with pytest.raises(RecipeError, match=why):
        fine_tune(wanted(data, **more), tmp_path / "run")


def test_a_preset_of_texts_is_refused(
    wanted: Callable[..., Any], text_preset: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="has no encoder of sounds"):
        fine_tune(wanted(preset=str(text_preset("Bert"))), tmp_path / "run")


def test_a_moonshine_is_refused_with_its_name(wanted: Callable[..., Any], moonshine: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no encoder of sounds.*MoonshineBackbone"):
        fine_tune(wanted(preset=str(moonshine)), tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"augment": {"gain": 6.0}, "train": {"cache": "memory"}}, "would show every epoch the same augmented sounds"),
        ({"exports": [{"target": "microcontroller"}]}, "target microcontroller is for images"),
        ({"data": {"source": "folder", "path": "x", "window": 31}}, "window"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(wanted: Callable[..., Any], more: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        read({**wanted().model_dump(exclude_none=True, mode="json"), **more})


def test_the_record_says_how_many_sounds_are_longer_than_the_window(made: Run) -> None:
    assert {key: value for key, value in made.record.model.items() if key != "linear_model"} == {
        "window_seconds": 0.2,
        "sample_rate": 16_000,
        "blocks": 2,
        "truncated": {"train": 0, "validation": 0, "test": 0},
    }


def test_a_random_split_flatters_where_groups_tell_the_label() -> None:
    """Every group has its own offset, which a random split lets the model learn."""
    random = np.random.default_rng(0)
    groups = np.arange(200) % 20
    labels = (groups % 2).astype(np.int64)
    features = 5 * random.normal(size=(20, 30))[groups] + random.normal(size=(200, 30))
    found = flattery(features, labels, [str(group) for group in groups], 0)
    assert found and found["at_random"] > 0.95 and found["by_group"] < 0.75
    assert flattery(features, labels, [None] * 200, 0) is None


def test_the_report_says_how_much_a_random_split_would_flatter(made: Run) -> None:
    from kerastune.reporting import report

    assert set(made.record.model["linear_model"]) == {"by_group", "at_random"}
    assert "so much would a random split flatter" in report.write(made).read_text("utf-8")


def test_batches_hold_the_frames_of_keras_hubs_own_converter(made: Run) -> None:
    model = tasks.get("audio_classification").building.load(str(made.folder), made.recipe, "float32")
    split = made.splits(Progress()).validation
    x, i = next(iter(batches(model, split, order(model, split, 3))))
    own = model.converter()
    for frames, at in zip(x, i, strict=True):
        expected = own(reader.fit(split.example(int(at)), model.samples)[None])[0]
        assert np.abs(frames - expected).max() < 1e-4


# --- exports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_integers_are_refused_in_words(made: Run, quantize: str) -> None:
    with pytest.raises(KerastuneError, match="in integers a spectrum holds only its loudest tones; dynamic has int8"):
        export(made, Export(target="linux", quantize=quantize))


def test_a_float_file_may_differ_by_what_a_spectrum_rounds(made: Run) -> None:
    (artifact,) = export(made, Export(target="linux", name="rounded"))
    tolerance = artifact.manifest.tolerance
    assert tolerance.golden_error == tolerance.validation_error == pytest.approx(5e-4 * tolerance.scale)


@pytest.mark.parametrize("target", ["linux", "onnxruntime"])
def test_int8_weights_leave_the_spectrum_in_float(made: Run, target: str) -> None:
    (artifact,) = export(made, Export(target=target, quantize="dynamic"), force=True)
    found = verify(artifact).validation
    assert found and found.metric and found.metric.drop == 0 and found.outputs.max_error < 0.05


def test_a_phone_s_file_says_how_many_samples_per_second_it_takes(made: Run) -> None:
    (artifact,) = export(made, Export(target="android", quantize="dynamic"), force=True)
    assert list(artifact.manifest.inputs[0].shape) == [1, 3200]
    assert KINDS["sound_labels"].meaning.encode() in (artifact.folder / artifact.manifest.model).read_bytes()
    if find_spec("mediapipe"):
        own = verify(artifact, in_runtimes=["mediapipe"]).own
        assert own.golden.max_error <= artifact.manifest.tolerance.golden_error and own.validation.metric.drop == 0


@needs_chromium
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_a_page_hears_each_window_of_a_recording(made: Run, hits: Path, tmp_path: Path, format: str) -> None:
    (artifact,) = export(made, Export(target="browser", format=format, name=f"page-{format}"))
    in_page = artifact.report.runtimes["browser"]
    assert in_page.passed and in_page.golden.agreement == 1
    loud, quiet = (reader.decode((hits / label / "kit3" / "0.wav").read_bytes())[0] for label in ("low", "noise"))
    write(tmp_path / "clip.wav", np.concatenate([loud, quiet]))
    said = seen(artifact, tmp_path / "clip.wav")
    assert re.match(r"0\.0 s: low\n.*\n0\.2 s: noise\n", said["labels"]) and said["took"].startswith("0.40 s, ")
    assert said["check"].startswith("ok: 16 golden sounds, largest error ")


def test_constants_that_quantisers_see_are_caught(made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: without the trick, the error of the same file is many times as large."""
    model = tasks.get("audio_classification").building.load(str(made.folder), made.recipe, "float32")
    sound = made.splits(Progress()).validation.example(0)
    errors = []
    for exported in (True, False):
        front_end = log_mel(model.converter(), exported)
        module = tf.Module()
        module.f = tf.function(front_end, input_signature=[tf.TensorSpec([1, model.samples], tf.float32)])
        tf.saved_model.save(module, str(tmp_path / "front"), signatures=module.f)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "front"))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(model_content=converter.convert()).get_signature_runner()
        (name,), window = run.get_input_details(), reader.fit(sound, model.samples)[None]
        (found,) = run(**{name: window}).values()
        errors.append(np.abs(found - front_end(tf.constant(window))).max())
    assert errors[0] < 1e-3
    assert 20 * errors[0] < errors[1]


def test_a_stream_gets_the_scores_of_the_file(made: Run, hits: Path) -> None:
    (artifact,) = export(made, Export(target="onnxruntime"), force=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(artifact.folder / artifact.manifest.model))
    rate, samples = 44_100, artifact.manifest.reading["samples"]
    recording = np.concatenate([tone(300, 0.3, rate), noise(0.4, rate), tone(3_000, 0.3, rate)])
    resampler = reader.Resampler(rate)

    def heard() -> Any:
        for at in range(0, len(recording), 1_000):
            yield resampler.resampled(recording[at : at + 1_000])
        yield resampler.rest()

    def scored(sounds: Any) -> Any:
        return [session.run(None, {"sounds": window[None]})[0] for window in reader.windows(sounds, samples, 800)]

    whole = reader.Resampler(rate)
    file = np.concatenate([whole.resampled(recording), whole.rest()])
    np.testing.assert_array_equal(np.stack(scored(heard())), np.stack(scored([file])))


def test_the_reader_of_an_artifact_scores_each_window_of_a_long_file(made: Run, tmp_path: Path) -> None:
    import subprocess
    import sys

    (artifact,) = export(made, Export(target="onnxruntime"), force=True)
    clip = write(tmp_path / "long.wav", np.concatenate([tone(300, 0.2), tone(3_000, 0.2)]))
    command = [sys.executable, str(artifact.folder / "reader.py"), str(artifact.folder), str(clip), "--top", "1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "long.wav from 0.0 s\n" in said and "long.wav from 0.2 s\n" in said


def test_a_run_answers_about_each_window_of_a_long_file(made: Run, tmp_path: Path) -> None:
    clip = write(tmp_path / "long.wav", np.concatenate([tone(300, 0.2), noise(0.25, level=0.3)]))
    names = [one.input.removeprefix(str(clip)) for one in predict(made, [clip])]
    assert names == [" from 0.0 s", " from 0.2 s", " from 0.4 s"]


def test_a_run_answers_about_each_window_that_a_microphone_hears(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write(tmp_path / "long.wav", np.concatenate([tone(300, 0.2), noise(0.25, level=0.3)]))
    monkeypatch.setitem(sys.modules, "sounddevice", library(clip))
    heard, read = predict(made, (), mic=2.0), predict(made, [clip])
    assert [one.input for one in heard] == [f"microphone, 2 s from 0.{n} s" for n in (0, 2, 4)]
    assert [one.document for one in heard] == [one.document for one in read]


def test_a_run_answers_about_a_stereo_mp3(made: Run, tmp_path: Path) -> None:
    rate = 44_100
    both = np.stack([tone(300, 0.2, rate)] * 2, axis=1) * np.exp(-np.arange(8_820) / 2_200)[:, None]
    clip = write(tmp_path / "clip.mp3", both, rate, format="MP3", subtype="MPEG_LAYER_III")
    (answer,) = predict(made, [clip])
    assert "low" in str(answer)


def test_the_report_plays_and_draws_the_mistakes(wanted: Callable[..., Any], tmp_path: Path) -> None:
    from kerastune.reporting import report

    phases = [{"unfreeze": "head", "epochs": 1, "learning_rate": 1e-5}]
    page = report.write(fine_tune(wanted(phases=phases), tmp_path / "run")).read_text("utf-8")
    assert '<audio controls src="data:audio/mpeg;base64,' in page and 'alt="Test sound ' in page

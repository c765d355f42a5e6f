"""speech_to_text: what is learnt, how it is written down, what is measured, and what is refused."""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import sounds
import tensorflow as tf
import tiny
from click.testing import CliRunner

from kerastune import data, export, fine_tune, keras_private, predict, tasks, weights
from kerastune.cli import cli
from kerastune.errors import DataError, KerastuneError, RecipeError
from kerastune.progress import Progress
from kerastune.recipe import Export, Lora
from kerastune.reporting import report
from kerastune.targets import audio, recordings
from kerastune.targets import speech as reader
from kerastune.targets.audio import fit
from kerastune.tasks.learnt import words
from kerastune.tasks.learnt.transcripts import TRANSCRIPT, metrics, predictions, texts
from kerastune.tasks.log_mel import log_mel
from kerastune.tasks.speech_to_text import decoding, feeding, hugging_face, scoring, tracing
from kerastune.training import lora, train
from kerastune.verifying import comparing

TEST = [f"{i:02}.wav" for i in range(40, 48)]


@pytest.fixture(scope="module")
def plan(speech_recipe: Callable[..., Any]) -> Any:
    return train.plan(speech_recipe())


@pytest.fixture(scope="module")
def made(speech_recipe: Callable[..., Any], spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose encoder and decoder have learnt the tones."""
    control = {"source": "jsonl", "path": str(spoken / "spoken.jsonl"), "window": 1.0, "language": "it"}
    phases = [{"unfreeze": "all", "lora": False, "epochs": 16, "learning_rate": 4e-3}]
    recipe = speech_recipe(terms=["do mi", "so"], control=control, phases=phases)
    return fine_tune(recipe, tmp_path_factory.mktemp("runs") / "tones")


@pytest.fixture(scope="module")
def model(made: Any) -> Any:
    return tasks.get("speech_to_text").building.load(str(made.folder), made.recipe, "float32")


@pytest.fixture(scope="module")
def exports(made: Any) -> dict[str, Any]:
    """A file whose reader chooses the tokens, and one that chooses them itself."""
    return {target: export(made, Export(target=target))[0] for target in ("linux", "tf-serving")}


@pytest.fixture(scope="module")
def long(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of some seconds, of which the model hears one at a time."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    return sounds.write(path, np.concatenate([soundfile.read(spoken / name)[0] for name in TEST]))


def heard(split: Any, samples: int = 16_000) -> list[Any]:
    return [split.example(i)[:samples] for i in range(len(split))]


# --- what is learnt ------------------------------------------------------------------------------------------


def test_the_first_end_token_is_learnt_and_what_pads_is_not(plan: Any) -> None:
    model, split = plan.task, plan.splits.train
    targets, end = feeding.targets(model, split), model.settings["end"]
    for text, row in zip(split.labels, targets, strict=True):
        learnt = row[row >= 0].astype(int).tolist()
        assert len(learnt) == len(str(text).split()) + 1
        assert learnt[-1] == end and learnt.count(end) == 1


def test_the_prompt_is_read_and_not_learnt(plan: Any) -> None:
    model, split = plan.task, plan.splits.train
    prompt = model.settings["prompt"]
    assert (feeding.written(model, split)[:, : len(prompt)] == prompt).all()
    assert (feeding.targets(model, split)[:, : len(prompt) - 1] < 0).all()


def test_padding_does_not_change_what_is_predicted(plan: Any) -> None:
    x = feeding.example(plan.task, data.picked(plan.splits.train, [0, 1, 2]), 3)  # of one, two and three words
    whole = plan.task(x, training=False).numpy()
    alone = plan.task({name: value[2:] for name, value in x.items()}, training=False).numpy()
    assert alone.shape[1] == whole.shape[1] - 2
    np.testing.assert_allclose(whole[2:, : alone.shape[1]], alone, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_decoder_gets_adapters_and_the_encoders_outputs_are_kept(
    speech_recipe: Callable[..., Any], precision: str
) -> None:
    made = train.plan(speech_recipe(phases=[{"epochs": 2}], train=_training("auto", precision)))
    (audit,), cache = made.audits, next(one for one in made.decisions if one.key == "train.cache")
    assert audit.lora and all("transformer_decoder" in path for path in audit.lora.layers)
    assert "encoder_layer_norm.Cast" in cache.after
    assert cache.bytes_per_example == 50 * 32 * 2 + 4 * made.task.input["token_ids"].shape[1]  # float16, and ids


def test_kept_outputs_train_as_well_as_others(speech_recipe: Callable[..., Any], tmp_path: Path) -> None:
    phases = [{"epochs": 2, "learning_rate": 1e-2}]
    history = [
        fine_tune(speech_recipe(phases=phases, train=_training(cache)), tmp_path / cache).history
        for cache in ("memory", "off")
    ]
    assert history[0][-1]["loss"] == pytest.approx(history[1][-1]["loss"], rel=1e-3)
    assert history[0][-1]["loss"] < history[0][0]["loss"]


def _training(cache: str, precision: str = "float32") -> dict[str, Any]:
    return {"batch_size": 8, "xla": False, "precision": precision, "cache": cache}


def test_the_epoch_with_the_fewest_wrong_words_is_kept(made: Any) -> None:
    rates = [row["val_word_error_rate"] for row in made.history]
    assert made.record.phases[0].ran.best["val_word_error_rate"] == min(rates)
    assert made.record.metrics["validation"]["word_error_rate"] == pytest.approx(min(rates), abs=0.1)


def test_tuning_makes_fewer_words_wrong(made: Any) -> None:
    before, after = made.record.before["test"], made.record.metrics["test"]
    assert after["word_error_rate"] < 0.75 < before["word_error_rate"]
    assert after["terms"]["said"] == 7 and after["terms"]["recall"] > before["terms"]["recall"]


def test_the_control_set_is_measured_before_and_after(made: Any) -> None:
    for figures in (made.record.before, made.record.metrics):
        assert figures["control"]["words"] == 96 and len(figures["control"]["interval"]) == 2


# --- how it is written ---------------------------------------------------------------------------------------


def test_caches_do_not_change_what_is_written(model: Any, made: Any) -> None:
    split = made.splits(Progress()).test
    fast, slow = scoring.transcripts(model, split), decoding.uncached(model, heard(split))
    assert TRANSCRIPT.comparison.distance(fast, slow).max() < 1e-3
    assert len(set(texts(slow))) > 2


def test_a_transcript_does_not_depend_on_its_batch(model: Any, made: Any) -> None:
    split = made.splits(Progress()).test
    together = texts(scoring.transcripts(model, split))
    assert together[3] == texts(scoring.transcripts(model, data.picked(split, [3])))[0]


SETTINGS = {"words": 5, "end": 5, "max_tokens": 200}


def test_functions_are_traced_again_where_adapters_come(speech_recipe: Callable[..., Any]) -> None:
    model = train.plan(speech_recipe()).task
    encoded, limit = tf.random.stateless_normal([1, 50, model.whisper.hidden_dim], [0, 1]), tf.constant([8])
    before = scoring._compiled(model)(encoded, limit)
    assert scoring._compiled(model) is scoring._compiled(model)
    lora.adapt(
        model, keras_private.layers(model.whisper.decoder_transformer_layers[0]), Lora(targets=("query",), rank=2)
    )
    for layer in weights.adapted(model):
        layer.lora_kernel_b.assign(tf.ones_like(layer.lora_kernel_b))
    assert not np.array_equal(scoring._compiled(model)(encoded, limit)[1], before[1])


def written(chosen: Callable[[int], int], most: int) -> reader.Draft:
    said = reader.Writing(most, SETTINGS)
    n = 0
    while not said.is_over:
        said.add([np.eye(6, dtype=np.float32)[chosen(n)]])
        n += 1
    return said.best


def test_an_endless_repetition_ends_and_is_written_once() -> None:
    assert written(lambda n: 3, 200).tokens == [3]
    assert written(lambda n: [4, 0, 1, 2][n] if n < 4 else [0, 1, 2][(n - 4) % 3 + 0], 200).tokens[:4] == [4, 0, 1, 2]
    assert len(written(lambda n: (n * n + n // 7) % 5, 60).tokens) == 60


def test_a_word_may_be_said_three_times() -> None:
    assert written(lambda n: [3, 3, 3, 5][n], 200).tokens == [3, 3, 3, 5]


def test_a_long_phrase_is_a_loop_only_where_more_is_said_than_there_is_time_for() -> None:
    phrase = np.random.default_rng(0).integers(0, 5, 26).tolist()
    assert written(lambda n: phrase[n % 26], 76).tokens == phrase
    assert written(lambda n: [*phrase, *phrase, 5][n], 76).tokens == [*phrase, *phrase, 5]


def test_no_more_is_written_than_can_be_said() -> None:
    assert reader.limit(16_000, SETTINGS) == 24
    assert len(written(lambda n: (n * n + n // 7) % 5, reader.limit(8_000, SETTINGS)).tokens) == 18


def test_the_limit_of_a_graph_is_that_of_a_device() -> None:
    windows = np.zeros([4, 16_000], np.float32)
    for row, length in zip(windows, (0, 1, 8_001, 16_000), strict=True):
        row[:length] = 0.1
    expected = [reader.limit(reader.heard(row), SETTINGS) for row in windows]
    assert decoding.limits(tf.constant(windows), SETTINGS).numpy().tolist() == expected


@pytest.mark.parametrize("most", [5, 26])
def test_a_graph_ends_repetitions_as_a_device_does(plan: Any, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """An untrained model repeats itself."""
    split = data.few(plan.splits.train, 6)
    monkeypatch.setitem(plan.task.settings, "max_tokens", most)
    fast, slow = scoring.transcripts(plan.task, split), decoding.uncached(plan.task, heard(split))
    assert TRANSCRIPT.comparison.distance(fast, slow).max() < 1e-3


def test_bytes_become_the_text_that_was_tokenised(model: Any) -> None:
    ids = [int(i) for i in model.parts.tokenizer([" do mi"])[0]]
    known = reader.pieces(json.loads(json.dumps(list(model.parts.tokenizer.vocabulary)))[: model.settings["words"]])
    assert reader.text_of([*ids, model.settings["end"]], known) == b"do mi"
    assert reader.pieces(["Ã¨", "Ġciao"]) == ["è".encode(), b" ciao"]


# --- what is measured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Ciao, Mondo!", "ciao mondo"), ("voice-mail", "voice mail"), ("l’eco", "leco"), ("Nai\u0308ve", "naïve")],
)
def test_transcripts_are_compared_without_case_and_punctuation(text: str, expected: str) -> None:
    assert words.normalised(text) == expected


@pytest.mark.parametrize(
    ("said", "truth", "count"),
    [("a b c", "a b c", 0), ("a c", "a b c", 1), ("a x b c", "a b c", 1), ("", "a b", 2), ("b a", "a b", 2)],
)
def test_wrong_words_are_the_fewest_edits(said: str, truth: str, count: int) -> None:
    assert words.edits(said.split(), truth.split()) == count


def of(*said: str) -> Any:
    return predictions([np.zeros(0, np.int32)] * len(said), [np.zeros(0)] * len(said), [one.encode() for one in said])


def test_terms_have_a_recall_and_a_precision() -> None:
    truth, said = np.array(["press the pound key", "the key"]), of("press pound key", "the pound key")
    found = metrics((), truth, said, ["pound key"])
    assert found["word_error_rate"] == pytest.approx(2 / 6)
    assert found["terms"] | {"by_term": 0} == {"recall": 1.0, "precision": 0.5, "said": 1, "by_term": 0}


def test_the_terms_of_a_file_stay_in_the_run(speech_recipe: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("so\n\n mi do \n", "utf-8")
    recipe = speech_recipe(terms=["do"], terms_file=str(tmp_path / "terms.txt"))
    assert train.plan(recipe).recipe.terms == ("do", "so", "mi do")


def test_the_report_compares_before_and_after_and_plays_mistakes(made: Any) -> None:
    page = report.write(made).read_text("utf-8")
    assert "Errors before and after" in page and "do mi" in page and "control set" in page
    assert ("<audio" in page) == (made.record.metrics["test"]["exact"] < 1)


# --- what is refused -----------------------------------------------------------------------------------------


def test_a_language_that_the_preset_does_not_know_is_refused(speech_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="does not know language = 'fr'"):
        train.plan(speech_recipe(language="fr"))


def test_sounds_longer_than_the_window_and_empty_transcripts_are_refused_at_once(
    speech_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    sounds.write(tmp_path / "long.wav", sounds.noise(1.5))
    sounds.write(tmp_path / "mute.wav", sounds.noise(0.5, seed=1))
    (tmp_path / "all.csv").write_text("audio,text\nlong.wav,do\nmute.wav,\n", "utf-8")
    with pytest.raises(DataError) as found:
        data.load(speech_recipe(data={"source": "csv", "path": str(tmp_path / "all.csv"), "split_column": None}).data)
    assert "longer than data.window = 1 s" in found.value.message and "has no transcript" in found.value.message


def test_transcripts_with_too_many_tokens_are_refused(speech_recipe: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="longer than the 2 tokens"):
        train.plan(speech_recipe(max_tokens=2))


def test_a_preset_without_a_tokenizer_is_refused(speech_recipe: Callable[..., Any], sound_preset: Path) -> None:
    with pytest.raises(RecipeError, match="cannot write speech down"):
        train.plan(speech_recipe(preset=str(sound_preset)))


def test_a_moonshine_is_refused_with_its_name(speech_recipe: Callable[..., Any], moonshine: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot write speech down.*MoonshineBackbone") as found:
        train.plan(speech_recipe(preset=str(moonshine)))
    assert "Whisper" in (found.value.hint or "")


@pytest.mark.parametrize("target", ["android", "browser"])
def test_targets_that_ask_a_file_once_are_refused_before_training(
    speech_recipe: Callable[..., Any], target: str
) -> None:
    wanted = [{"target": target, "quantize": "dynamic"}]
    with pytest.raises(RecipeError, match="asks a file once for each token"):
        train.plan(speech_recipe(exports=wanted))


def test_integers_are_refused(made: Any) -> None:
    with pytest.raises(KerastuneError, match="in integers a spectrum"):
        export(made, Export(target="linux", quantize="int8"))


# --- planted faults ------------------------------------------------------------------------------------------


def transcribed(model: Any, sounds: list[Any], **faults: Any) -> Any:
    """What a device writes with the model's functions, some of which are wrong."""
    converter = faults.get("converter", model.converter())
    settings = {**model.settings, "cache": decoding.cache_shape(model), **faults.get("settings", {})}
    front_end, other = log_mel(converter, exported=True), faults.get("crossed", lambda cross: cross)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        if "sounds" in inputs:
            encoded = decoding.encoder(model.whisper, front_end(tf.constant(inputs["sounds"])))
            return {"cross_kv": other(decoding.cross_kv(model.whisper, encoded))}
        names = ("tokens", "self_kv", "cross_kv")
        tokens, cache, cross = (tf.constant(inputs[name]) for name in names)
        logits, following = decoding.step(model.whisper, tokens, tf.constant(inputs["position"])[0], cache, cross)
        return {"logits": logits.numpy(), "self_kv_next": following.numpy()}

    shift = faults.get("shift", 0)
    said = [reader.transcribe(run, np.roll(fit(one, model.samples), shift), settings) for one in sounds]
    known = decoding.pieces(model.parts.tokenizer, model.settings["words"])
    rows = [(np.array(one.tokens), np.array(one.margins), reader.text_of(one.tokens, known)) for one in said]
    return predictions(*zip(*rows, strict=True))


@pytest.fixture(scope="module")
def problems(model: Any, made: Any) -> Callable[..., list[str]]:
    """What verification says about a device with faults."""
    golden = heard(made.splits(Progress()).test)
    part = comparing.Part("golden sounds", (), decoding.uncached(model, golden), tolerance=1e-2)
    return lambda **faults: comparing.problems(TRANSCRIPT, part, transcribed(model, golden, **faults), 100.0)


def test_a_device_writes_what_keras_writes(problems: Callable[..., list[str]]) -> None:
    assert problems() == []


def test_filters_for_another_rate_are_caught(model: Any, problems: Callable[..., list[str]]) -> None:
    converter = model.converter()
    converter.mel_filters = type(converter)(sampling_rate=8_000).mel_filters
    assert problems(converter=converter)


def test_a_start_that_is_shifted_by_a_hop_is_caught(problems: Callable[..., list[str]]) -> None:
    assert problems(shift=160)


def test_a_swapped_language_is_caught(model: Any, problems: Callable[..., list[str]]) -> None:
    start, _, *rest = model.settings["prompt"]
    other = model.parts.tokenizer.language_tokens["<|it|>"]
    assert problems(settings={"prompt": [start, other, *rest]})


def test_keys_of_another_sound_are_caught(problems: Callable[..., list[str]]) -> None:
    held: list[Any] = []

    def late(cross: Any) -> Any:
        held.append(cross)
        return held[-2] if len(held) > 1 else cross

    assert problems(crossed=late)


# --- beams -------------------------------------------------------------------------------------------------


def best_of_all(logits: Callable[[list[int]], Any], most: int) -> list[int]:
    """The transcript with the highest mean log-probability, found by trying every one."""

    def every(said: list[int], scores: list[float]) -> Iterator[tuple[float, list[int]]]:
        if said and (said[-1] == SETTINGS["end"] or len(said) == most):
            yield float(np.mean(scores)), said
            return
        row = reader.open_logits(logits(said), said, SETTINGS).astype(np.float64)
        for token in np.flatnonzero(np.isfinite(row)).tolist():
            yield from every([*said, token], [*scores, row[token] - np.log(np.exp(row).sum())])

    return max(every([], []))[1]


@pytest.mark.parametrize("seed", range(20))
def test_as_many_beams_as_tokens_find_the_best_of_all_transcripts_of_two(seed: int) -> None:
    random = np.random.default_rng(seed)
    known: dict[tuple[int, ...], Any] = defaultdict(lambda: random.normal(size=6).astype(np.float32) * 2)
    said = reader.Writing(2, {**SETTINGS, "beams": 6})
    while not said.is_over:
        said.add([known[tuple(draft.tokens)] for draft in said.drafts])
    assert said.best.tokens == best_of_all(lambda tokens: known[tuple(tokens)], 2)


def test_beams_find_what_the_likeliest_token_hides() -> None:
    """Token 0 is likelier at first, but what follows it is not."""
    after = {(): [1.0, 0.9], (0,): [0.0] * 6, (1,): [0, 0, 9.0]}

    def tokens(beams: int) -> list[int]:
        said = reader.Writing(2, {**SETTINGS, "beams": beams})
        while not said.is_over:
            rows = [after[tuple(draft.tokens)] for draft in said.drafts]
            said.add([np.array([*row, *[-9.0] * (6 - len(row))], np.float32) for row in rows])
        return said.best.tokens[:2]

    assert tokens(1)[0] == 0 and tokens(2) == [1, 2]


def test_beams_with_caches_write_what_they_write_without(plan: Any) -> None:
    model, split = plan.task, data.few(plan.splits.train, 6)
    greedy = scoring.transcripts(model, split)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.settings, "beams", 3)
        fast, slow = scoring.transcripts(model, split), decoding.uncached(model, heard(split))
        validated = scoring.validated(plan.recipe, model, plan.splits)
    assert TRANSCRIPT.comparison.distance(fast, slow).max() < 1e-3
    assert texts(fast) != texts(greedy) and validated["word_error_rate"] > 0


def test_an_artifact_pursues_beams_as_its_run(made: Any, exports: dict[str, Any], long: Path) -> None:
    ours, theirs = (predict(one, [long], beams=4)[0] for one in (made, exports["linux"]))
    assert ours.document == theirs.document


def test_a_run_that_was_measured_in_beams_is_proved_in_beams(speech_recipe: Callable[..., Any], tmp_path: Path) -> None:
    phases = [{"unfreeze": "all", "lora": False, "epochs": 10, "learning_rate": 4e-3}]
    made = fine_tune(speech_recipe(beams=3, phases=phases), tmp_path / "run")
    (of,) = export(made, Export(target="linux"))
    model = tasks.get("speech_to_text").building.load(str(made.folder), made.recipe, "float32")
    split = made.splits(Progress()).validation
    assert of.manifest.reading["beams"] == 3 and of.report.passed
    assert texts(made.predicted("validation", split.digests)) == texts(decoding.uncached(model, heard(split)))


def test_beams_are_refused_where_a_file_chooses_its_tokens(
    speech_recipe: Callable[..., Any], exports: dict[str, Any], long: Path
) -> None:
    with pytest.raises(RecipeError, match="beams = 2, but the file itself chooses"):
        train.plan(speech_recipe(beams=2, exports=[{"target": "tf-serving"}]))
    with pytest.raises(KerastuneError, match="cannot pursue 2 beams"):
        predict(exports["tf-serving"], [long], beams=2)


@pytest.mark.parametrize("beams", [0, 9])
def test_only_one_to_eight_beams_are_taken(
    made: Any, speech_recipe: Callable[..., Any], long: Path, beams: int
) -> None:
    with pytest.raises(RecipeError, match="beams"):
        speech_recipe(beams=beams)
    with pytest.raises(KerastuneError, match=f"[Bb]eams = {beams} is not"):
        predict(made, [long], beams=beams)


# --- long recordings ---------------------------------------------------------------------------------------


def test_a_run_joins_what_it_hears_in_the_windows_of_a_recording(made: Any, model: Any, long: Path) -> None:
    (found,) = predict(made, [long])
    sound = audio.decode(long.read_bytes())[0]
    starts = recordings.beginnings(sound, 16_000)
    known = decoding.pieces(model.parts.tokenizer, model.settings["words"])
    each = scoring.answers(model, [recordings.window(sound, start, 16_000) for start in starts])
    parts = [recordings.Written(*map(list, one), b"") for one in zip(each["tokens"], each["margins"], strict=True)]
    by_start = dict(zip(starts, parts, strict=True))
    whole = recordings.joined(by_start, lambda tokens: reader.text_of(tokens, known), model.settings)
    assert found.input == str(long) and found.document == {"text": whole.text.decode()}
    assert len(starts) >= 5


def test_artifacts_write_a_long_recording_down_as_their_run(made: Any, exports: dict[str, Any], long: Path) -> None:
    (ours,) = predict(made, [long])
    for of in exports.values():
        (theirs,) = predict(of, [long])
        assert theirs.document == ours.document and theirs.input == str(long)


# --- times -------------------------------------------------------------------------------------------------

TIMED = {**SETTINGS, "times": 7, "timestamps": True, "samples": 16_000}  # words 0 to 4, the end 5, times from 7 on


def open_after(said: list[int], likely: int = 0) -> set[int]:
    logits = np.zeros(7 + 1501, np.float32)
    logits[likely] = 20
    return set(np.flatnonzero(np.isfinite(reader.open_logits(logits, said, TIMED))).tolist())


def test_times_begin_and_end_segments_and_never_go_back() -> None:
    words, end = set(range(5)), 5
    assert open_after([]) == set(range(7, 7 + 51))  # a time within the first second
    assert open_after([9]) == words | {end}
    assert open_after([9, 1]) == words | {end} | set(range(10, 58))
    assert open_after([9, 1, 20], likely=end) == {end} | set(range(20, 58))
    assert open_after([9, 1, 20, 20]) == words | {end}
    assert open_after([9, 1], likely=30) == set(range(10, 58))  # times together are likelier than any word
    assert not {6, 58} & open_after([9, 1])  # other special tokens, and times after the window


def spelled(tokens: list[int]) -> bytes:
    return "".join("abcde"[token] for token in tokens if token < 5).encode()


def test_segments_have_times_in_seconds() -> None:
    found = reader.segments([7, 0, 1, 17, 27, 2, 37, 5], spelled, TIMED, 1.0)
    assert found == [(0.0, pytest.approx(0.2), b"ab"), (pytest.approx(0.4), pytest.approx(0.6), b"c")]
    assert reader.segments([7, 0, 17, 17, 1], spelled, TIMED, 0.3)[-1] == (pytest.approx(0.2), 0.3, b"b")


def test_times_of_joined_windows_are_those_of_the_recording() -> None:
    """The second window begins 0.68 s after the first. The seam is in "bcd", which both hear."""
    left = recordings.Written([7, 0, 1, 2, 3, 47, 5], [0.0] * 7, b"")
    right = recordings.Written([7, 1, 2, 3, 12, 22, 4, 32, 5], [0.0] * 9, b"")
    whole = recordings.joined({0: left, 10_880: right}, spelled, TIMED)
    assert reader.segments(whole.tokens, spelled, TIMED, 5.0) == [
        (0.0, pytest.approx(0.78), b"abcd"),
        (pytest.approx(0.98), pytest.approx(1.18), b"e"),
    ]
    gave_up = recordings.Written([7, 1, 2, 3, 12, 5], [0.0] * 6, b"")
    assert recordings.joined({0: left, 10_880: gave_up}, spelled, TIMED).tokens == left.tokens[:-1]


@pytest.fixture(scope="module")
def clock(speech_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose preset has times, of which it learns nothing."""
    folder = tmp_path_factory.mktemp("timed")
    tiny.speech_preset(folder / "preset", times=1501)
    phases = [{"unfreeze": "all", "lora": False, "epochs": 14, "learning_rate": 4e-3}]
    return fine_tune(speech_recipe(preset=str(folder / "preset"), phases=phases), folder / "run")


def test_a_run_and_its_artifact_tell_the_same_times(clock: Any, long: Path) -> None:
    (of,) = export(clock, Export(target="onnxruntime"))
    (ours,), (theirs,) = (predict(one, [long], timestamps=True) for one in (clock, of))
    assert ours.document == theirs.document and ours.lines == theirs.lines
    parts = ours.document["segments"]
    times = [time for one in parts for time in (one["start"], one["end"])]
    assert times == sorted(times) and " ".join(one["text"] for one in parts) == ours.document["text"]
    assert "segments" not in predict(clock, [long])[0].document


def test_the_command_prints_a_line_for_each_segment(clock: Any, long: Path) -> None:
    result = CliRunner().invoke(cli, ["predict", str(clock.folder), str(long), "--timestamps"])
    assert result.exit_code == 0 and re.search(r"^  \d+\.\d\d to \d+\.\d\d s  \w", result.stdout, re.MULTILINE)


def test_times_are_refused_where_there_are_none(made: Any, exports: dict[str, Any], long: Path, exported: Any) -> None:
    for of in (made, exports["linux"]):
        with pytest.raises(KerastuneError, match="has no tokens for times"):
            predict(of, [long], timestamps=True)
    assert "chooses its tokens itself" in str(reader.refusal(TIMED, is_whole=True))
    with pytest.raises(KerastuneError, match=r"only for speech_to_text; but .* is for image_classification"):
        predict(exported("resnet")["onnx"], "photo.png", timestamps=True)


# --- where it goes -------------------------------------------------------------------------------------------


def test_a_run_transcribes_a_recording(made: Any, spoken: Path) -> None:
    result = CliRunner().invoke(cli, ["predict", str(made.folder), str(spoken / TEST[0]), "--json"])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert set(found["text"].split()) <= {"do", "mi", "so"}


def test_a_run_writes_down_what_a_microphone_hears(made: Any, long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounds.library(long))
    (heard,), (read,) = predict(made, (), mic=60.0), predict(made, [long])
    assert heard.input == "microphone, 60 s" and heard.document == read.document


def test_a_server_takes_wav_files(model: Any, made: Any, spoken: Path) -> None:
    function, specs = tracing.signatures(model)["serve_bytes"]
    files = [(spoken / name).read_bytes() for name in TEST[:3]]
    found = tf.function(function, input_signature=specs, autograph=False)(tf.constant(files))
    expected = texts(decoding.uncached(model, heard(made.splits(Progress()).test)))[:3]
    assert [text.decode() for text in found["text"].numpy()] == expected


def test_a_run_is_a_preset_of_keras_hub_and_of_another_recipe(made: Any, speech_recipe: Callable[..., Any]) -> None:
    import keras_hub

    assert keras_hub.models.Backbone.from_preset(str(made.folder)).num_layers == 2
    again = train.plan(speech_recipe(preset=str(made.folder)))
    assert again.recipe.preset == str(made.folder)


# --- a Hugging Face folder -----------------------------------------------------------------------------------


@pytest.fixture
def theirs(speech_preset: Path, tmp_path: Path) -> Path:
    """The tiny preset as transformers stores a Whisper."""
    import keras_hub
    from safetensors.numpy import save_file

    whisper = keras_hub.models.WhisperBackbone.from_preset(str(speech_preset))
    tokenizer = keras_hub.models.WhisperTokenizer.from_preset(str(speech_preset))
    stored = {name: np.ascontiguousarray(turned(one.numpy())) for name, one, turned in hugging_face.named(whisper)}
    save_file(stored, tmp_path / "model.safetensors")
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}
    config = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()}
    config |= {"model_type": "whisper", "vocab_size": 50, "d_model": 32, "num_mel_bins": 80}
    config |= {"max_source_positions": 100, "max_target_positions": 40}
    special = dict(zip(tokenizer.special_tokens, tokenizer.special_token_ids, strict=True)) | tokenizer.language_tokens
    document = {
        "added_tokens": [{"id": int(i), "content": token} for token, i in special.items()],
        "model": {"vocab": tokenizer.vocabulary, "merges": tokenizer.merges},
    }
    heard = {"n_fft": 400, "hop_length": 160, "sampling_rate": 16_000, "chunk_length": 30}
    for name, content in (("config", config), ("tokenizer", document), ("preprocessor_config", heard)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return tmp_path


def test_a_hugging_face_folder_is_the_same_model(theirs: Path, plan: Any, speech_recipe: Callable[..., Any]) -> None:
    made = train.plan(speech_recipe(preset=str(theirs)))
    x = feeding.example(plan.task, plan.splits.train, 2)
    np.testing.assert_array_equal(made.task(x, training=False), plan.task(x, training=False))
    assert made.task.settings == plan.task.settings


def test_a_hugging_face_folder_with_other_weights_is_refused(theirs: Path, speech_recipe: Callable[..., Any]) -> None:
    config = json.loads((theirs / "config.json").read_text("utf-8"))
    (theirs / "config.json").write_text(json.dumps({**config, "d_model": 64}), "utf-8")
    with pytest.raises(RecipeError, match="has the shape"):
        train.plan(speech_recipe(preset=str(theirs)))

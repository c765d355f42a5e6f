"""Sounds: what is read from a file, what is refused, and what a stream gives."""

import csv
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import RATE, encoded, noise, tone, write

from kerastune import data
from kerastune.data.rules import DataError
from kerastune.modalities import audio
from kerastune.recipe.sources import FolderSounds, ListedSounds, TfdsSounds
from kerastune.targets import audio as reader

FORMATS = [
    *(("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAV", "ULAW")),
    *(("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16")),
]


# --- what is read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_is_read_in_every_format_at_any_number_of_channels(format: str, subtype: str, channels: int) -> None:
    sound = np.stack([tone(440, 1.0, 48_000)] * channels, axis=1)
    found = audio.decode(encoded(sound, 48_000, format, subtype))
    assert (found.shape, found.dtype) == ((RATE,), np.float32)
    spectrum = np.abs(np.fft.rfft(found))
    assert spectrum.argmax() == 440 and np.abs(found).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000])
def test_a_tone_stays_where_it_was_at_any_rate(rate: int) -> None:
    found = audio.decode(encoded(tone(1_000, 1.0, rate), rate))
    np.testing.assert_allclose(found[500:-500], tone(1_000, 1.0)[500:-500], atol=2e-3)


def test_channels_are_averaged() -> None:
    both = np.stack([tone(440), -tone(440) / 2], axis=1)
    np.testing.assert_allclose(audio.decode(encoded(both, subtype="FLOAT")), tone(440) / 4, atol=1e-6)


def test_only_the_wanted_beginning_is_decoded() -> None:
    data = encoded(noise(3.0, 44_100), 44_100)
    np.testing.assert_array_equal(audio.beginning(data, 5_000), audio.decode(data)[:5_000])


# --- what is refused -----------------------------------------------------------------------------------------

WAV = encoded(tone(440))
HUGE = WAV[:24] + (8_000).to_bytes(4, "little") + WAV[28:40] + (2**31).to_bytes(4, "little") + WAV[44:]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, world", "is not a sound"),
        (encoded(np.zeros(0)), "is empty: it holds no samples"),
        (WAV[:-10], "is truncated: it ends 10 bytes early"),
        (HUGE, "is truncated: it ends 2,147,4"),
        (encoded(tone(440), format="AIFF")[:-1], "is truncated: it ends 1 byte early"),
        (encoded(noise(2.0), format="FLAC")[:-2_000], "is damaged or cut off after"),
        (encoded(noise(2.0), format="OGG", subtype="VORBIS")[:-2_000], "is truncated"),
        (encoded(noise(2.0), format="MP3", subtype="MPEG_LAYER_III")[:-1_000], "is truncated: it ends 1,000 bytes"),
        (encoded(np.array([0, np.nan, 0]), subtype="FLOAT"), "not a finite number, at 0.000 s"),
        (encoded(np.array([0.0] * 160 + [np.inf]), subtype="FLOAT"), "not a finite number, at 0.010 s"),
        (encoded(tone(440), 100), "has 100 samples per second"),
        (b"MThd\0\0\0\6", "is a MIDI file"),
    ],
    ids=lambda one: one if isinstance(one, str) else "sound",  # bytes may hold the time of day
)
def test_what_cannot_be_read_correctly_is_refused_in_words(data: bytes, why: str) -> None:
    assert re.search(why, audio.check(data, "x.wav").problem or "")
    with pytest.raises(audio.UnreadableSound, match=why):
        audio.decode(data)


def test_a_sound_longer_than_an_hour_is_refused_without_being_held_in_memory() -> None:
    data = encoded(np.zeros(3601 * 8_000, np.int16), 8_000, subtype="PCM_U8")
    tracemalloc.start()
    assert "is longer than 3,600 s" in (audio.check(data, "x.wav").problem or "")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("sound", "remark"),
    [
        (np.zeros(800), "silent"),
        (np.full(800, 0.25), "the same value throughout"),
        (np.clip(tone(440, level=3.0), -1, 1), "clipped"),
    ],
)
def test_what_is_odd_but_can_be_read_is_remarked(sound: Any, remark: str) -> None:
    found = audio.check(encoded(sound), "x.wav")
    assert found.problem is None and found.remarks[0].startswith(remark)


def test_a_plain_sound_has_no_remark_and_a_wrong_extension_has_one() -> None:
    assert audio.check(WAV, "x.wav").remarks == ()
    assert audio.check(WAV, "x.mp3").remarks == ("extension and content differ, read by content",)


def test_a_header_without_a_length_is_read_to_its_end() -> None:
    streamed = WAV[:40] + b"\xff" * 4 + WAV[44:]
    np.testing.assert_array_equal(audio.decode(streamed), audio.decode(WAV))
    assert audio.check(streamed, "x.wav").remarks == ("no length in its header, read to its end",)


# --- streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("size", [77, 4_096])
def test_a_stream_has_the_bits_of_the_file(rate: int, size: int) -> None:
    sound = noise(1.0, rate)
    resampler = reader.Resampler(rate)
    parts = [resampler.resampled(sound[at : at + size]) for at in range(0, len(sound), size)]
    whole = audio.decode(encoded(sound, rate, subtype="FLOAT"))
    found = list(reader.windows([*parts, resampler.rest()], 4_000, 1_500))
    np.testing.assert_array_equal(np.stack(found), np.stack(list(reader.windows([whole], 4_000, 1_500))))


@pytest.mark.parametrize(
    ("samples", "step", "count"), [(10, 10, 10), (10, 5, 19), (10, 15, 7), (7, 3, 32), (200, 9, 1)]
)
def test_windows_cover_a_stream_once_and_end_in_silence(samples: int, step: int, count: int) -> None:
    sound = np.arange(1, 101, dtype=np.float32)
    found = list(reader.windows(np.split(sound, [3, 50, 51]), samples, step))
    assert len(found) == count
    for i, window in enumerate(found):
        np.testing.assert_array_equal(window, reader.fit(sound[i * step :], samples))


def test_a_sound_is_padded_with_silence_or_cut_to_the_window() -> None:
    assert reader.fit(np.ones(2, np.float32), 4).tolist() == [1, 1, 0, 0]
    assert reader.fit(np.ones(9, np.float32), 4).tolist() == [1, 1, 1, 1]


# --- shown ---------------------------------------------------------------------------------------------------


def test_a_report_draws_and_plays_a_sound_and_escapes_its_name() -> None:
    shown = audio.preview(tone(440), "<b>")
    assert '<img src="data:image/png' in shown and '<audio controls src="data:audio/mpeg' in shown
    assert "&lt;b&gt;" in shown and "<b>" not in shown


def test_a_long_sound_is_shown_by_its_beginning() -> None:
    assert len(audio.preview(noise(120.0), "")) < 1.2 * len(audio.preview(noise(10.0), ""))


def test_a_spectrogram_shows_a_high_tone_above_a_low_one() -> None:
    def row(hertz: float) -> int:
        return int(audio.spectrogram(tone(hertz)).sum(axis=(1, 2)).argmax())

    assert row(4_000) < row(1_000) < row(250)


# --- sources -------------------------------------------------------------------------------------------------


@pytest.fixture
def hits(tmp_path: Path) -> Path:
    """Six kits with a high and a low tone each, some longer than others."""
    for kit in range(6):
        for label, hertz in (("high", 3_000), ("low", 300)):
            for n in range(2):
                sound = tone(hertz + 10 * kit + n, 0.2 + 0.1 * n) + noise(0.2 + 0.1 * n, seed=kit * 10 + n, level=0.01)
                write(tmp_path / "hits" / label / f"kit{kit}" / f"{n}.wav", sound)
    return tmp_path / "hits"


def test_sounds_of_a_folder_are_split_by_their_groups(hits: Path) -> None:
    found = data.load(FolderSounds(source="folder", path=str(hits), group_folders=True, test_fraction=0.2))
    kits = [{id.split("/")[1] for id in split.ids} for split in (found.train, found.validation, found.test)]
    assert found.labels == ("high", "low") and sum(map(len, kits)) == len(set.union(*kits)) == 6
    assert found.train.modality is audio.AUDIO and found.train.example(0).dtype == np.float32


def test_every_bad_sound_of_a_folder_is_named_at_once(hits: Path) -> None:
    (hits / "low" / "cut.wav").write_bytes(WAV[:-10])
    (hits / "low" / "song.ape").write_bytes(b"\0\0\0\x20")
    (hits / "high" / "empty.flac").write_bytes(b"")
    with pytest.raises(DataError, match="3 problems") as error:
        data.load(FolderSounds(source="folder", path=str(hits)))
    said = str(error.value)
    assert "low/cut.wav: is truncated" in said and "high/empty.flac: is empty (0 bytes)" in said
    assert "low/song.ape: is in the format APE; convert it to wav or flac" in said


def manifest(folder: Path, rows: list[dict[str, Any]], kind: str) -> str:
    path = folder / f"hits.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_parts_of_one_recording_are_read_from_a_table(tmp_path: Path, kind: str) -> None:
    sound = np.concatenate([noise(0.5, seed=n) for n in range(12)])
    write(tmp_path / "all.flac", sound, format="FLAC", subtype="PCM_24")
    rows = [
        {"audio": "all.flac", "label": "ab"[n % 2], "from": n / 2, "to": None if n == 11 else (n + 1) / 2}
        for n in range(12)
    ]
    found = data.load(
        ListedSounds(source=kind, path=manifest(tmp_path, rows, kind), start_column="from", end_column="to")  # type: ignore[arg-type]
    )
    n = int(float(found.train.ids[0].split(" ")[2]) * 2)
    assert found.train.ids[0].startswith("all.flac from ")
    np.testing.assert_allclose(found.train.example(0), sound[n * 8_000 : (n + 1) * 8_000], atol=1e-6)


def test_parts_that_are_not_there_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "all.wav", noise(1.0))
    rows = [
        {"audio": "all.wav", "label": "a", "from": "0", "to": "0.5"},
        {"audio": "all.wav", "label": "a", "from": "0.5", "to": "3"},
        {"audio": "all.wav", "label": "b", "from": "-1", "to": "1"},
        {"audio": "all.wav", "label": "b", "from": "2", "to": ""},
        {"audio": "all.wav", "label": "b", "from": "0.7", "to": "0.2"},
        {"audio": "none.wav", "label": "b", "from": "x", "to": ""},
    ]
    settings = ListedSounds(source="csv", path=manifest(tmp_path, rows, "csv"), start_column="from", end_column="to")
    with pytest.raises(DataError) as error:
        data.load(settings)
    said = str(error.value)
    assert "ends at 1.00 s, before the end of the part, 3 s" in said
    assert "line 4: the time is -1 s, before the beginning, in column 'from'" in said
    assert "has no samples from 2 s" in said and "line 6: the part ends at 0.2 s, not after its start" in said
    assert "line 7: none.wav is not there" in said


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_sounds_of_tfds_are_read_at_their_rate(tmp_path: Path, dtype: Any) -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def wave(n: int) -> Any:
        sound = tone(300 + 20 * n, 0.1 + n / 100, 8_000)
        return np.round(sound * 32_767).astype(dtype) if dtype == np.int64 else sound

    features = {
        "audio": tfds.features.Audio(dtype=dtype, sample_rate=8_000),
        "label": tfds.features.ClassLabel(names=["b", "a"]),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        data_dir=str(tmp_path),
        split_datasets={
            "train": tf.data.Dataset.from_generator(
                lambda: ({"audio": wave(n), "label": n % 2} for n in range(20)),
                output_signature={"audio": tf.TensorSpec([None], dtype), "label": tf.TensorSpec([], tf.int64)},
            )
        },
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )
    found = data.load(TfdsSounds(source="tfds", name="tiny", data_dir=str(tmp_path)))
    assert found.labels == ("b", "a") and len(found.train) > 10
    n = int(found.train.ids[0].removeprefix("train[").removesuffix("]"))
    sound = found.train.example(0)
    np.testing.assert_allclose(sound[200:-200], tone(300 + 20 * n, len(sound) / RATE)[200:-200], atol=5e-3)


def test_without_soundfile_the_extra_is_named(hits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"Reading sounds needs soundfile and soxr: pip install ('kerastune\[audio\]'|soundfile)"
    ):
        data.load(FolderSounds(source="folder", path=str(hits)))

"""Sounds in m4a, video and other containers, which PyAV reads where it is installed."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import tone

from kerastune.data import load
from kerastune.modalities import audio
from kerastune.recipe.sources import FolderSounds, ListedSounds
from kerastune.targets import audio as reader
from kerastune.targets import containers

needs_av = pytest.mark.skipif(not containers.is_here(), reason="pip install av")
CODECS = {"ipod": "aac", "matroska": "aac", "avi": "pcm_s16le", "adts": "aac"}


def encoded(kind: str, seconds: float = 2.0, rate: int = 44_100) -> bytes:
    """A tone on two channels, the second at half its level."""
    import av

    sound = tone(440, seconds * rate / 16_000)[: round(seconds * rate)].astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([sound, sound / 2]), format="fltp", layout="stereo")
    frame.sample_rate = rate
    with av.open(written := io.BytesIO(), "w", format=kind) as file:
        stream = file.add_stream(CODECS[kind], rate=rate)
        stream.layout = "stereo"
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=rate)
        for one in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(one))
        file.mux(stream.encode(None))
    return written.getvalue()


def level(sound: Any) -> float:
    return float(np.sqrt(np.square(sound[8_000:24_000]).mean()))


@needs_av
@pytest.mark.parametrize("kind", CODECS)
def test_a_container_is_read_as_a_file_of_its_sound(kind: str) -> None:
    data = encoded(kind)
    found = audio.decode(data)
    assert len(found) / audio.RATE == pytest.approx(2.0, abs=0.1)
    assert level(found) == pytest.approx(level(tone(440, 2.0)) * 0.75, rel=0.1)
    assert audio.check(data, "x").problem is None


@needs_av
@pytest.mark.parametrize("kind", ["ipod", "matroska", "avi"])
def test_a_container_that_is_cut_off_is_refused(kind: str) -> None:
    data = encoded(kind)
    problem = audio.check(data[: len(data) // 2], "x").problem
    assert problem and re.search("damaged|cut off|truncated", problem)


def telephone(kind: str, rate: int) -> bytes:
    """A tone of two seconds as telephones store it, without any header."""
    sound = tone(440, 2.0)[:: 16_000 // rate].astype(np.float32)
    if kind == "gsm":
        soundfile.write(written := io.BytesIO(), sound, rate, format="RAW", subtype="GSM610")
        return written.getvalue()
    import av

    frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
    frame.sample_rate = rate
    with av.open(written := io.BytesIO(), "w", format=kind) as file:
        stream = file.add_stream(kind, rate=rate)
        stream.layout = "mono"
        file.mux([*stream.encode(frame), *stream.encode(None)])
    return written.getvalue()


@needs_av
@pytest.mark.parametrize(("kind", "rate"), [("g722", 16_000), ("gsm", 8_000)])
def test_files_of_telephones_are_read_wherever_they_are_named(kind: str, rate: int, tmp_path: Path) -> None:
    for n in range(12):
        path = tmp_path / "ab"[n % 2] / f"{n}.{kind}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(telephone(kind, rate)[33 * n :])
    rows = "".join(f"{'ab'[n % 2]}/{n}.{kind},{'ab'[n % 2]}\n" for n in range(12))
    (tmp_path / "all.csv").write_text(f"audio,label\n{rows}", "utf-8")
    folder = load(FolderSounds(source="folder", path=str(tmp_path))).train.example(0)
    table = load(ListedSounds(source="csv", path=str(tmp_path / "all.csv"))).train.example(0)
    ((_, theirs),) = reader.asked([str(path)], {"samples": 32_000})
    for found in (folder, table, audio.ask([path], 1).examples[0], theirs):
        assert len(found) / audio.RATE == pytest.approx(2.0, abs=0.25)  # of GSM, 33 bytes are 20 ms
        assert level(found) == pytest.approx(level(tone(440, 2.0)), rel=0.1)


def test_a_file_of_another_format_is_not_taken_for_g722() -> None:
    assert reader.marked(b"RIFF", "x.g722") == b"RIFF" and reader.marked(b"", "x.g722") == b""


@needs_av
def test_gsm_that_is_cut_off_is_refused() -> None:
    assert "truncated" in (audio.check(telephone("gsm", 8_000)[:-5], "x.gsm").problem or "")


@needs_av
def test_a_part_of_a_container_is_cut_out() -> None:
    assert len(audio.decode(audio.cut(encoded("matroska"), 0.5, 1.25))) == 12_000


def test_without_pyav_files_of_telephones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "is_here", lambda: False)
    for name, file in (
        ("a G.722 file", reader.marked(b"\xfa\x94\x24", "x.G722")),
        ("a GSM file", telephone("gsm", 8_000)),
    ):
        assert (audio.check(file, "x").problem or "").startswith(f"is {name}, which is not supported")


def test_without_pyav_a_container_is_refused_with_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "is_here", lambda: False)
    why = "is an MP4 file, which is not supported; convert it to wav or flac, or install PyAV, which reads most"
    assert (audio.check(b"\0\0\0\x20ftypM4A rest", "x.m4a").problem or "").startswith(why)

"""Sounds in m4a, video and other containers, which PyAV reads where it is installed."""

import io
import re
from typing import Any

import numpy as np
import pytest
from sounds import tone

from kerastune.modalities import audio
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


@needs_av
def test_a_part_of_a_container_is_cut_out() -> None:
    assert len(audio.decode(audio.cut(encoded("matroska"), 0.5, 1.25))) == 12_000


def test_without_pyav_a_container_is_refused_with_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "is_here", lambda: False)
    why = "is an MP4 file, which is not supported; convert it to wav or flac, or install PyAV, which reads most"
    assert (audio.check(b"\0\0\0\x20ftypM4A rest", "x.m4a").problem or "").startswith(why)

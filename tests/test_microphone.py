"""A microphone, played by a file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sounds

from kerastune import environment
from kerastune.errors import DataError, KerastuneError
from kerastune.modalities import audio
from kerastune.predicting import inference


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *given, **options: monkeypatch.setitem(sys.modules, "sounddevice", sounds.library(*given, **options))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_microphone_hears_what_a_file_of_its_sound_holds(
    plug: Callable[..., None], tmp_path: Path, rate: int
) -> None:
    path = sounds.write(tmp_path / "said.wav", sounds.tone(440, 2.0 * rate / 16_000)[: 2 * rate], rate, subtype="FLOAT")
    plug(path, rate)
    heard = audio.AUDIO.hear(1.5)  # type: ignore[misc]
    assert heard.names == ["microphone, 1.5 s"] and len(heard.examples[0]) == 24_000
    np.testing.assert_array_equal(heard.examples[0][:20_000], audio.decode(path.read_bytes())[:20_000])


def test_a_microphone_that_lost_something_says_so(plug: Callable[..., None], tmp_path: Path) -> None:
    plug(sounds.write(tmp_path / "said.wav", sounds.tone(440, 1.0)), overflows=True)
    assert audio.hear(0.5).names == ["microphone, 0.5 s, with gaps"]


def test_without_a_microphone_or_its_library_there_is_a_reason(
    plug: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(None)
    with pytest.raises(DataError, match="No microphone can be heard: Error querying device -1"):
        audio.hear(1.0)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DataError, match="needs sounddevice") as found:
        audio.hear(1.0)
    assert found.value.hint == environment.install("sounddevice")


def test_pictures_are_not_heard(exported: Any) -> None:
    with pytest.raises(KerastuneError, match="takes images, which no microphone hears"):
        inference.predict(exported("resnet")["onnx"], (), mic=1.0)


def test_examples_and_a_microphone_exclude_each_other(exported: Any) -> None:
    with pytest.raises(KerastuneError, match="Both mic = 3 and examples are given") as found:
        inference.predict(exported("resnet")["onnx"], "clip.wav", mic=3.0)
    assert found.value.hint == "Give examples or mic, not both."

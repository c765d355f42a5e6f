"""WAV files that a graph decodes."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile
import sounds
import tensorflow as tf

from kerastune.targets import audio
from kerastune.tasks import wav

SAMPLES = 16_000


def file(sound: Any, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    soundfile.write(written := io.BytesIO(), sound, rate, format="WAV", subtype=subtype)
    return written.getvalue()


def decoded(*files: bytes) -> Any:
    found = tf.function(lambda some: wav.windows(some, SAMPLES, 16_000), autograph=False)
    return found(tf.constant(list(files))).numpy()


def test_files_become_the_windows_that_training_reads() -> None:
    files = [file(sounds.tone(300, 0.5)), file(np.stack([sounds.tone(300, 1), sounds.tone(900, 1)], axis=1))]
    for found, data in zip(decoded(*files), files, strict=True):
        np.testing.assert_allclose(found, audio.fit(audio.decode(data)[0], SAMPLES), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (file(sounds.tone(300, 0.5), rate=44_100), "44100"),
        (file(sounds.tone(300, 1.5)), "24000"),
        (file(sounds.tone(300, 0.5), subtype="FLOAT"), "pcm|format|Bad"),
        (b"ID3 a song", "Header|WAV|wav"),
    ],
)
def test_files_that_would_have_to_be_changed_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=why):
        decoded(data)

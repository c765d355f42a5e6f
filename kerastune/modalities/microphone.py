"""What a microphone hears, by the library sounddevice."""

import numpy as np

from kerastune import environment
from kerastune.errors import DataError
from kerastune.modalities.contract import Asked
from kerastune.targets.audio import Resampler


def heard(seconds: float) -> Asked:
    """Listens for some seconds, at the microphone's own rate, and returns what was heard as one sound.

    Raises:
        DataError: sounddevice is not installed, or there is no microphone that it can open.
    """
    try:
        import sounddevice
    except ImportError:
        raise DataError("Hearing a microphone needs sounddevice.", environment.install("sounddevice")) from None
    except OSError as error:  # its own library is missing
        raise DataError(f"sounddevice cannot hear: {error}.", "On Debian: apt-get install libportaudio2") from error
    try:
        rate = round(sounddevice.query_devices(kind="input")["default_samplerate"])
        with sounddevice.InputStream(rate, channels=1, dtype="float32") as stream:
            block, is_cut = stream.read(round(seconds * rate))
    except sounddevice.PortAudioError as error:
        raise DataError(
            f"No microphone can be heard: {error}.", "Connect one, or record a file and give that."
        ) from error
    resampler = Resampler(rate)
    sound = np.concatenate([resampler.resampled(block[:, 0]), resampler.rest()])
    return Asked([f"microphone, {seconds:g} s" + (", with gaps" if is_cut else "")], [sound])

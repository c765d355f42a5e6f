"""TFLite metadata: the TFLITE_METADATA that MediaPipe and Android Studio read, labels included.

Written with a bare flatbuffers.Builder: field numbers are the order in TensorFlow's published metadata_schema.fbs
(Apache-2.0), so that no package with the generated bindings is needed.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LABELS = "labels.txt"

_NAME = "TFLITE_METADATA"
_PARSER = "1.0.0"  # the oldest metadata parser that knows all fields used here
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1  # of the unions ContentProperties and ProcessUnitOptions: 0 is none
_RGB, _AXIS_LABELS = 1, 2


@dataclass(frozen=True)
class About:
    """The metadata of a model. Labels are in the order of its scores; a model of vectors has none."""

    name: str
    description: str
    version: str
    licence: str
    labels: list[str]
    unit: str = "image"


def read(work: Path) -> About | None:
    """Reads WORK/about.json, if the exporter wrote one."""
    path = work / "about.json"
    return About(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def add(model: Any, about: About) -> None:
    """Adds the metadata to an unpacked model, `ai_edge_litert.schema_py_generated.ModelT`."""
    from ai_edge_litert import schema_py_generated as schema

    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, buffer.data = _NAME, len(model.buffers), np.frombuffer(_metadata(about), np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def with_labels(content: bytes, about: About) -> bytes:
    """Appends the labels to a model file as a zip archive, where readers of metadata look for files."""
    file = io.BytesIO()
    file.write(content)
    with zipfile.ZipFile(file, "w") as archive:  # stored: MediaPipe maps it
        archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(map(one_line, about.labels)) + "\n")
    return file.getvalue()


def one_line(label: str) -> str:
    """Returns a label as a line of labels.txt."""
    return " ".join(label.splitlines())


def _metadata(about: About) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def table(count: int, fields: dict[int, int], bytes_: dict[int, int] | None = None) -> int:
        builder.StartObject(count)
        for number, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(number, offset, 0)
        for number, value in (bytes_ or {}).items():
            builder.PrependUint8Slot(number, value, 0)
        return int(builder.EndObject())

    def tables(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def floats(value: float) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return int(builder.EndVector())

    text = builder.CreateString

    def ends() -> dict[int, int]:
        """Describes the input and output of an image model."""
        image = table(2, {}, {0: _RGB})
        content = table(2, {1: image}, {0: _IMAGE_PROPERTIES})
        normalization = table(2, {0: floats(0.0), 1: floats(1.0)})  # the model takes raw pixels
        unit = table(2, {1: normalization}, {0: _NORMALIZATION_OPTIONS})
        images = table(7, {0: text("images"), 1: text("RGB pixels of an upright image"), 3: content, 4: tables([unit])})
        labels = table(5, {0: text(LABELS), 1: text("the label of each score")}, {2: _AXIS_LABELS})
        scores = table(7, {0: text("scores"), 1: text("probability of each label"), 6: tables([labels])})
        return {2: tables([images]), 3: tables([scores])}

    # MediaPipe's metadata describes token inputs only for its own models.
    graph = table(10, ends() if about.unit == "image" and about.labels else {})
    said = {0: about.name, 1: about.description, 2: about.version, 5: about.licence, 7: _PARSER}
    builder.Finish(table(8, {3: tables([graph]), **{n: text(value) for n, value in said.items()}}), b"M001")
    return bytes(builder.Output())

"""TFLite metadata: the TFLITE_METADATA that MediaPipe and Android Studio read, labels included.

Written with a bare flatbuffers.Builder: field numbers are the order in TensorFlow's published metadata_schema.fbs
(Apache-2.0), so that no package with the generated bindings is needed.
"""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kerastune.targets.audio import RATE

LABELS = "labels.txt"

_NAME = "TFLITE_METADATA"
_PARSER = "1.0.0"  # the oldest metadata parser that knows all fields used here
_IMAGE_PROPERTIES, _BOX_PROPERTIES, _AUDIO_PROPERTIES = 2, 3, 4  # of the union ContentProperties; 0 is none
_NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
_RGB, _GREY, _BOUNDARIES, _AXIS_LABELS, _VALUE_LABELS = 1, 2, 1, 2, 3
_SOFTMAX = 2


@dataclass(frozen=True)
class Kind:
    """A kind of output tensor that MediaPipe Tasks know.

    Attributes:
        called: its name in the metadata; MediaPipe finds the tensors of a detector by their names.
        meaning: what it holds, in words.
        labels: how labels belong to it: 2, one for each number of the last axis; 3, its values number them; 0, none.
        axes: the first and the last axis with content; None: not said.
        content: row of the union ContentProperties.
        takes: what the model takes: images of RGB pixels, or a sound of one channel at `RATE`.
    """

    called: str
    meaning: str
    labels: int = 0
    axes: tuple[int, int] | None = None
    content: int = 0
    takes: Literal["image", "sound"] = "image"


KINDS = {
    "labels": Kind("scores", "probability of each label", _AXIS_LABELS),
    "sound_labels": Kind("scores", "score of each label", _AXIS_LABELS, takes="sound"),
    "vector": Kind("embeddings", "vector of the image"),
    "masks": Kind("segmentation_masks", "logit of each label at each place", _AXIS_LABELS, (1, 2), _IMAGE_PROPERTIES),
    "boxes": Kind("location", "left, top, right and bottom, in shares of the image", 0, (2, 2), _BOX_PROPERTIES),
    "classes": Kind("category", "number of the label of each box", _VALUE_LABELS, (2, 2)),
    "box_scores": Kind("score", "score of each box", 0, (2, 2)),
    "count": Kind("number of detections", "number of boxes"),
}
"""Kinds of output: `ImageClassifier`'s, `AudioClassifier`'s, `ImageEmbedder`'s, `ImageSegmenter`'s, and the four of
`ObjectDetector`."""


@dataclass(frozen=True)
class About:
    """The metadata of a model.

    Attributes:
        labels: in the order of its scores; a model of vectors has none.
        outputs: row of `KINDS` of each output, by name, if MediaPipe has a task for the model.
    """

    name: str
    description: str
    version: str
    licence: str
    labels: list[str]
    outputs: dict[str, str] = field(default_factory=dict)


def read(work: Path) -> About | None:
    """Reads WORK/about.json, if the exporter wrote one."""
    path = work / "about.json"
    return About(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def add(model: Any, about: About) -> None:
    """Adds the metadata to an unpacked model, `ai_edge_litert.schema_py_generated.ModelT`."""
    from ai_edge_litert import schema_py_generated as schema

    signatures = [sorted(bytes(output.name).decode() for output in one.outputs) for one in model.signatureDefs or ()]
    known = signatures == [sorted(about.outputs)]
    kinds = [KINDS[about.outputs[name]] for name in sorted(about.outputs)] if known else []
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, buffer.data = _NAME, len(model.buffers), np.frombuffer(_metadata(about, kinds), np.uint8)
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


def _metadata(about: About, kinds: Sequence[Kind]) -> bytes:
    """Returns the metadata; `kinds` are those of the outputs in their order, or none."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def table(
        count: int, fields: dict[int, int], bytes_: dict[int, int] | None = None, ints: dict[int, int] | None = None
    ) -> int:
        builder.StartObject(count)
        for number, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(number, offset, 0)
        for number, value in (bytes_ or {}).items():
            builder.PrependUint8Slot(number, value, 0)
        for number, value in (ints or {}).items():
            builder.PrependInt32Slot(number, value, 0)
        return int(builder.EndObject())

    def vector(values: Sequence[Any], prepend: Callable[[Any], None]) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return int(builder.EndVector())

    def tables(offsets: Sequence[int]) -> int:
        return vector(offsets, builder.PrependUOffsetTRelative)

    text = builder.CreateString

    def images() -> int:
        content = table(2, {1: table(2, {}, {0: _RGB})}, {0: _IMAGE_PROPERTIES})
        # The model takes raw pixels.
        normalization = table(2, {n: vector([value], builder.PrependFloat32) for n, value in enumerate((0.0, 1.0))})
        unit = table(2, {1: normalization}, {0: _NORMALIZATION_OPTIONS})
        return table(7, {0: text("images"), 1: text("RGB pixels of an upright image"), 3: content, 4: tables([unit])})

    def sounds() -> int:
        properties = table(2, {}, ints={0: RATE, 1: 1})  # samples per second, channels
        content = table(2, {1: properties}, {0: _AUDIO_PROPERTIES})
        return table(7, {0: text("sounds"), 1: text("samples of one channel, from -1 to 1"), 3: content})

    def output(kind: Kind) -> int:
        fields = {0: text(kind.called), 1: text(kind.meaning)}
        if kind.axes:
            content = {2: table(2, {}, ints=dict(enumerate(kind.axes)))}
            if kind.content == _IMAGE_PROPERTIES:
                content[1] = table(2, {}, {0: _GREY})
            elif kind.content == _BOX_PROPERTIES:  # left, top, right, bottom; in shares, the default
                content[1] = table(3, {0: vector(range(4), builder.PrependUint32)}, {1: _BOUNDARIES})
            fields[3] = table(4, content, {0: kind.content})
        if kind.labels:
            fields[6] = tables([table(5, {0: text(LABELS), 1: text("the labels")}, {2: kind.labels})])
        return table(7, fields)

    def activation() -> int:
        inner = flatbuffers.Builder(64)
        inner.StartObject(2)
        inner.PrependUint8Slot(0, _SOFTMAX, 0)
        inner.Finish(inner.EndObject(), b"V001")
        return table(2, {0: text("SEGMENTER_METADATA"), 1: builder.CreateByteVector(bytes(inner.Output()))})

    # MediaPipe's metadata describes token inputs only for its own models.
    taken = {"image": images, "sound": sounds}
    ends = {2: tables([taken[kinds[0].takes]()]), 3: tables([output(kind) for kind in kinds])} if kinds else {}
    if KINDS["masks"] in kinds:
        ends[9] = tables([activation()])
    graph = table(10, ends)
    said = {0: about.name, 1: about.description, 2: about.version, 5: about.licence, 7: _PARSER}
    builder.Finish(table(8, {3: tables([graph]), **{n: text(value) for n, value in said.items()}}), b"M001")
    return bytes(builder.Output())

"""What phones and microcontrollers need beside the numbers: metadata in the file, a C array, a measured arena."""

import shutil
import subprocess
import zipfile
from importlib.util import find_spec

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types
from flatbuffers.table import Table

from kerastune import export, verify
from kerastune.errors import ConverterError, VerificationError
from kerastune.exporting import microcontroller
from kerastune.formats import metadata, tflite
from kerastune.formats.metadata import About
from kerastune.recipe import parse_export
from kerastune.verifying import artifact, runtimes

needs_mediapipe = pytest.mark.skipif(not find_spec("mediapipe"), reason="pip install mediapipe")
needs_compilers = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="apt install gcc g++")


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A ResNet's run for phones and microcontrollers: name -> artifact, each verified as it was made."""
    folder = tmp_path_factory.mktemp("exports")
    wanted = {
        "android-int8": {"target": "android"},
        "android-none": {"target": "android", "quantize": "none"},
        "android-int4": {"target": "android", "quantize": "int4"},
        "microcontroller": {"target": "microcontroller"},
    }
    found = [
        export(trained("resnet"), parse_export({**one, "max_accuracy_drop": 0.1}), folder / name)
        for name, one in wanted.items()
    ]
    return {one.manifest.name: one for (one,) in found}


# --- metadata ----------------------------------------------------------------------------------------------


class Fields:
    """A table of a flatbuffer, read by field number as the published schema counts them."""

    def __init__(self, content, at=None):
        self.table = Table(content, int.from_bytes(content[:4], "little") if at is None else at)

    def offset(self, number):
        return self.table.Offset(4 + 2 * number)

    def text(self, number):
        return self.table.String(self.table.Pos + self.offset(number)).decode()

    def byte(self, number):
        return self.table.Bytes[self.table.Pos + self.offset(number)]

    def child(self, number):
        return Fields(self.table.Bytes, self.table.Indirect(self.table.Pos + self.offset(number)))

    def only(self, number):
        assert self.table.VectorLen(self.offset(number)) == 1
        return Fields(self.table.Bytes, self.table.Indirect(self.table.Vector(self.offset(number))))

    def floats(self, number):
        return self.table.GetVectorAsNumpy(number_types.Float32Flags, self.offset(number)).tolist()


def said(content):
    """The metadata that a model's file holds, as a table."""
    model = schema.Model.GetRootAs(content, 0)
    (entry,) = (e for i in range(model.MetadataLength()) if (e := model.Metadata(i)).Name() == b"TFLITE_METADATA")
    found = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert found[4:8] == b"M001"
    return Fields(bytearray(found))


@pytest.mark.parametrize("name", ["android-int8", "android-none", "android-int4", "microcontroller"])
def test_a_tflite_file_says_what_it_takes_and_what_it_calls_its_scores(made, name):
    path = made[name].folder / "model.tflite"
    about = said(path.read_bytes())
    assert about.text(0) == "resnet" and "kerastune" in about.text(1) and about.text(5) == made[name].manifest.licence
    images, scores = about.only(3).only(2), about.only(3).only(3)
    assert images.child(3).byte(0) == 2 and images.child(3).child(1).byte(0) == 1  # an image, RGB
    normalization = images.only(4)
    assert normalization.byte(0) == 1
    assert (normalization.child(1).floats(0), normalization.child(1).floats(1)) == ([0.0], [1.0])
    assert scores.only(6).text(0) == "labels.txt" and scores.only(6).byte(2) == 2  # labels of an axis
    with zipfile.ZipFile(path) as files:
        assert files.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED
        assert files.read("labels.txt").decode() == "blue\ngreen\nred\n"


def test_a_label_takes_one_line_whatever_it_is_called():
    about = About("n", "d", "v", "l", ["Käfer 🐞", "two\nlines", "three\r\nof\x85them"])
    content = metadata.with_labels(b"model", about)
    assert content.startswith(b"model")
    assert b"K\xc3\xa4fer \xf0\x9f\x90\x9e\ntwo lines\nthree of them\n" in content


@pytest.mark.parametrize("runtime", ["litert", "litert-reference", "tflm"])
def test_metadata_and_labels_change_no_score(made, copied, runtime):
    of, bare = made["android-int8"], copied(made["android-int8"])
    path = bare.folder / "model.tflite"
    content = path.read_bytes().replace(b"TFLITE_METADATA", b"nobody_reads_it")
    path.write_bytes(content[: content.index(b"PK\3\4")])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(path)
    bare = artifact.write(bare.folder, bare.manifest, of.golden)
    said = [runtimes.ask(one, runtime, of.golden.examples).outputs["scores"] for one in (of, bare)]
    np.testing.assert_array_equal(*said)


def test_a_file_with_its_weights_behind_the_flatbuffer_stays_as_it_is(made):
    content = (made["android-none"].folder / "model.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    model.buffers[-1].offset, model.buffers[-1].size = len(content), 1
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    behind = bytes(builder.Output()) + b"0"
    about = About("n", "d", "v", "l", ["a"])
    assert tflite._packed(behind, about) == behind


@needs_mediapipe
@pytest.mark.parametrize("name", ["android-int8", "android-none"])
def test_mediapipe_reads_the_pixels_the_scores_and_the_labels(made, name):
    report = verify(made[name], in_runtimes=["mediapipe"])
    assert report.own.golden.max_error <= made[name].manifest.tolerance.golden_error


@needs_mediapipe
def test_a_label_that_mediapipe_calls_by_another_name_is_caught(made, copied):
    of = copied(made["android-int8"])
    path = of.folder / "model.tflite"
    path.write_bytes(path.read_bytes().replace(b"blue\ngreen\n", b"blue\ngrey!\n"))
    artifact.write(of.folder, of.manifest, of.golden)
    with pytest.raises(ConverterError, match="label 1 is 'grey!' in the model but 'green' in the manifest"):
        runtimes.ask(of, "mediapipe", of.golden.examples)


# --- microcontrollers --------------------------------------------------------------------------------------

MAIN = """
#include <stdint.h>
#include <stdio.h>
#include "model.h"
int main(void) {
  if ((uintptr_t)model_my_model_1 % 16) return 1;
  return fwrite(model_my_model_1, 1, model_my_model_1_length, stdout) != model_my_model_1_length;
}
"""


@needs_compilers
@pytest.mark.parametrize("compiler", [["gcc", "-std=c11", "-x", "c"], ["g++", "-std=c++11", "-x", "c++"]])
def test_the_c_array_compiles_and_is_the_model_byte_for_byte(made, tmp_path, compiler):
    model = (made["microcontroller"].folder / "model.tflite").read_bytes()
    for name, text in {**microcontroller.c_source("my-model 1", model), "main.cc": MAIN}.items():
        (tmp_path / name).write_text(text)
    subprocess.run([*compiler, "-Wall", "-Werror", "model.cc", "main.cc", "-o", "dump"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "dump"], stdout=subprocess.PIPE, check=True).stdout == model


def test_the_c_array_is_part_of_the_artifact(made, copied):
    of = copied(made["microcontroller"])
    source = microcontroller.c_source("microcontroller", (of.folder / "model.tflite").read_bytes())
    assert (of.folder / "model.cc").read_text() == source["model.cc"]
    assert "CONV_2D, " in (of.folder / "model.h").read_text()
    assert of.size_bytes == (of.folder / "model.tflite").stat().st_size
    (of.folder / "model.h").write_text("")
    with pytest.raises(VerificationError, match=r"model\.h has changed"):
        of.check_files()


def test_the_arena_is_the_smallest_that_runs_here(made):
    of = made["microcontroller"]
    arena, images = of.manifest.extras["arena_bytes"], of.golden.examples
    small, large = (runtimes.ask(of, "tflm", images, options) for options in (("--arena", str(arena)), ()))
    np.testing.assert_array_equal(small.outputs["scores"], large.outputs["scores"])
    with pytest.raises(ConverterError):
        runtimes.ask(of, "tflm", images, ("--arena", str(arena - 2048)))

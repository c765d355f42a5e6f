"""A fault that a converter could make is caught in every format, and not by a checksum."""

import shutil

import faults
import numpy as np
import pytest

from kerastune import run
from kerastune.errors import VerificationError
from kerastune.verifying.verifier import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")  # the calibrator's
OFTEN = ["linux", "linux-int8", "onnxruntime"]  # the others are slow
NAMES = ["-".join(one.values()) for one in faults.EXPORTS]
EVERY = [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in NAMES]


@pytest.fixture(scope="module")
def references(trained, tmp_path_factory):
    """A ResNet's run, what to export from it, and a folder with the images to prove it with."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    of = run.load(shutil.copytree(trained("resnet").folder, folder, ignore=shutil.ignore_patterns("exports")))
    with faults.references(of) as work:
        yield of, dict(zip(NAMES, faults.jobs(of, faults.EXPORTS, of.folder), strict=True)), work


@pytest.fixture
def planted(references, tmp_path):
    of, jobs, work = references

    def make(name, fault=""):
        traced = faults.tracing(of, jobs[name], fault, work)
        return faults.artifact_of(of, jobs[name], traced, tmp_path / name), of

    return make


@pytest.mark.parametrize("name", EVERY)
def test_the_sound_file_has_no_problems(planted, name):
    assert faults.problems(*planted(name)) == []


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("name", EVERY)
def test_a_fault_is_caught_on_the_golden_images_alone(planted, name, fault):
    made, _ = planted(name, fault)
    made.check_files()  # no checksum finds it
    with pytest.raises(VerificationError, match="golden images"):
        verify(made)


@pytest.mark.parametrize("name", EVERY)
def test_shifted_labels_are_caught_beside_the_run(planted, name):
    made, of = planted(name)
    shifted = faults.with_labels_shifted(made)
    with pytest.raises(VerificationError, match="its labels differ from those of run, or are in another order"):
        verify(shifted, of.folder)


def test_grey_images_are_proved_in_two_tints(planted):
    golden = planted("linux")[0].golden
    images, scores = golden.examples, golden.expected["scores"]
    pairs = [i for i in range(len(images) - 1) if np.array_equal(images[i], images[i + 1][..., ::-1])]
    assert len(pairs) == 8
    assert all(len(np.unique(images[i][..., 2])) == 1 for i in pairs)  # no blue in the red one
    assert np.abs(scores[pairs] - scores[[i + 1 for i in pairs]]).max() > 0.05

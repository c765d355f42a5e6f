"""Files compute on arm64 what they compute here: make verify-arm64 sets up what this needs, and runs it."""

import subprocess

import numpy as np
import pytest

from kerastune import verify
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.comparing import OTHER_KERNELS

needs_arm64 = pytest.mark.skipif(
    not runtimes.RUNTIMES["arm64"].version, reason="arm64 is not set up: bash export/linux/arm64.sh"
)


@needs_arm64
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime"), [("tflite", "arm64"), ("tflite-int8", "arm64"), ("onnx", "arm64-onnxruntime")]
)
def test_an_artifact_is_proved_on_arm64_as_it_is_here(exported, copied, name, runtime):
    of = copied(exported("resnet")[name])
    report, allowed = verify(of, in_runtimes=[runtime]), OTHER_KERNELS[of.manifest.quantize]
    assert report.passed and list(report.runtimes) == [runtime]
    images = of.golden.examples
    there, here = (runtimes.ask(of, one, images).outputs["scores"] for one in (runtime, of.manifest.runtime))
    print(f"\n{name}: {len(images)} golden images, largest difference from x86 {np.abs(there - here).max():.3g}")
    np.testing.assert_allclose(there, here, rtol=0, atol=allowed)


@needs_arm64
@pytest.mark.slow
def test_other_weights_are_caught_on_arm64(exported, copied):
    of = copied(exported("resnet")["tflite"])
    path = of.folder / "model.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)
    with pytest.raises((VerificationError, ConverterError)):
        verify(artifact.write(of.folder, of.manifest, of.golden), in_runtimes=["arm64"])


@needs_arm64
def test_the_interpreter_is_an_arm64_one():
    command = [runtimes.RUNTIMES["arm64"].python, "-c", "import platform; print(platform.machine())"]
    assert subprocess.check_output(command, text=True) == "aarch64\n"


def test_arm64_is_not_there_before_it_is_set_up_and_says_how(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path))
    with pytest.raises(KerastuneError, match=r"arm64 is not installed: bash .*linux/arm64\.sh"):
        verify(exported("resnet")["tflite"], in_runtimes=["arm64"])


def test_another_machine_is_tried_only_where_it_is_asked_for(exported):
    chosen = runtimes.choose(exported("resnet")["tflite"].manifest)
    assert "litert" in chosen and not any(name.startswith("arm64") for name in chosen)

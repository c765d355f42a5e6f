"""Memory is what the process may use: the machine's, or less in a container. A GPU needs a driver and wheels."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from kerastune import environment
from kerastune.cli import doctor
from kerastune.formats import support

GB = 10**9


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /sys/fs/cgroup, and for /proc where this process is in the group job/step."""
    monkeypatch.setattr(environment, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(environment, "_CGROUP", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path / "cgroup"


def put(folder: Path, names: tuple[str, str, str], limit: object, used: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {inactive}\n")


VERSIONS = {
    "v1": ("4:memory:/job/step", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    "v2": ("0::/job/step", "", ("memory.max", "memory.current", "inactive_file")),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tightest_group_is_the_limit_and_files_that_can_be_read_again_are_free(groups: Path, version: str) -> None:
    line, root, names = VERSIONS[version]
    (groups.parent / "proc/self/cgroup").write_text(f"9:pids:/x\n{line}\n")
    put(groups / root / "job" / "step", names, "max" if version == "v2" else 2**63 - 4096, 50_000_000, 0)
    put(groups / root / "job", names, GB // 2, 400_000_000, 300_000_000)
    assert environment.memory_total() == GB // 2
    assert environment.memory_available() == 400_000_000


def test_a_container_sees_its_group_as_the_root(groups: Path) -> None:
    (groups.parent / "proc/self/cgroup").write_text("0::/\n")
    put(groups, VERSIONS["v2"][2], GB // 2, GB, 0)
    assert environment.memory_total() == GB // 2
    assert environment.memory_available() == 0
    assert environment.machine()["memory_gb"] == 0.5


@pytest.mark.parametrize("said", ["", "0::/nowhere\n", "nonsense\n4:memory:/x"])
def test_without_a_group_the_machine_is_the_limit(groups: Path, said: str) -> None:
    (groups.parent / "proc/self/cgroup").write_text(said)
    assert environment.memory_total() == psutil.virtual_memory().total


def test_who_holds_memory_is_told_by_process() -> None:
    words = environment.memory_holders()
    assert words.count("GB") == 3 and words.count("process") == 3


def test_a_package_of_an_extra_is_installed_with_that_extra() -> None:
    assert environment.install("openvino") == environment.install("tflite-micro") == "pip install 'kerastune[runtimes]'"
    assert environment.install("ai-edge-quantizer") == "pip install 'kerastune[quantize]'"
    assert environment.install("mediapipe") == "pip install mediapipe"


def test_int4_without_its_package_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    assert support.missing("int8") is None
    assert "ai-edge-quantizer: pip install 'kerastune[quantize]'" in (support.missing("int4") or "")


def test_gpus_give_memory_as_it_is_needed_and_compute_float32_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    grown: list[str] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["busy", "free"])

    def grow(gpu: str, enable: bool) -> None:
        if gpu == "busy":
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        grown.append(gpu)

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    environment.prepare_gpus()
    assert grown == ["free"] and not tf.config.experimental.tensor_float_32_execution_enabled()


DRIVERS = {
    "535.161.08": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 2024\nGCC version: 12.2.0\n",
    "580.82.07": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\n",
    "of an unknown version": "",
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_nvidias_driver_and_wheels_are_told(groups: Path, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"nvidia-cudnn-cu12": "8.9", "nvidia-nccl-cu12": "2.28"}

    def version(package: str) -> str:
        if package not in versions:
            raise environment.PackageNotFoundError(package)
        return versions[package]

    assert environment.nvidia() is None
    (groups.parent / "proc/driver/nvidia").mkdir(parents=True)
    (groups.parent / "proc/driver/nvidia/version").write_text(DRIVERS[driver])
    monkeypatch.setattr(environment, "version", version)
    found = environment.nvidia()
    assert found and found["driver"] == driver
    assert "nvidia-cublas-cu12" in found["missing"] and "nvidia-nccl-cu12" not in found["missing"]
    assert any(one.startswith("nvidia-cudnn-cu12 (8.9 is not ") for one in found["missing"])


ALL = {"driver": "535.1", "missing": [], "libdevice": "/there"}


@pytest.mark.parametrize(
    ("nvidia", "is_seen", "advice"),
    [
        (ALL, True, None),
        (ALL, False, "a newer driver"),
        ({**ALL, "libdevice": None}, True, "pip install nvidia-cuda-nvcc-cu12"),
        ({**ALL, "missing": ["nvidia-cudnn-cu12"]}, False, "the GPU needs nvidia-cudnn-cu12"),
    ],
)
def test_a_gpu_that_cannot_be_used_gets_advice(nvidia: dict[str, Any], is_seen: bool, advice: str | None) -> None:
    said = doctor._gpu_advice(nvidia, is_seen, xla_works=True)
    assert said == [] if advice is None else advice in said[0]

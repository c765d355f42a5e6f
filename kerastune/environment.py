"""Describes the machine and the package versions of a run."""

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from kerastune.errors import printable, shortened

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")

_PACKAGES = (
    "kerastune",
    "tensorflow",
    "keras",
    "keras-hub",
    "tensorflow-datasets",
    "ai-edge-litert",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "numpy",
)


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hides TensorFlow's greetings if the block imports it: C++ writes them to descriptor 2, whatever its log level."""
    if "tensorflow" in sys.modules or "KERASTUNE_DEBUG" in os.environ:
        yield
        return
    with contextlib.suppress(AttributeError):  # a program without a terminal has None
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # it is closed: nothing is shown anyway
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
        if tensorflow := sys.modules.get("tensorflow"):
            tensorflow.config.list_physical_devices()  # or the first operation complains of drivers that are not there
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def prepare_gpus() -> None:
    """Lets TensorFlow take a GPU's memory as it is needed, and compute float32 in float32, not in TF32's 10 bits.

    Does nothing for a GPU that is in use already.
    """
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)


def gpu_memory() -> list[int]:
    """Returns the bytes of each NVIDIA GPU that this process may see; none where nvidia-smi is not there to tell."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(
            [*command, *(["-i", visible] if visible else [])], capture_output=True, timeout=20, check=True
        )
        return [int(line) * 2**20 for line in said.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def nvidia() -> dict[str, Any] | None:
    """Returns what TensorFlow needs of NVIDIA and whether it is there; None without a driver.

    Returns:
        "driver": its version. "missing": the wheels of tensorflow[and-cuda] that are not installed, or of another
        version, in words. "libdevice": XLA's file of mathematical functions, or None.
    """
    from packaging.requirements import Requirement

    path = _PROC / "driver" / "nvidia" / "version"
    if not path.is_file():
        return None
    driver = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)", path.read_text(errors="replace"))
    wanted = [one for one in map(Requirement, requires("tensorflow") or ()) if "and-cuda" in str(one.marker)]
    missing = []
    for one in wanted:
        try:
            if not one.specifier.contains(found := version(one.name)):
                missing.append(f"{one.name} ({found} is not {one.specifier})")
        except PackageNotFoundError:
            missing.append(one.name)
    roots = [Path(where) / "nvidia" / "cuda_nvcc" for where in sys.path]
    roots += [Path(where) for where in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if where]
    places = (root / "nvvm" / "libdevice" / "libdevice.10.bc" for root in roots)
    libdevice = next((str(place) for place in places if place.is_file()), None)
    return {"driver": driver[1] if driver else "of an unknown version", "missing": missing, "libdevice": libdevice}


def install(package: str) -> str:
    """Returns the command that installs a package, in a version that kerastune works with."""
    for requirement in requires("kerastune") or ():
        found = re.match(rf"{re.escape(package)}(?![\w.-]).*extra == ['\"](\w+)['\"]", requirement)
        if found and found[1] != "dev":
            return f"pip install 'kerastune[{found[1]}]'"
    return f"pip install {package}"


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def machine() -> dict[str, Any]:
    """Returns the machine that the numbers were measured on."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count(),
        "memory_gb": round(memory_total() / 1e9, 1),
    }


def cpu_flags() -> frozenset[str] | None:
    """Returns what an x86 processor can do, in Linux's words; None where nothing tells, and on other processors."""
    with contextlib.suppress(OSError):
        said = (_PROC / "cpuinfo").read_text(errors="replace")
        if found := re.search(r"^flags\s*:(.*)$", said, re.MULTILINE):
            return frozenset(found[1].split())
    return None


def has_bfloat16() -> bool:
    """Returns whether the processor is known to have instructions for products in bfloat16."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_flags() or ())


def memory_total() -> int:
    """Bytes that this process and its children may hold: the machine's memory, or less in a container."""
    return min([psutil.virtual_memory().total, *(group.limit for group in _groups())])


def memory_available() -> int:
    """Bytes of that which are free, or only hold files that can be read again."""
    return max(0, min([psutil.virtual_memory().available, *(group.limit - group.used for group in _groups())]))


def memory_holders(count: int = 3, but: Collection[int] = ()) -> str:
    """The processes that hold the most memory, in words, without those with the process ids `but`."""
    found = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        held = process.info["memory_info"]  # None: of another user
        if held and process.info["pid"] not in but:
            found.append((held.rss, process.info["pid"], process.info["name"]))
    said = []
    for held, pid, name in sorted(found, reverse=True)[:count]:
        whose = "this process" if pid == os.getpid() else f"process {pid} ({printable(shortened(name))})"
        said.append(f"{whose} {held / 1e9:.1f} GB")
    return ", ".join(said)


@dataclass(frozen=True)
class _Group:
    """A control group that bounds the memory of its processes, in bytes."""

    limit: int
    used: int


def _groups() -> Iterator[_Group]:
    """The groups that this process is in, of either version of Linux's control groups; none elsewhere."""
    lines = list[str]()
    with contextlib.suppress(OSError):
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots, names = (_CGROUP, _CGROUP / "unified"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            roots = (_CGROUP / "memory", _CGROUP / controllers)
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for root in roots:
            for folder in (root / inner, *(root / parent for parent in inner.parents)):  # the tightest counts
                with contextlib.suppress(OSError, ValueError, KeyError):  # no such folder here; or "max"
                    limit, used = (int((folder / name).read_text()) for name in names[:2])
                    rows = (row.split() for row in (folder / "memory.stat").read_text().splitlines())
                    yield _Group(limit, used - int(dict(rows)[names[2]]))


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

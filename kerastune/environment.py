"""Describes the machine and the package versions of a run."""

import contextlib
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

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


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def machine() -> dict[str, Any]:
    """Returns the machine that the numbers were measured on."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

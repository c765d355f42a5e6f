"""kerastune doctor: versions, GPUs, XLA, runtimes and hubs of this machine, and what to install."""

import urllib.error
import urllib.request
from typing import Any

import click

from kerastune.cli import show
from kerastune.cli.options import json_option
from kerastune.cli.progress import progress
from kerastune.cli.terminal import emit, say_next

_HUBS = {
    "Kaggle (KerasHub presets)": "https://www.kaggle.com",
    "Hugging Face (hf://)": "https://huggingface.co",
}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine has, and what to install.

    Example: kerastune doctor
    """
    with progress() as told, told.working("looking at this machine"):
        found = examine()
    emit(as_json, found, lambda: show.machine(found))
    say_next("kerastune recipes list")


def examine() -> dict[str, Any]:
    """Examines the machine before a run. Takes a few seconds, and makes a request to each hub."""
    import tensorflow as tf

    from kerastune import environment
    from kerastune.verifying.runtimes import RUNTIMES

    gpus = tf.config.list_physical_devices("GPU")
    missing = dict.fromkeys(row.install for row in RUNTIMES.values() if not row.version)
    advice = [f"{command}   # to verify in this runtime" for command in missing]
    nvidia, xla = environment.nvidia(), _xla_works()
    if nvidia:
        advice += _gpu_advice(nvidia, bool(gpus), xla)
    return {
        "versions": environment.versions(),
        "machine": environment.machine(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
        "nvidia": nvidia,
        "xla": xla,
        "runtimes": {name: row.version for name, row in RUNTIMES.items()},
        "hubs": {name: _reachable(url) for name, url in _HUBS.items()},
        "advice": advice,
    }


def _gpu_advice(nvidia: dict[str, Any], is_seen: bool, xla_works: bool) -> list[str]:
    """Returns what to do so that TensorFlow uses the GPU of a machine that has NVIDIA's driver."""
    import tensorflow as tf

    if nvidia["missing"]:
        wheels = ", ".join(nvidia["missing"])
        return [f"pip install 'tensorflow[and-cuda]=={tf.__version__}'   # the GPU needs {wheels}"]
    if not is_seen:
        cuda = tf.sysconfig.get_build_info().get("cuda_version", "")
        return [
            f"a newer driver from https://www.nvidia.com/drivers   # {nvidia['driver']} is there, TensorFlow's CUDA is "
            f"{cuda}, and it sees no GPU; KERASTUNE_DEBUG=1 kerastune doctor shows why"
        ]
    if not xla_works or not nvidia["libdevice"]:
        return ["pip install nvidia-cuda-nvcc-cu12   # XLA needs its libdevice.10.bc; until then, train.xla = false"]
    return []


def _xla_works() -> bool:
    import tensorflow as tf

    try:
        return bool(tf.function(lambda x: x * 2, jit_compile=True)(tf.constant(2.0)) == 4.0)
    except tf.errors.OpError:
        return False


def _reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True

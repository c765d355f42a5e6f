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
    if not gpus and tf.test.is_built_with_cuda():
        advice.append("pip install 'tensorflow[and-cuda]'   # if this machine has an NVIDIA GPU")
    return {
        "versions": environment.versions(),
        "machine": environment.machine(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
        "xla": _xla_works(),
        "runtimes": {name: row.version for name, row in RUNTIMES.items()},
        "hubs": {name: _reachable(url) for name, url in _HUBS.items()},
        "advice": advice,
    }


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

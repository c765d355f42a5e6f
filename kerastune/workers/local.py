"""Workers on this machine: one process for each GPU, or several on its CPUs."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kerastune.errors import KerastuneError, shortened
from kerastune.forkserver import tied
from kerastune.workers import cluster

_GRACE = 20.0  # seconds for a worker to end by itself
_GPUS = Path("/proc/driver/nvidia/gpus")


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """Starts `count` - 1 workers that follow this process, the chief, within the block. They end with it.

    Where there are GPUs, each worker gets one. Without, each gets its share of the cores.

    Raises:
        KerastuneError: there are fewer GPUs or cores than workers, or this process is already one of several.
    """
    if cluster.found().count > 1:
        raise KerastuneError(f"{cluster.VARIABLE} already names the workers.", "Leave out --workers, or unset it.")
    gpus, cores = _gpus(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count > (len(gpus) or cores):
        there = f"{len(gpus)} GPUs" if gpus else f"{cores} processor cores"
        raise KerastuneError(f"--workers {count}: this machine has {there}.", "Start fewer workers.")
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    threads = {"TF_NUM_INTRAOP_THREADS": str(max(1, cores // count)), "TF_NUM_INTEROP_THREADS": "2"}
    settings = [
        {
            **threads,
            cluster.VARIABLE: cluster.config(addresses, rank),
            **({"CUDA_VISIBLE_DEVICES": gpus[rank]} if gpus else {}),
        }
        for rank in range(count)
    ]
    before = dict(os.environ)
    os.environ.update(settings[0])
    with contextlib.ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in settings[1:]]
        command = tied([sys.executable, "-P", "-m", "kerastune.training"])
        started = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**before, **own})
            for file, own in zip(said, settings[1:], strict=True)
        ]
        try:
            yield
        except KerastuneError as error:
            _end(started)
            ends = zip(started, said, strict=True)
            error.message += "".join(_last_words(rank, *end) for rank, end in enumerate(ends, start=1))
            raise
        finally:
            _end(started)
            os.environ.clear()
            os.environ.update(before)


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    for worker in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(_GRACE)
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def _last_words(rank: int, worker: subprocess.Popen[bytes], said: IO[str]) -> str:
    """Returns what a worker that did not end well gave as its reason."""
    said.seek(0)
    _, _, reason = said.read().rpartition("Error: ")
    if worker.returncode < 0:
        return f"\nWorker {rank} was killed ({signal.Signals(-worker.returncode).name})."
    return f"\nWorker {rank}: {shortened(reason.strip(), 500)}" if worker.returncode else ""


def _gpus() -> list[str]:
    """Returns the numbers of the GPUs that this process may see, without TensorFlow, which would take them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [number for number in re.split(r"[,\s]+", visible) if number and number != "-1"]
    return [str(number) for number, _ in enumerate(_GPUS.iterdir())] if _GPUS.is_dir() else []


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]

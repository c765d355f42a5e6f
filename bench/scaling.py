"""Workers on this machine against one, and what the formula of docs/scale.md says of more: python bench/scaling.py

Trains the quickstart's images with all of EfficientNet-Lite0, by one worker on one core, and by two on one core each.
Prints the table of docs/scale.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHANGES = [
    *("train.batch_size=32", "train.precision=float32", "train.xla=false", "train.cache=off", "exports=[]"),
    'phases=[{unfreeze="all", epochs=2, learning_rate=1e-4, batch_norm="frozen"}]',
]


def measured(workers: int, folder: Path) -> dict[str, Any]:
    """Trains on one core a worker."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    out = folder / f"{workers}"
    changes = [word for change in CHANGES for word in ("-s", change)]
    command = ["-m", "kerastune", "train", "quickstart", *changes, "-o", str(out), "--workers", str(workers)]
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    bound = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, *command]
    subprocess.run(bound, check=True, env={**os.environ, **threads})
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


def simulated(workers: int, step: float, size: int, speed: float, latency: float) -> float:
    """Returns how many times as many examples a second n workers take, if each keeps its batch, by docs/scale.md.

    Args:
        step: seconds of a step of one worker.
        size: bytes of the gradients.
        speed: bytes per second of each link.
        latency: seconds of a message.
    """
    pieces = -(-size // 2**22)
    around = 2 * (workers - 1)
    return workers * step / (step + around / workers * size / speed + around * latency * pieces)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, two = (measured(count, Path(folder)) for count in (1, 2))
    seconds = [record["seconds"]["train"] for record in (one, two)]
    accuracy = [record["metrics"]["test"]["accuracy"] for record in (one, two)]
    print("| workers | training | times one | test accuracy |\n|---|---|---|---|")
    for count, time, right in zip((1, 2), seconds, accuracy, strict=True):
        print(f"| {count}, on one core each | {time:.1f} s | {seconds[0] / time:.2f} | {right:.4f} |")
    print("\n| simulated: 13 MB of gradients, 250 ms a step | 10 Gbit/s | 100 Gbit/s |\n|---|---|---|")
    for count in (2, 4, 8, 64, 512):
        found = (simulated(count, 0.25, 13_000_000, gigabits * 1e9 / 8, 50e-6) for gigabits in (10, 100))
        print(f"| {count} workers | {' | '.join(f'{times:.1f} ×' for times in found)} |")


if __name__ == "__main__":
    main()

"""Workers on this machine against one, and what the formula of docs/scale.md says of more: python bench/scaling.py

Trains all of EfficientNet-Lite0 on 1,920 of the quickstart's images at 224 pixels, by one worker on one core, and by
two on one core each; `python bench/scaling.py 64` takes the quickstart's 10,000 at 64. Prints the tables of
docs/scale.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHANGES = [
    *("train.batch_size=32", "train.precision=float32", "train.xla=false", "train.cache=off", "exports=[]"),
    'phases=[{unfreeze="all", epochs=2, learning_rate=1e-4, batch_norm="frozen"}]',
]
FEWER = ["data.train=train[:1920]", "data.validation=train[59000:59500]", "data.test=test[:2000]"]


def measured(workers: int, pixels: int, folder: Path) -> tuple[dict[str, Any], float]:
    """Trains on one core a worker. Returns run.json, and the seconds of the whole command."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    out = folder / f"{workers}"
    wanted = [*CHANGES, *(FEWER if pixels > 64 else ()), f"data.image_size={pixels}"]
    changes = [word for change in wanted for word in ("-s", change)]
    command = ["-m", "kerastune", "train", "quickstart", *changes, "-o", str(out), "--workers", str(workers)]
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    bound = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, *command]
    started = time.perf_counter()
    subprocess.run(bound, check=True, env={**os.environ, **threads})
    return json.loads((out / "run.json").read_text(encoding="utf-8")), time.perf_counter() - started


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
    pixels = int(sys.argv[1]) if len(sys.argv) > 1 else 224
    print("| workers | training | times one | whole command | times one | test accuracy |\n|---|---|---|---|---|---|")
    first: tuple[float, float] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2):
            record, whole = measured(count, pixels, Path(folder))
            trained, right = record["seconds"]["train"], record["metrics"]["test"]["accuracy"]
            first = first or (trained, whole)
            found = f"{trained:.1f} s | {first[0] / trained:.2f} | {whole:.1f} s | {first[1] / whole:.2f} | {right:.4f}"
            print(f"| {count}, on one core each | {found} |", flush=True)
    print("\n| simulated: 13 MB of gradients, 250 ms a step | 10 Gbit/s | 100 Gbit/s |\n|---|---|---|")
    for count in (2, 4, 8, 64, 512):
        found = (simulated(count, 0.25, 13_000_000, gigabits * 1e9 / 8, 50e-6) for gigabits in (10, 100))
        print(f"| {count} workers | {' | '.join(f'{times:.1f} ×' for times in found)} |")


if __name__ == "__main__":
    main()

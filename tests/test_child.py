"""Children: limits on time and memory, and forks of a process that has imported TensorFlow."""

import os
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest
from processes import until

from kerastune import child, environment, forkserver
from kerastune.errors import ConverterError

linux = pytest.mark.skipif(not forkserver.SUPPORTED, reason="children fork on Linux alone")


@pytest.fixture(params=["forked", "of its own"])
def process(request):
    """How children start: as forks, or each with an interpreter of its own."""
    if request.param == "forked":
        yield
        return
    token = child._server.set(None)
    yield
    child._server.reset(token)


def said_by(code, *arguments, **options):
    """What a child prints, and itself."""
    with tempfile.TemporaryFile("w+") as said:
        made = child.start([sys.executable, "-P", "-c", code, *arguments], said, **options)
        assert made.wait(60) == 0
        said.seek(0)
        return said.read().strip(), made


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"The toy crashed \(killed by SIGSEGV\)"),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"The toy was killed, probably by the system for using up the memory: it held .* GB of .* GB",
        ),
        ("raise ValueError('why')", "The toy failed: .*ValueError: why"),
        ("import sys; sys.exit('why')", "The toy failed: why"),
        ("import os; os._exit(3)", "The toy failed: it said nothing"),
        ("import time; time.sleep(60)", "The toy took more than .* minutes and was ended"),
    ],
)
def test_a_crash_a_kill_a_failure_and_a_hang_are_told_apart(process, code, said):
    with pytest.raises(ConverterError, match=said):
        child.run("The toy", ["-c", code], timeout=2)


def test_a_child_that_holds_much_is_ended_before_the_memory_runs_out(process, monkeypatch):
    monkeypatch.setattr(environment, "memory_available", lambda: 0)
    monkeypatch.setattr(child, "_SMALL", 3e8)
    code = "import time; held = b'x' * 1_000_000_000; time.sleep(60)"
    said = r"held \d\.\d GB when the memory ran out \(.* GB\), and was ended; the most after it held .*process"
    with pytest.raises(ConverterError, match=said) as caught:
        child.run("The toy", ["-c", code])
    assert "Try again when other programs have ended" in caught.value.hint


def test_a_child_that_holds_little_is_not_ended_for_what_others_hold(process, monkeypatch):
    monkeypatch.setattr(environment, "memory_available", lambda: 0)
    assert child.run("The toy", ["-c", "import time; time.sleep(1)"]) > 0


def test_a_childs_peak_memory_counts_what_it_holds(process):
    code = "import time; held = b'x' * {}; time.sleep(1)"
    little, much = (child.run("The toy", ["-c", code.format(size)]) for size in (1, 400_000_000))
    assert 300 < much - little < 440


def test_a_child_gets_arguments_environment_folder_and_input(process, monkeypatch, tmp_path):
    monkeypatch.setenv("KERASTUNE_TOY", "ü")
    (tmp_path / "in").write_text("asked")
    shown = "os.environ['KERASTUNE_TOY'], os.environ['CUDA_VISIBLE_DEVICES'], os.getcwd(), sys.stdin.read()"
    code = f"import os, sys; print(sys.argv[1:], {shown})"
    with (tmp_path / "in").open("rb") as asked:
        said, _ = said_by(code, "a", "-b", stdin=asked.fileno(), folder=str(tmp_path))
    assert said == f"['a', '-b'] ü -1 {tmp_path} asked"


@pytest.mark.parametrize("how", ["-m", "script"])
def test_modules_and_scripts_run_as_main(process, tmp_path, how):
    (tmp_path / "toy.py").write_text("import sys; assert __name__ == '__main__' and sys.argv[1:] == ['a'], sys.argv")
    child.run("The toy", ["-m", "this"] if how == "-m" else [str(tmp_path / "toy.py"), "a"])


def test_a_child_and_its_temporary_files_are_gone_after_its_parent_is_killed(tmp_path):
    code = """
import sys
from kerastune import child
toy = "import os, tempfile, time; tempfile.mkdtemp(); "
toy += "print(os.getpid(), file=open({!r}, 'w'), flush=True); time.sleep(60)"
child.run("The toy", ["-c", toy.format(sys.argv[1])])
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")], env=environment) as parent:
        until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().endswith("\n"), 60)
        pid = int((tmp_path / "pid").read_text())
        parent.kill()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    clearing = "from kerastune import files; files.clear_scratch()"
    subprocess.run([sys.executable, "-c", clearing], env=environment, check=True)
    assert list((tmp_path / "temporary").iterdir()) == []


# --- forks -------------------------------------------------------------------------------------------------

SMALL = "json"  # a library that is imported sooner than TensorFlow
MODULES = "import sys; print(*({'tensorflow', 'keras_hub', 'kerastune'} & set(sys.modules)))"


@linux
def test_a_fork_has_tensorflow_and_neither_kerashub_nor_kerastune():
    assert said_by(MODULES)[0] == "tensorflow"
    assert said_by(MODULES, forks=False)[0] == ""


@linux
def test_forks_compute_and_the_crash_of_one_is_not_that_of_the_next():
    code = "import tensorflow as tf; print(tf.reduce_sum(tf.ones([3, 3]) @ tf.ones([3, 3])).numpy())"
    with pytest.raises(ConverterError, match="SIGABRT"):
        child.run("The toy", ["-c", f"{code}; import os; os.abort()"])
    said, made = said_by(code)
    assert said.endswith("27.0") and isinstance(made, forkserver.Forked)


@linux
def test_a_server_that_was_killed_takes_its_children_along_and_is_replaced():
    with forkserver.ForkServer(SMALL) as server, tempfile.TemporaryFile() as said:
        sleeping = start(server, "import time; time.sleep(60)", said)
        server._process.kill()
        assert sleeping.wait(5) == -signal.SIGKILL
        assert start(server, "pass", said).wait(5) == 0


@linux
def test_children_end_with_their_client(tmp_path):
    code = """
import os, sys
from kerastune.forkserver import ForkServer
with ForkServer("json") as server:
    made = server.start(["-c", "import time; time.sleep(60)"], sys.stderr, 0, "/")
    print(os.getpid(), made.pid, flush=True)
    made.wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        pids = [int(pid) for pid in client.stdout.readline().split()]
        assert all(map(psutil.pid_exists, pids))
        client.kill()
    until(lambda: not any(map(psutil.pid_exists, pids)), 10)


@linux
def test_a_variable_that_tensorflow_may_have_read_gets_a_server_that_reads_it(monkeypatch):
    monkeypatch.setenv("TF_TOY", "1")
    with forkserver.ForkServer(SMALL) as server, tempfile.TemporaryFile() as said:
        one = server._process if start(server, "pass", said).wait(5) == 0 else None
        monkeypatch.setenv("TF_TOY", "2")
        assert start(server, "import os; assert os.environ['TF_TOY'] == '2'", said).wait(5) == 0
        assert server._process is not one
        monkeypatch.setenv("KERASTUNE_TOY", "2")
        two = server._process
        assert start(server, "import os; assert os.environ['KERASTUNE_TOY'] == '2'", said).wait(5) == 0
        assert server._process is two


@linux
def test_a_library_with_threads_is_not_forked(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with forkserver.ForkServer(SMALL) as server, tempfile.TemporaryFile() as said:
        assert start(server, "pass", said) is None
        assert server._process is None
        assert start(server, "pass", said) is None


def start(server, code, said):
    with open(os.devnull, "rb") as nothing:
        return server.start(["-c", code], said, nothing.fileno(), "/")

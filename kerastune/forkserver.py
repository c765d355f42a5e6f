"""A process that imports TensorFlow once, so that its forked children do not import it again.

The import takes 7 s on two cores and 750 MB. A fork takes milliseconds, and shares unchanged memory.

The server imports TensorFlow, but neither KerasHub nor kerastune, so a reader that forks from it still proves that it
needs neither. It serves only where forking is safe: with one thread, and nothing computed yet.

    client ─▶ server ─▶ keeper ─▶ child

Each child has a keeper, which sends the client the child's process id and later its exit code. A child dies with its
keeper, a keeper with the server, and the server with the client.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

SUPPORTED = sys.platform.startswith("linux")
"""On other systems, a child does not die with its parent, or there is no fork."""


_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9)\n"  # PR_SET_PDEATHSIG, SIGKILL
    "os.execvp(sys.argv[2], sys.argv[2:]) if os.getppid() == int(sys.argv[1]) else os._exit(1)"
)


ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}
"""Variables of children: converters and runtimes need no GPU, and one that training holds has no memory left."""


def tied(command: Sequence[str]) -> list[str]:
    """A command that the system kills when the thread that starts it ends, however that ends; on Linux alone.

    `preexec_fn` could do the same, and may hang in a process that has TensorFlow's threads.
    """
    if not SUPPORTED:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


class ForkServer:
    """The client. As a context manager, it ends the server and its children with the block.

    Args:
        library: the module that the server imports.
    """

    def __init__(self, library: str = "tensorflow") -> None:
        self._library = library
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_useless = not SUPPORTED

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin(self) -> None:
        """Starts the server if it is not running, without waiting for its imports."""
        if self._control or self._is_useless:
            return
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                tied([sys.executable, "-P", __file__, self._library, str(theirs.fileno())]),
                pass_fds=[theirs.fileno()],
                env={
                    **os.environ,
                    **ON_CPU,
                },  # without variables that libraries, such as readline, set behind Python's back
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def start(
        self, arguments: list[str], said: IO[Any], stdin: int, folder: str, environment: Mapping[str, str] = os.environ
    ) -> "Forked | None":
        """Starts a Python child.

        Args:
            arguments: of the Python interpreter: -P, then -m MODULE …, -c CODE …, or SCRIPT ….
            said: the file for the child's output.
            stdin: a file descriptor.
            folder: the child's working directory.
            environment: its environment variables.

        Returns:
            The child; None if it cannot be forked here and needs its own interpreter.
        """
        with self._lock:
            for _ in range(2):  # replaces a server that has died or has another environment
                self.begin()
                if forked := self._ask([arguments, {**environment, **ON_CPU}, folder], said, stdin):
                    return forked
                self._end()
            self._is_useless = True
        return None

    def _ask(self, asked: list[Any], said: IO[Any], stdin: int) -> "Forked | None":
        if not self._control:
            return None
        ours, theirs = socket.socketpair()
        pid = None
        with contextlib.suppress(OSError), theirs:
            socket.send_fds(self._control, [b"\0"], [theirs.fileno(), stdin, said.fileno()])
        with contextlib.suppress(OSError):  # it may already have answered
            ours.sendall(json.dumps(asked).encode())
            ours.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            pid = _number(ours)
        if pid and pid > 0:
            return Forked(pid, ours)
        ours.close()
        self._is_useless = pid == _NOT_SAFE
        return None

    def _end(self) -> None:
        if self._control and self._process:
            self._control.close()
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


class Forked:
    """A child of a fork server, with the interface of `subprocess.Popen`."""

    def __init__(self, pid: int, keeper: socket.socket) -> None:
        self.pid = pid
        self._keeper = keeper
        self._code: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code, negative for signals; raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self._code is None:
            self._keeper.settimeout(timeout)
            try:
                code = _number(self._keeper)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("", timeout or 0.0) from None
            self._code = -signal.SIGKILL if code is None else code  # the keeper died as well
            self._keeper.close()
        return self._code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


_BYTES = 8  # of a number sent to the client
_NOT_SAFE = -1


def _number(of: socket.socket) -> int | None:
    """Returns the next number sent to the client; None if the sender is gone."""
    told = of.recv(_BYTES)
    return int.from_bytes(told, "little", signed=True) if len(told) == _BYTES else None


# --- the server --------------------------------------------------------------------------------------------


def _serve(library: str, control: socket.socket) -> list[str]:
    """Forks until the client is gone. Returns only in children, with their arguments."""
    before = dict(os.environ)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy would start its threads immediately
    importlib.import_module(library)
    del os.environ["OPENBLAS_NUM_THREADS"]
    context = sys.modules.get("tensorflow.python.eager.context")
    is_safe = len(os.listdir("/proc/self/task")) == 1 and not (context and context._context)
    prctl, server = ctypes.CDLL(None).prctl, os.getpid()
    gc.collect()
    gc.freeze()  # the collector would write to shared memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for keepers
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 3)
        if not descriptors:
            os._exit(0)
        is_keeper = False
        with contextlib.suppress(OSError):  # out of memory, or the client is gone; a client notices the missing answer
            if is_safe:
                is_keeper = os.fork() == 0
            else:
                os.write(descriptors[0], _NOT_SAFE.to_bytes(_BYTES, "little", signed=True))
        if is_keeper:
            _die_with(server, prctl)
            control.close()
            return _keep(before, prctl, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(before: Mapping[str, str], prctl: Any, client: int, stdin: int, said: int) -> list[str]:
    """Forks a child and reports it to the client. Returns only in the child.

    Args:
        before: the environment that the server started with.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=client) as told:
        arguments, environment, folder = json.loads(b"".join(iter(lambda: told.recv(1 << 16), b"")))
        if not _is_same(environment, before, os.environ):
            os._exit(0)
        keeper, pid = os.getpid(), os.fork()
        if pid:
            told.sendall(pid.to_bytes(_BYTES, "little"))
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(OSError):  # the client is gone
                told.sendall(code.to_bytes(_BYTES, "little", signed=True))
            os._exit(0)
    _die_with(keeper, prctl)
    for descriptor, place in ((stdin, 0), (said, 1), (said, 2)):
        os.dup2(descriptor, place)
    os.close(stdin)
    os.close(said)
    for name in before.keys() - environment.keys():
        os.environ.pop(name, None)
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return list(arguments)


def _is_same(environment: Mapping[str, str], before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Returns whether libraries would have been imported with the same environment variables.

    Args:
        before, now: the server's environment before and after its imports, which set some.
    """
    own = ("KERASTUNE_", "PYTEST_", "TMPDIR")  # which no import reads
    names = {name for name in {*environment, *before} if not name.startswith(own)}
    return all(environment.get(name) in (before.get(name), now.get(name)) for name in names)


def _die_with(parent: int, prctl: Any) -> None:
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _run(arguments: list[str]) -> None:
    """Runs the arguments as the Python interpreter would."""
    if arguments[0] == "-P":  # already in effect here
        del arguments[0]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the client, which ends the server, and to children
    _run(_serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))))

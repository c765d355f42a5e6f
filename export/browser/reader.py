"""Runs an artifact in headless Chromium, in the page next to this file: LiteRT.js or onnxruntime-web, and numpy.

The page sends its outputs to a server on localhost; Chromium cannot reach any other address.
"""

import atexit
import contextlib
import ctypes
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache, partial
from pathlib import Path

import numpy as np

PACKAGES = ("@litertjs/core@2.5.3", "onnxruntime-web@1.30.0")
INSTALL = (
    f"apt-get install chromium && npm install --ignore-scripts --prefix ~/kerastune-browser {' '.join(PACKAGES)} && "
    "export KERASTUNE_BROWSER=~/kerastune-browser/node_modules"
)
PATIENCE = 120  # maximum seconds to load the model, or for one example
HERE = Path(__file__).resolve().parent

_SWITCHES = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Some systems map these suffixes to other types, but a page's modules need exactly these.
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


def chromium():
    """Returns the path of Chromium, or None."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


def packages():
    """Returns npm's folder with the runtimes: $KERASTUNE_BROWSER, or js/ next to the page; or None."""
    folder = Path(os.environ.get("KERASTUNE_BROWSER") or HERE / "js").absolute()
    return folder if any((folder / name).is_dir() for name in ("@litertjs/core", "onnxruntime-web")) else None


@cache
def installed():
    """Returns the version of Chromium; None if it or the runtimes are missing."""
    if not (chromium() and packages()):
        return None
    said = subprocess.run([chromium(), "--version"], capture_output=True, text=True).stdout
    return next((word for word in said.split() if word[0].isdigit()), None)


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves the page, the runtimes and the artifact's data, and exchanges examples and outputs with the page."""

    def __init__(self, artifact, data, examples, answers, *arguments):
        self.artifact, self.data, self.examples, self.answers = artifact, data, examples, answers
        super().__init__(*arguments, directory=str(HERE))

    def guess_type(self, path):
        return _TYPES.get(Path(path).suffix) or super().guess_type(path)

    def translate_path(self, path):
        inside = Path(super().translate_path(path)).relative_to(HERE)  # which removes ".."
        if inside.parts[:1] == ("js",):
            return str(packages().joinpath(*inside.parts[1:]))
        # Serves the page next to this file, never the artifact's: that code is untrusted.
        return str((self.artifact if str(inside) in self.data else HERE) / inside)

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")  # these two allow threads
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_GET(self):
        if self.path != "/drive":
            return super().do_GET()
        page = (HERE / "index.html").read_bytes().replace(b'src="page.js"', b'src="drive.js"')
        self.reply(page, "text/html")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answers.put((self.path, body))
        self.reply(self.examples.get() if self.path == "/turn" else b"", "application/octet-stream")

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def load(folder, manifest, options):
    examples, answers = queue.Queue(), queue.Queue()
    data = ("manifest.json", "golden.npz", "catalogue.npz", manifest["model"])
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Server, folder.resolve(), data, examples, answers)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    until_the_end = contextlib.ExitStack()
    atexit.register(until_the_end.close)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    browser = until_the_end.enter_context(browsing(f"http://127.0.0.1:{server.server_port}/drive"))
    # The page resizes images, as for its users; images.py does not.
    manifest["reading"] = {**manifest["reading"], "resize": "inside"}

    def answer():
        for _ in range(PATIENCE):
            try:
                path, said = answers.get(timeout=1)
            except queue.Empty:
                if browser.poll() is not None:
                    sys.exit(f"Chromium exited (exit code {browser.returncode})")
                continue
            if path != "/turn":
                sys.exit(f"the page failed: {said.decode(errors='replace')}")
            return said
        sys.exit(f"the page did not answer within {PATIENCE} s")

    def run(inputs):  # images: uint8 [B, H, W, 3], or sounds: float32 [B, samples] -> lists of rows by name
        found, run.seconds = {}, 0.0
        (batch,) = inputs.values()
        for example in batch:
            examples.put(np.array([example.ndim, *example.shape], "<u4").tobytes() + example.tobytes())
            milliseconds, outputs = unpacked(answer())
            run.seconds += milliseconds / 1e3
            for name, row in outputs.items():
                found.setdefault(name, []).append(row)
        return found

    run.peak_mb = float("nan")  # this process does not run the model
    answer()  # the model is loaded
    return run


def unpacked(said):
    """Unpacks what drive.js packed: milliseconds, and outputs by name."""
    start = 4 + int.from_bytes(said[:4], "little")
    header, values, outputs = json.loads(said[4:start]), np.frombuffer(said[start:], "<f4"), {}
    for name, shape in header["shapes"]:
        size = int(np.prod(shape))
        outputs[name], values = values[:size].reshape(shape), values[size:]
    return header["milliseconds"], outputs


@contextlib.contextmanager
def browsing(url):
    """Runs Chromium at an address, with a temporary profile."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium requires it for root
    with tempfile.TemporaryDirectory(prefix="kerastune-browser-", ignore_cleanup_errors=True) as profile:
        command = [chromium(), *_SWITCHES, *root, f"--user-data-dir={profile}", url]
        quiet = subprocess.DEVNULL
        browser = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=_end_with_this_process)
        try:
            yield browser
        finally:
            browser.terminate()
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()


def _end_with_this_process():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


if __name__ == "__main__":
    sys.path.append(str(HERE.parent))  # in an artifact, artifact.py is next to this file
    from artifact import main

    if not installed():
        sys.exit(f"this needs Chromium, and runtimes from npm: {INSTALL}")
    main(load)

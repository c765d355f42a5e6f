"""`kerastune serve` as a user starts it, on ports of its own."""

import json
import os
import re
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from processes import until

from kerastune import child


class Server:
    """A running server; `where` is what it announced."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "kerastune", "serve", str(folder), "--port", "0", "--grpc-port", "0", "--json"]
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115  it is closed in `end`
        self.process = child.start([*command, *options], self._file)
        until(lambda: self.process.poll() is not None or "}\n" in self.said())
        assert self.process.poll() is None, self.said()
        self.where: dict[str, Any]
        self.where, _ = json.JSONDecoder().raw_decode(self.said(), self.said().index("{"))
        self.url: str = self.where["rest"]
        self.port = int(re.findall(r":(\d+)/", self.url)[0])

    def post(self, document: Any, path: str = ":predict") -> tuple[int, Any]:
        """Status and answer."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(self.url + path, body, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def said(self) -> str:
        """What it has said so far, on both streams."""
        return os.pread(self._file.fileno(), 1 << 20, 0).decode()

    def end(self) -> str:
        """What it said, once it has ended as it should."""
        code, said = self.process.wait(40), self.said()
        self._file.close()
        assert code == 0 and "Traceback" not in said and said.endswith("Stopped.\n"), said
        return said

    def stop(self, number: int = signal.SIGINT) -> str:
        os.kill(self.process.pid, number)
        return self.end()

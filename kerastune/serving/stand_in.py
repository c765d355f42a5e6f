"""A development stand-in for TF Serving: one artifact behind its REST and gRPC predict APIs.

It answers and refuses as tensorflow_model_server does, but for three things that would hide a mistake: integers out of
the input's range, which that wraps around, inputs of no name in the column format, which it drops, and requests above
64 MiB. And it takes raw texts: see `kerastune.serving.raw_texts`.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kerastune.errors import KerastuneError
from kerastune.formats import FORMATS
from kerastune.verifying import artifact
from kerastune.verifying.artifact import Artifact

_MODULES = ("anyio", "grpc", "starlette", "tensorflow_serving", "uvicorn")


def serve(
    of: Artifact | str | Path,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8501,
    grpc_port: int = 8500,
    ready: Callable[[dict[str, Any]], None] = lambda where: None,
) -> None:
    """Answers TF Serving's REST and gRPC requests until SIGINT or SIGTERM; then those it has accepted, and returns.

    Call it in the main thread, where signals arrive.

    Args:
        name: of the model in addresses; default: the artifact's.
        port, grpc_port: 0 takes a free one.
        ready: told the addresses once requests are answered: `name`, `version`, `rest`, `grpc`, `max_request_bytes`,
            `signatures` (names of the inputs by signature) and `example`, a command that asks.

    Raises:
        KerastuneError: a package is not installed, the artifact is no SavedModel, the name is no part of an address,
            or the address is taken.
        VerificationError: a file of the artifact has changed.
    """
    of = of if isinstance(of, Artifact) else artifact.load(of)
    if FORMATS[of.manifest["format"]].style != "serving":
        raise KerastuneError(
            f"{of.folder} is {of.manifest['format']}, and TF Serving serves SavedModels.",
            f"kerastune export {of.manifest['run']} --target tf-serving",
        )
    name = name or str(of.manifest["name"])
    if not name or set(name) & set("/:"):
        raise KerastuneError(f"A model cannot be called {name!r} in an address.", "Name it without / and :, by --name.")
    of.check_files()
    try:
        from kerastune.serving import raw_texts, server, signatures, tensors, warmup
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _MODULES:
            raise
        raise KerastuneError(f"kerastune serve needs {error.name}.", "pip install 'kerastune[serve]'") from error
    model, closed = of.folder / of.manifest["model"], threading.Event()
    with _listening(host, port, server.address) as listening:
        found = signatures.load(model, closed)
        for request in warmup.requests(model):
            asked = found[request.model_spec.signature_name]
            asked.compute(tensors.from_protos(request.inputs, asked.inputs))
        served = server.Served(name, int(model.name), found)
        if texts := raw_texts.signature(of, found["serving_default"]):
            served = server.Served(name, int(model.name), {**found, raw_texts.NAME: texts}, raw_texts.NAME)
        url = f"http://{server.address(host, listening.getsockname()[1])}/v1/models/{quote(name)}"
        where = {
            "name": name,
            "version": served.version,
            "rest": url,
            "max_request_bytes": tensors.MAX_BYTES,
            "signatures": {key: list(one.inputs) for key, one in sorted(served.signatures.items())},
            "example": _example(url, served.signatures),
        }
        try:
            server.run(served, listening, host, grpc_port, lambda rpc: ready({**where, "grpc": rpc}))
        finally:
            closed.set()


def _listening(host: str, port: int, address: Callable[[str, int], str]) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise KerastuneError(
            f"{address(host, port)} cannot be listened on: {reason}.", "--port 0 takes a free port."
        ) from error


def _example(url: str, signatures: Mapping[str, Any]) -> str:
    """A command that asks the model about a text or a photo; of other models, whether it is there."""
    if texts := signatures.get("serve_texts"):
        row = dict.fromkeys(texts.inputs, "a text") if len(texts.inputs) > 1 else "a text"
        return f"echo '{json.dumps({'instances': [row]})}' | curl -d @- {url}:predict"
    if "serve_bytes" in signatures:
        photo = """echo '{"signature_name": "serve_bytes", "instances": [{"b64": "'$(base64 -w0 photo.jpg)'"}]}'"""
        return f"{photo} | curl -d @- {url}:predict"
    return f"curl {url}"

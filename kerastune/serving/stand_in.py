"""A development stand-in for TF Serving: one artifact behind its REST and gRPC predict APIs.

It answers and refuses as tensorflow_model_server does, with these exceptions. It refuses integers out of the input's
range, which that server wraps around, unknown inputs in the column format, which that server drops, requests above 64
MiB and vast images. And it also answers raw texts: see `kerastune.serving.raw_texts`.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
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
    """Answers TF Serving's REST and gRPC requests until SIGINT or SIGTERM, finishes those accepted, and returns.

    Call it in the main thread, where signals arrive.

    Args:
        name: the model's name in addresses; default: the artifact's.
        port, grpc_port: 0 takes a free one.
        ready: called once requests are answered, with `name`, `version`, the addresses `rest` and `grpc`,
            `max_request_bytes`, `signatures` (names of the inputs by signature) and `example`, a command that asks.

    Raises:
        KerastuneError: a package is missing, the artifact is no SavedModel, the name does not fit into an address, or
            the address is taken.
        VerificationError: a file of the artifact has changed.
    """
    of = of if isinstance(of, Artifact) else artifact.load(of)
    if FORMATS[of.manifest.format].style != "serving":
        raise KerastuneError(
            f"{of.folder} is {of.manifest.format}, and TF Serving serves SavedModels.",
            f"kerastune export {of.manifest.run} --target tf-serving",
        )
    name = name or of.manifest.name
    if not name or set(name) & set("/:"):
        raise KerastuneError(f"A model cannot be called {name!r} in an address.", "Name it without / and :, by --name.")
    of.check_files()
    try:
        from kerastune.serving import raw_texts, server, signatures, tensors, warmup
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _MODULES:
            raise
        raise KerastuneError(f"kerastune serve needs {error.name}.", "pip install 'kerastune[serve]'") from error
    model, closed = of.folder / of.manifest.model, threading.Event()
    with _listening(host, port, server.address) as listening:
        found = signatures.load(model, closed)
        for request in warmup.requests(model):
            asked = found[request.model_spec.signature_name]
            asked.compute(tensors.from_protos(request.inputs, asked.inputs))
        served = server.Served(name, int(model.name), found, closed)
        if texts := raw_texts.signature(of, found["serving_default"]):
            served = replace(served, signatures={**found, raw_texts.NAME: texts}, texts=raw_texts.NAME)
        url = f"http://{server.address(host, listening.getsockname()[1])}/v1/models/{quote(name)}"
        where = {
            "name": name,
            "version": served.version,
            "rest": url,
            "max_request_bytes": tensors.MAX_BYTES,
            "signatures": {key: list(one.inputs) for key, one in sorted(served.signatures.items())},
            "example": _example(url, served.signatures),
        }
        server.run(served, listening, host, grpc_port, lambda rpc: ready({**where, "grpc": rpc}))


def _listening(host: str, port: int, address: Callable[[str, int], str]) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise KerastuneError(
            f"{address(host, port)} cannot be listened on: {reason}.", "--port 0 takes a free port."
        ) from error


def _example(url: str, signatures: Mapping[str, Any]) -> str:
    """A command that sends a text or a photo to the model; for other models, one that asks for its status."""
    if texts := signatures.get("serve_texts"):
        row = dict.fromkeys(texts.inputs, "a text") if len(texts.inputs) > 1 else "a text"
        return f"echo '{json.dumps({'instances': [row]})}' | curl -d @- {url}:predict"
    if "serve_bytes" in signatures:
        photo = """echo '{"signature_name": "serve_bytes", "instances": [{"b64": "'$(base64 -w0 photo.jpg)'"}]}'"""
        return f"{photo} | curl -d @- {url}:predict"
    return f"curl {url}"

"""A development stand-in for TF Serving: one artifact behind its REST and gRPC predict APIs.

It answers and refuses like tensorflow_model_server, with these exceptions: it refuses integers outside the input's
range, which that server wraps around, unknown inputs in the column format, which that server drops, and requests of
more than 64 MiB, 512 examples or 134 megapixels. It also answers raw texts: see `kerastune.serving.raw_texts`.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kerastune.errors import KerastuneError, VerificationError, command, shortened
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
    allow_hosts: Sequence[str] = (),
    ready: Callable[[dict[str, Any]], None] = lambda where: None,
) -> None:
    """Answers TF Serving's REST and gRPC requests until SIGINT or SIGTERM, finishes accepted ones, and returns.

    Call it in the main thread, where signals arrive.

    Args:
        name: the model's name in addresses; default: the artifact's.
        port, grpc_port: 0 takes a free port.
        allow_hosts: host names that REST requests may be addressed to, besides IP addresses, localhost, `host` and this
            machine's name.
        ready: called once the server is ready, with `name`, `version`, the addresses `rest` and `grpc`,
            `max_request_bytes`, `signatures` (names of the inputs by signature) and `example`, a command with a
            request.

    Raises:
        KerastuneError: a package is missing, the artifact is not a SavedModel, the name is unsuitable for an address,
            or the address is taken.
        VerificationError: a file of the artifact has changed, or its model could do more than compute.
    """
    of = of if isinstance(of, Artifact) else artifact.load(of)
    if FORMATS[of.manifest.format].style != "serving":
        raise KerastuneError(
            f"{of.folder} is {of.manifest.format}, but TF Serving serves SavedModels.",
            command("kerastune", "export", of.run or "RUN", "--target", "tf-serving"),
        )
    name = name or of.manifest.name
    if not name or set(name) & set("/:"):
        raise KerastuneError(f"{name!r} cannot be a model's name in an address.", "Give --name without / and :.")
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
        served = server.Served(name, int(model.name), found, closed)
        try:
            for request in warmup.requests(model):
                asked = found[request.model_spec.signature_name]
                asked.compute(tensors.from_protos(request.inputs, asked.inputs))
            if texts := raw_texts.signature(of, found["serving_default"]):
                served = replace(served, signatures={**found, raw_texts.NAME: texts}, texts=raw_texts.NAME)
        except Exception as error:  # TensorFlow, protobuf and tokenizers raise whatever they like
            said = shortened(str(error), 300) or type(error).__name__
            raise VerificationError(
                f"{of.folder} cannot be served, because of its warm-up requests or its tokenizer: {said}.",
                f"Export it again: kerastune export {of.manifest.run} --target tf-serving",
            ) from error
        url = f"http://{server.address(host, listening.getsockname()[1])}/v1/models/{quote(name)}"
        where = {
            "name": name,
            "version": served.version,
            "rest": url,
            "max_request_bytes": tensors.MAX_BYTES,
            "signatures": {key: list(one.inputs) for key, one in sorted(served.signatures.items())},
            "example": _example(url, served.signatures),
        }
        server.run(served, listening, host, grpc_port, lambda rpc: ready({**where, "grpc": rpc}), allow_hosts)


def _listening(host: str, port: int, address: Callable[[str, int], str]) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise KerastuneError(
            f"Cannot listen on {address(host, port)}: {reason}.", "--port 0 takes a free port."
        ) from error


def _example(url: str, signatures: Mapping[str, Any]) -> str:
    """Returns a command that sends a text or a photo to the model; for other models, one that asks for its status."""
    if texts := signatures.get("serve_texts"):
        row = dict.fromkeys(texts.inputs, "a text") if len(texts.inputs) > 1 else "a text"
        return f"echo '{json.dumps({'instances': [row]})}' | curl -d @- {url}:predict"
    if "serve_bytes" in signatures:
        photo = """echo '{"signature_name": "serve_bytes", "instances": [{"b64": "'$(base64 -w0 photo.jpg)'"}]}'"""
        return f"{photo} | curl -d @- {url}:predict"
    return f"curl {url}"

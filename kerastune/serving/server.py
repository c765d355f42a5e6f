"""TF Serving's REST and gRPC predict APIs over signatures: Starlette on uvicorn, and gRPC, in one event loop."""

import asyncio
import json
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as prediction_service

from kerastune.errors import KerastuneError
from kerastune.serving import tensors
from kerastune.serving.signatures import Refused, Signature
from kerastune.serving.tensors import MAX_BYTES

GRACE_SECONDS = 30
"""Seconds for requests to finish after a signal."""

_HELD_BYTES = 4 * MAX_BYTES  # of all REST bodies together
_RPCS = 64  # gRPC calls accepted at a time
_THREADS = 4  # requests parsed or computed at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A model under its name.

    Attributes:
        closed: set when the server has stopped, so that signatures stop computing for abandoned requests.
        texts: the signature for REST requests with texts and no signature name.
    """

    name: str
    version: int
    signatures: dict[str, Signature]
    closed: threading.Event
    texts: str = "serving_default"

    def signature(self, name: str, code: Any = grpc.StatusCode.INVALID_ARGUMENT) -> Signature:
        """Finds a signature; raises Refused with `code` if there is none of that name."""
        if name not in self.signatures:
            there = ", ".join(sorted(self.signatures))
            raise Refused(f'Serving signature key "{name}" not found. There are: {there}.', code)
        return self.signatures[name]


def _check(served: Served, name: str, version: str | None = None) -> None:
    """Raises Refused if a request asks for another model or version."""
    if name != served.name or version not in (None, str(served.version)):
        what = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise Refused(f"Servable not found for request: {what}", grpc.StatusCode.NOT_FOUND)


def run(served: Served, listening: socket.socket, host: str, grpc_port: int, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, REST on a listening socket; `ready` gets gRPC's address.

    Raises:
        KerastuneError: gRPC's port is taken.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn re-raises it when it ends
    try:
        asyncio.run(_run(served, listening, host, grpc_port, ready))
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


async def _run(
    served: Served, listening: socket.socket, host: str, grpc_port: int, ready: Callable[[str], None]
) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    rpc, port = _rpc(served, address(host, grpc_port))
    await rpc.start()

    @asynccontextmanager
    async def until_stopped(app: Starlette) -> AsyncIterator[None]:
        yield
        await rpc.stop(GRACE_SECONDS)
        served.closed.set()

    hosts = ["*"] if host in ("0.0.0.0", "::", "") else ["localhost", "127.0.0.1", "[::1]", address(host)]
    app = _rest(served, hosts, until_stopped)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    ready(address(host, port))
    await uvicorn.Server(config).serve(sockets=[listening])


def address(host: str, port: int | None = None) -> str:
    """Formats HOST:PORT, or HOST alone, with the brackets of IPv6."""
    return (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")


async def _answered(function: Callable[[Served, Any], Any], served: Served, request: Any) -> Any:
    """Computes an answer in a thread. Any error counts as a refusal, because only requests can cause one."""
    try:
        return await anyio.to_thread.run_sync(function, served, request)
    except Refused:
        raise
    except Exception as error:
        _log.info("A request was refused.", exc_info=True)
        raise Refused(f"the request cannot be answered: {type(error).__name__}: {error}") from error


# --- REST --------------------------------------------------------------------------------------------------


def _rest(served: Served, hosts: list[str], lifespan: Any) -> Starlette:
    held = 0

    async def predict(request: Request) -> Response:
        nonlocal held
        _check(served, **request.path_params)
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                held += len(part)
                if len(body) > MAX_BYTES:
                    raise HTTPException(413, f"a request can have at most {MAX_BYTES} bytes")
                if held > _HELD_BYTES:
                    raise HTTPException(429, f"all requests together can have at most {_HELD_BYTES} bytes; try again")
            response: Response = await _answered(_predict_json, served, body)
            return response
        finally:
            held -= len(body)

    async def status(request: Request) -> Response:
        _check(served, **request.path_params)
        one = {"version": str(served.version), "state": "AVAILABLE"}
        return _json({"model_version_status": [{**one, "status": {"error_code": "OK", "error_message": ""}}]})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        codes = {grpc.StatusCode.NOT_FOUND: 404, grpc.StatusCode.RESOURCE_EXHAUSTED: 429}
        return _json({"error": error.reason}, codes.get(error.code, 400))

    async def elsewhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code in (404, 405):
            return _json({"error": f"Malformed request: {request.method} {request.scope['path']}"}, 400)
        return _json({"error": error.detail}, error.status_code)

    async def gone(request: Request, error: Exception) -> Response:
        _log.warning("A client went away before its request was whole.")
        return Response(status_code=400)

    model = "/v1/models/{name}"
    routes = [
        Route(f"{path}{end}", answer, methods=[method])
        for path in (model, f"{model}/versions/{{version}}")
        for end, answer, method in ((":predict", predict, "POST"), ("", status, "GET"))
    ]
    handlers: Any = {Refused: refused, HTTPException: elsewhere, ClientDisconnect: gone}
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return Starlette(routes=routes, middleware=[trusted], exception_handlers=handlers, lifespan=lifespan)


def _json(document: Any, status: int = 200) -> Response:
    # Like TF Serving, writes NaN and Infinity literally.
    return Response(json.dumps(document, indent=1), status, media_type="application/json")


def _predict_json(served: Served, body: bytearray) -> Response:
    document = json.loads(body)
    if not isinstance(document, dict):
        raise Refused("JSON Value: is not an object")
    if ("instances" in document) == ("inputs" in document):
        raise Refused("There must be either an 'instances' or an 'inputs' key.")
    in_rows = "instances" in document
    asked = document["instances" if in_rows else "inputs"]
    default = served.texts if isinstance(_first(asked), str) else "serving_default"
    signature = served.signature(document.get("signature_name") or default)
    outputs = signature.compute((tensors.from_rows if in_rows else tensors.from_columns)(asked, signature.inputs))
    if in_rows:
        return _json({"predictions": tensors.to_rows(outputs, len(asked))})
    return _json({"outputs": tensors.to_columns(outputs)})


def _first(value: Any) -> Any:
    """Returns the first value in a JSON document that is neither a list nor an object."""
    while isinstance(value, list | dict) and value:
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    return value


# --- gRPC --------------------------------------------------------------------------------------------------


class _Prediction(prediction_service.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, served: Served) -> None:
        self.served = served

    async def Predict(self, request: Any, context: Any) -> Any:
        try:
            return await _answered(_predict_proto, self.served, request)
        except Refused as error:
            await context.abort(error.code, error.reason)


def _predict_proto(served: Served, request: Any) -> Any:
    spec = request.model_spec
    version = f"{spec.version.value}" if spec.HasField("version") else spec.version_label or None
    _check(served, spec.name, version)
    name = spec.signature_name or "serving_default"
    signature = served.signature(name, grpc.StatusCode.FAILED_PRECONDITION)
    if unknown := sorted(set(request.output_filter) - set(signature.outputs)):
        there = ", ".join(signature.outputs)
        raise Refused(f"output tensor alias not found in signature: {unknown[0]}. There are: {there}.")
    outputs = signature.compute(tensors.from_protos(request.inputs, signature.inputs))
    wanted = {key: tensors.to_proto(outputs[key]) for key in request.output_filter or outputs}
    response = predict_pb2.PredictResponse(outputs=wanted)
    response.model_spec.name, response.model_spec.signature_name = served.name, name
    response.model_spec.version.value = served.version
    return response


def _rpc(served: Served, where: str) -> tuple[Any, int]:
    """Makes a gRPC server. Returns it and its port."""
    options = [
        ("grpc.max_receive_message_length", MAX_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # otherwise two servers could share a port and its requests
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_RPCS)
    prediction_service.add_PredictionServiceServicer_to_server(_Prediction(served), server)
    try:
        return server, server.add_insecure_port(where)
    except RuntimeError as error:
        raise KerastuneError(f"Cannot listen on {where} for gRPC.", "--grpc-port 0 takes a free port.") from error

"""TF Serving's REST and gRPC predict APIs over signatures: Starlette on uvicorn, and gRPC, in one event loop."""

import asyncio
import json
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import predict_pb2

from kerastune.errors import KerastuneError, shortened
from kerastune.serving import tensors
from kerastune.serving.hosts import KnownHosts
from kerastune.serving.signatures import Refused, Signature, large
from kerastune.serving.tensors import MAX_BYTES

GRACE_SECONDS = 30
"""Seconds for requests to finish after a signal."""

_SECONDS = 60  # for a request to arrive
_HELD_BYTES = 4 * MAX_BYTES  # of all requests together
_RPCS = 64  # gRPC calls accepted at a time
_THREADS = 4  # requests parsed or computed at a time, and gRPC messages read at a time
_SERVICE = "tensorflow.serving.PredictionService"

_log = logging.getLogger(__name__)


@dataclass
class Served:
    """A model under its name.

    Attributes:
        closed: set when the server has stopped, so that signatures stop computing for abandoned requests.
        texts: the signature for REST requests with texts and no signature name.
        held: bytes of the requests that are being read or answered.
    """

    name: str
    version: int
    signatures: dict[str, Signature]
    closed: threading.Event
    texts: str = "serving_default"
    held: int = 0

    def signature(self, name: str, code: Any = grpc.StatusCode.INVALID_ARGUMENT) -> Signature:
        """Finds a signature; raises Refused with `code` if there is none of that name."""
        if name not in self.signatures:
            there = ", ".join(sorted(self.signatures))
            raise Refused(f'Serving signature key "{shortened(name)}" not found. There are: {there}.', code)
        return self.signatures[name]

    def check(self, name: str, version: str | None = None) -> None:
        """Raises Refused if a request asks for another model or version."""
        if name != self.name or version not in (None, str(self.version)):
            asked = shortened(name)
            what = f"Latest({asked})" if version is None else f"Specific({asked}, {shortened(version)})"
            raise Refused(f"Servable not found for request: {what}", grpc.StatusCode.NOT_FOUND)

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that adds bytes to `held` until the block ends; it raises Refused above the limits."""
        own = 0

        def add(count: int) -> None:
            nonlocal own
            own += count
            self.held += count
            if own > MAX_BYTES:
                raise Refused(f"a request can have at most {MAX_BYTES} bytes", grpc.StatusCode.OUT_OF_RANGE)
            if self.held > _HELD_BYTES:
                reason = f"all requests together can have at most {_HELD_BYTES} bytes; try again"
                raise Refused(reason, grpc.StatusCode.RESOURCE_EXHAUSTED)

        try:
            yield add
        finally:
            self.held -= own


def run(
    served: Served,
    listening: socket.socket,
    host: str,
    grpc_port: int,
    ready: Callable[[str], None],
    names: Sequence[str] = (),
) -> None:
    """Serves until SIGINT or SIGTERM, REST on a listening socket.

    Args:
        ready: gets gRPC's address.
        names: further host names that REST requests may be addressed to, as in `hosts.KnownHosts`.

    Raises:
        KerastuneError: gRPC's port is taken.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn re-raises it when it ends
    try:
        asyncio.run(_run(served, listening, host, grpc_port, ready, [host, *names]))
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


async def _run(
    served: Served,
    listening: socket.socket,
    host: str,
    grpc_port: int,
    ready: Callable[[str], None],
    names: Sequence[str],
) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    rpc, port = _rpc(served, address(host, grpc_port))
    await rpc.start()

    @asynccontextmanager
    async def until_stopped(app: Starlette) -> AsyncIterator[None]:
        yield
        await rpc.stop(GRACE_SECONDS)
        served.closed.set()

    app = _rest(served, names, until_stopped)
    logging.getLogger("uvicorn.error").addFilter(_is_of_http)
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=GRACE_SECONDS)
    ready(address(host, port))
    await uvicorn.Server(config).serve(sockets=[listening])


def _is_of_http(record: logging.LogRecord) -> bool:
    """Returns False for uvicorn's advice to install a WebSocket library, whenever a client asks for an upgrade."""
    return "upgrade" not in record.getMessage() and "WebSocket" not in record.getMessage()


def address(host: str, port: int | None = None) -> str:
    """Formats HOST:PORT, or HOST alone, with the brackets of IPv6."""
    return (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")


async def _answered(function: Callable[[Served, Any], Any], served: Served, body: bytes | bytearray) -> Any:
    """Computes an answer in a thread. Any error counts as a refusal, because only requests can cause one."""

    def compute() -> Any:
        with large(len(body)):
            return function(served, body)

    try:
        return await anyio.to_thread.run_sync(compute)
    except Refused:
        raise
    except Exception as error:
        _log.info("A request was refused.", exc_info=True)
        raise Refused(f"the request cannot be answered: {type(error).__name__}: {error}") from error


# --- REST --------------------------------------------------------------------------------------------------

_STATUSES = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 408,
    grpc.StatusCode.OUT_OF_RANGE: 413,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


def _rest(served: Served, names: Sequence[str], lifespan: Any) -> Starlette:
    async def predict(request: Request) -> Response:
        served.check(**request.path_params)
        with served.holding() as add:
            body = bytearray()
            if int(request.headers.get("content-length", 0)) > MAX_BYTES:
                add(MAX_BYTES + 1)  # refuses it before it arrives
            async with _in_time():
                async for part in request.stream():
                    add(len(part))
                    body += part
            response: Response = await _answered(_predict_json, served, body)
            return response

    async def status(request: Request) -> Response:
        served.check(**request.path_params)
        one = {"version": str(served.version), "state": "AVAILABLE"}
        return _json({"model_version_status": [{**one, "status": {"error_code": "OK", "error_message": ""}}]})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return _json({"error": error.reason}, _STATUSES.get(error.code, 400))

    async def elsewhere(request: Request, error: Exception) -> Response:
        asked = f"{shortened(request.method)} {shortened(request.scope['path'])}"
        return _json({"error": f"Malformed request: {asked}"}, 400)

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
    known = Middleware(KnownHosts, names=names)
    app = Starlette(routes=routes, middleware=[known], exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_SECONDS):
            yield
    except TimeoutError:
        reason = f"the request did not arrive within {_SECONDS} seconds"
        raise Refused(reason, grpc.StatusCode.DEADLINE_EXCEEDED) from None


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
    name = document.get("signature_name", default)
    if not isinstance(name, str):
        raise Refused(f"'signature_name' must be a string, not {type(name).__name__}")
    signature = served.signature(name or default)
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


def _rpc(served: Served, where: str) -> tuple[Any, int]:
    """Makes a gRPC server. Returns it and its port."""
    reading = asyncio.Semaphore(_THREADS)

    async def predict(messages: AsyncIterator[bytes], context: Any) -> Any:
        try:
            with served.holding() as add:
                async with reading, _in_time():
                    message = await anext(messages, b"")
                    add(len(message))
                return await _answered(_predict_proto, served, message)
        except Refused as error:
            await context.abort(error.code, error.reason)

    # Unary calls are streams of one message on the wire. As a stream, it is read when there is memory for it, and as
    # bytes it is parsed where a mistake is the client's and not an internal error.
    method = grpc.stream_unary_rpc_method_handler(predict)
    options = [
        ("grpc.max_receive_message_length", MAX_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # otherwise two servers could share a port and its requests
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_RPCS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {"Predict": method})])
    try:
        return server, server.add_insecure_port(where)
    except RuntimeError as error:
        raise KerastuneError(f"Cannot listen on {where} for gRPC.", "--grpc-port 0 takes a free port.") from error


def _predict_proto(served: Served, message: bytes) -> Any:
    request = predict_pb2.PredictRequest.FromString(message)
    spec = request.model_spec
    version = f"{spec.version.value}" if spec.HasField("version") else spec.version_label or None
    served.check(spec.name, version)
    name = spec.signature_name or "serving_default"
    signature = served.signature(name, grpc.StatusCode.FAILED_PRECONDITION)
    if unknown := sorted(set(request.output_filter) - set(signature.outputs)):
        there = ", ".join(signature.outputs)
        raise Refused(f"output tensor alias not found in signature: {shortened(unknown[0])}. There are: {there}.")
    outputs = signature.compute(tensors.from_protos(request.inputs, signature.inputs))
    wanted = {key: tensors.to_proto(outputs[key]) for key in request.output_filter or outputs}
    response = predict_pb2.PredictResponse(outputs=wanted)
    response.model_spec.name, response.model_spec.signature_name = served.name, name
    response.model_spec.version.value = served.version
    return response.SerializeToString()

"""A development stand-in for TF Serving: one SavedModel behind TF Serving's REST and gRPC predict APIs.

Answers and errors are those of tensorflow_model_server (g3doc/api_rest.md, util/json_tensor.cc and
servables/tensorflow/predict_util.cc in github.com/tensorflow/serving), but for three that would hide a mistake:
integers out of the input's range, which it wraps around, inputs of no name in the columnar format, which it drops, and
requests above `MAX_REQUEST_BYTES` are refused.

A model of tokens answers to raw texts, too: the signature `RAW` tokenises as the artifact's reader does (TF Serving
answers from the artifact's second SavedModel). A REST request that names no signature and holds texts means it.
"""

import base64
import binascii
import json
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import uvicorn
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from kerastune.errors import KerastuneError
from kerastune.serving import warmup

RAW = "serve_texts"

MAX_REQUEST_BYTES = 64 * 2**20
"""Of a REST body or a gRPC message. gRPC's own default is 4 MiB; TF Serving takes up to 2 GiB."""

GRACE_SECONDS = 30
"""How long requests that were accepted before a signal may take to be answered."""

BATCH_ROWS = 32
BATCH_SECONDS = 0.002
"""How long a request waits for others to share an execution with."""

Code: TypeAlias = Any  # a grpc.StatusCode; grpc has no types
Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Array]

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
}
# Clients in other languages read these fields, which TF Serving fills, and not tensor_content.
_PROTO_FIELDS = {tf.float32: "float_val", tf.float64: "double_val", tf.int32: "int_val", tf.int64: "int64_val"}
_PROTO_FIELDS |= {tf.bool: "bool_val", tf.string: "string_val", tf.uint8: "int_val", tf.int8: "int_val"}


class Refused(Exception):
    """A request that is not answered, as TF Serving says it."""

    def __init__(self, reason: str, code: Code = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


@dataclass(frozen=True)
class Raw:
    """How raw texts are answered.

    Attributes:
        names: of the inputs that hold them: one, or two of a model of pairs.
        respond: given B lists of texts, and what runs `serving_default` on tensors, the outputs by name.
        answers: whether these are texts themselves, string [B] "answers", instead of the model's own.
    """

    names: tuple[str, ...] = ()
    respond: Callable[[list[list[str]], Callable[[Tensors], Tensors]], Tensors] = field(default=lambda texts, run: {})
    answers: bool = False


def run(
    model: Path,
    name: str,
    host: str,
    port: int,
    grpc_port: int,
    ready: Callable[[dict[str, Any]], None],
    raw: Raw,
) -> dict[str, int]:
    """Serves until SIGINT or SIGTERM: see `kerastune.serving.serving.serve`."""
    listening = _listen(host, port)
    with listening, _signalled() as stop:
        served = Servable(model, name, raw)
        rpc, rpc_address = _grpc_server(served, host, grpc_port)
        config = uvicorn.Config(
            _rest(served), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE_SECONDS
        )
        http = uvicorn.Server(config)
        rest = threading.Thread(target=http.run, kwargs={"sockets": [listening]})
        rest.start()
        rpc.start()
        where = {"name": name, "version": served.version, "grpc": rpc_address, "max_request_bytes": MAX_REQUEST_BYTES}
        where["texts"] = list(raw.names)
        try:
            while not http.started and rest.is_alive():
                time.sleep(0.01)
            ready({**where, "rest": f"http://{_address(host, listening.getsockname()[1])}/v1/models/{quote(name)}"})
            while rest.is_alive() and not stop.wait(1):
                pass
            if not stop.is_set():
                raise RuntimeError("The REST server ended by itself.")
        finally:
            http.should_exit = True
            answered = rpc.stop(GRACE_SECONDS)
            rest.join()
            answered.wait()
    return asdict(served.counts)


@contextmanager
def _signalled() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one of them ends the process as usual."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise KerastuneError(
            f"{_address(host, port)} cannot be listened on: {reason}.", "--port 0 takes a free port."
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- the model ---------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What was asked and done so far."""

    requests: int = 0
    failed: int = 0
    executions: int = 0
    in_flight: int = 0


@dataclass(frozen=True)
class _Job:
    """A request that waits for its execution."""

    signature: str
    inputs: Tensors
    rows: int | None  # None: it cannot share an execution
    answer: "Future[Tensors]" = field(default_factory=Future)

    @property
    def alike(self) -> Any:
        """Equal for requests that can share an execution."""
        items = [(name, array.dtype.str, array.shape[1:]) for name, array in sorted(self.inputs.items())]
        return (self.signature, *items) if self.rows is not None else id(self)


class Servable:
    """A SavedModel, and the thread that runs it on batches of what was asked."""

    def __init__(self, folder: Path, name: str, raw: Raw) -> None:
        self.name, self.version, self._raw = name, int(folder.name), raw
        self.counts, self._lock = Counts(), threading.Lock()
        graph = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
        self.signatures = dict(graph.signature_def)
        if raw.names:
            self.signatures[RAW] = _of_texts(raw, self.signatures["serving_default"])
        self._loaded = tf.saved_model.load(str(folder))
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        for request in warmup.requests(folder):
            self._execute(*_checked(self.signatures, request))
        self.counts = Counts()
        threading.Thread(target=self._work, daemon=True).start()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around a request, from its first byte to its answer."""
        with self._lock:
            self.counts.requests += 1
            self.counts.in_flight += 1
        try:
            yield
        except BaseException:
            with self._lock:
                self.counts.failed += 1
            raise
        finally:
            with self._lock:
                self.counts.in_flight -= 1

    def predict(self, signature: str, inputs: Tensors) -> Tensors:
        """Outputs by name, computed together with those of other requests.

        Raises:
            Refused: TensorFlow cannot compute them.
        """
        info = self.signatures[signature]
        free = all(
            not t.tensor_shape.unknown_rank and t.tensor_shape.dim and t.tensor_shape.dim[0].size == -1
            for t in chain(info.inputs.values(), info.outputs.values())
        )
        sizes = {len(array) for array in inputs.values()} if free else set()
        job = _Job(signature, inputs, sizes.pop() if len(sizes) == 1 else None)
        self._jobs.put(job)
        return job.answer.result()

    def _work(self) -> None:
        while True:
            alike: dict[Any, list[_Job]] = {}
            for job in self._gathered():
                alike.setdefault(job.alike, []).append(job)
            for jobs in alike.values():
                self._answer(jobs)

    def _gathered(self) -> list[_Job]:
        """The next request, and those that come within BATCH_SECONDS, as long as they are no large batch."""
        jobs = [self._jobs.get()]
        until = time.monotonic() + BATCH_SECONDS
        while sum(job.rows or 1 for job in jobs) < BATCH_ROWS and _bytes_of(jobs) < MAX_REQUEST_BYTES:
            try:
                jobs.append(self._jobs.get(timeout=max(until - time.monotonic(), 0)))
            except queue.Empty:
                break
        return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        if len(jobs) == 1:
            try:
                jobs[0].answer.set_result(self._execute(jobs[0].signature, jobs[0].inputs))
            except Exception as error:
                jobs[0].answer.set_exception(error)
            return
        try:
            together = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
            outputs = self._execute(jobs[0].signature, together)
        except Exception:
            for job in jobs:  # one bad image must not fail the others
                self._answer([job])
            return
        ends = list(accumulate(job.rows or 0 for job in jobs))
        for job, end in zip(jobs, ends, strict=True):
            job.answer.set_result({name: output[end - (job.rows or 0) : end] for name, output in outputs.items()})

    def _execute(self, signature: str, inputs: Tensors) -> Tensors:
        if signature == RAW:
            rows = _rows(self._raw.names, inputs)
            return self._raw.respond(rows, lambda tensors: self._execute("serving_default", tensors))
        dtypes = {name: tf.as_dtype(info.dtype) for name, info in self.signatures[signature].inputs.items()}
        with self._lock:
            self.counts.executions += 1
        try:
            found = self._loaded.signatures[signature](**{n: tf.constant(a, dtypes[n]) for n, a in inputs.items()})
        except tf.errors.OpError as error:
            code = next(c for c in grpc.StatusCode if c.value[0] == error.error_code)
            raise Refused(_reason(error.message), code) from error
        return {name: tensor.numpy() for name, tensor in found.items()}


def _of_texts(raw: Raw, of_tokens: Any) -> Any:
    """The signature of raw texts, string [B] by name, beside that of tokens."""
    made = type(of_tokens)()
    made.CopyFrom(of_tokens)
    made.ClearField("inputs")
    strings = [made.inputs[name] for name in raw.names]
    if raw.answers:
        made.ClearField("outputs")
        strings.append(made.outputs["answers"])
    for one, name in zip(strings, (*raw.names, "answers"), strict=False):
        one.name, one.dtype = f"{RAW}_{name}:0", tf.string.as_datatype_enum
        one.tensor_shape.dim.add(size=-1)
    return made


def _rows(names: Sequence[str], inputs: Tensors) -> list[list[str]]:
    try:
        columns = [[text.decode() for text in inputs[name]] for name in names]
    except UnicodeDecodeError as error:
        raise Refused(f"a text is not UTF-8: {error}") from error
    if len(set(map(len, columns))) > 1:
        raise Refused(f"inputs {' and '.join(names)} differ in how many texts they have")
    return [list(row) for row in zip(*columns, strict=True)]


def _bytes_of(jobs: list[_Job]) -> int:
    return sum(array.nbytes for job in jobs for array in job.inputs.values())


def _reason(message: str) -> str:
    """What TensorFlow says, without where in the graph: the line before the node's name."""
    lines = [line.strip() for line in message.partition("[[")[0].splitlines() if line.strip()]
    return lines[-1] if lines else message


def _signature(signatures: dict[str, Any], name: str, code: Code = grpc.StatusCode.FAILED_PRECONDITION) -> str:
    name = name or "serving_default"
    if name not in signatures or name.startswith("__"):
        there = ", ".join(sorted(n for n in signatures if not n.startswith("__")))
        raise Refused(f'Serving signature key "{name}" not found. There are: {there}.', code)
    return name


def _check_shape(name: str, found: Sequence[int], info: Any) -> None:
    shape = tf.TensorShape(info.tensor_shape)
    if not shape.is_compatible_with(found):
        raise Refused(f"input {name} has shape {list(found)}, and {list(shape)} is expected")


# --- gRPC --------------------------------------------------------------------------------------------------


def _checked(signatures: dict[str, Any], request: Any) -> tuple[str, Tensors]:
    """The signature of a PredictRequest, and its inputs."""
    signature = _signature(signatures, request.model_spec.signature_name)
    infos = signatures[signature].inputs
    if set(request.inputs) != set(infos):
        extra, missing = sorted(set(request.inputs) - set(infos)), sorted(set(infos) - set(request.inputs))
        raise Refused(
            f"inputs do not match the signature. Sent extra: {{{','.join(extra)}}}. "
            f"Missing but required: {{{','.join(missing)}}}."
        )
    return signature, {name: _from_proto(name, request.inputs[name], info) for name, info in infos.items()}


def _from_proto(name: str, proto: Any, info: Any) -> Array:
    if proto.dtype != info.dtype:
        got, wanted = (tf.dtypes.DType(number).name if number else "nothing" for number in (proto.dtype, info.dtype))
        raise Refused(f"input {name} is {got}, and {wanted} is expected")
    dimensions = [d.size for d in proto.tensor_shape.dim]
    # A tensor may repeat one value as often as its shape says.
    size = float(np.prod(dimensions, dtype=np.float64)) * tf.as_dtype(info.dtype).size
    if proto.tensor_shape.unknown_rank or min(dimensions, default=0) < 0 or size > MAX_REQUEST_BYTES:
        raise Refused(f"input {name} has a shape of {size:.3g} bytes: {dimensions}")
    try:
        array: Array = tf.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(f"input {name} is not what its shape {dimensions} says: {error}") from error
    _check_shape(name, array.shape, info)
    return array


def _to_proto(array: Array, info: Any) -> Any:
    dtype = tf.as_dtype(info.dtype)
    if dtype not in _PROTO_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tf.make_tensor_proto([], dtype, shape=[0])
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, _PROTO_FIELDS[dtype]).extend(array.ravel().tolist())
    return proto


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, served: Servable) -> None:
        self.served = served

    def Predict(self, request: Any, context: Any) -> Any:
        with _answering(context), self.served.counted():
            self._check(request)
            signature, inputs = _checked(self.served.signatures, request)
            infos, wanted = self.served.signatures[signature].outputs, list(request.output_filter)
            if unknown := sorted(set(wanted) - set(infos)):
                raise Refused(f"output tensor alias not found in signature: {unknown[0]}. There are: {sorted(infos)}.")
            outputs = self.served.predict(signature, inputs)
            response = predict_pb2.PredictResponse()
            _name(response.model_spec, self.served, signature)
            for name in wanted or outputs:
                response.outputs[name].CopyFrom(_to_proto(outputs[name], infos[name]))
            return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        with _answering(context):
            self._check(request)
            if list(request.metadata_field) != ["signature_def"]:
                asked = ", ".join(request.metadata_field) or "nothing"
                raise Refused(f"metadata_field must be signature_def, and it is {asked}")
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            _name(response.model_spec, self.served)
            response.metadata["signature_def"].Pack(_signature_map(self.served))
            return response

    def _check(self, request: Any) -> None:
        name, version = _spec(request)
        if request.model_spec.HasField("version_label"):
            raise Refused(f"Unrecognized servable version label: {request.model_spec.version_label}")
        _check_name(self.served, name, version)


class _Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, served: Servable) -> None:
        self.served = served

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        with _answering(context):
            return _status(self.served, *_spec(request))


def _spec(request: Any) -> tuple[str, int | None]:
    """The model that a gRPC request names, and its version."""
    if not request.HasField("model_spec"):
        raise Refused("Missing ModelSpec")
    spec = request.model_spec
    return spec.name, spec.version.value if spec.HasField("version") else None


@contextmanager
def _answering(context: Any) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        context.abort(error.code, error.reason)


def _grpc_server(served: Servable, host: str, port: int) -> tuple[Any, str]:
    options = [
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # or two servers would share a port, and the requests
    ]
    server = grpc.server(ThreadPoolExecutor(64), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(served), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(served), server)
    try:
        port = server.add_insecure_port(_address(host, port))
    except RuntimeError as error:
        raise KerastuneError(
            f"{_address(host, port)} cannot be listened on for gRPC.", "--grpc-port 0 takes a free port."
        ) from error
    return server, _address(host, port)


def _check_name(served: Servable, name: str, version: int | None) -> None:
    if name != served.name or version not in (None, served.version):
        what = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise Refused(f"Servable not found for request: {what}", grpc.StatusCode.NOT_FOUND)


def _name(spec: Any, served: Servable, signature: str = "") -> None:
    spec.name, spec.signature_name = served.name, signature
    spec.version.value = served.version


def _signature_map(served: Servable) -> Any:
    return get_model_metadata_pb2.SignatureDefMap(signature_def=served.signatures)


def _status(served: Servable, name: str, version: int | None) -> Any:
    if name != served.name:
        raise Refused(f"Could not find any versions of model {name}", grpc.StatusCode.NOT_FOUND)
    if version not in (None, served.version):
        raise Refused(f"Could not find version {version} of model {name}", grpc.StatusCode.NOT_FOUND)
    response = get_model_status_pb2.GetModelStatusResponse()
    one = response.model_version_status.add(version=served.version)
    one.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    one.status.SetInParent()
    return response


# --- REST --------------------------------------------------------------------------------------------------


def _rest(served: Servable) -> Starlette:
    async def predict(request: Request) -> Response:
        with served.counted():
            _check_name(served, *_asked(request))
            return await run_in_threadpool(_predict_json, served, await _body(request))

    async def status(request: Request) -> Response:
        return _json(_plain(_status(served, *_asked(request))))

    async def metadata(request: Request) -> Response:
        _check_name(served, *_asked(request))
        spec = get_model_metadata_pb2.GetModelMetadataResponse().model_spec
        _name(spec, served)
        return _json({"model_spec": _plain(spec), "metadata": {"signature_def": _plain(_signature_map(served))}})

    async def health(request: Request) -> Response:
        return _json({"status": "ok", **asdict(served.counts)})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return _json({"error": error.reason}, _HTTP.get(error.code, 500))

    async def elsewhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if request.url.path.startswith("/v1/") and error.status_code in (404, 405):
            return _json({"error": f"Malformed request: {request.method} {request.url.path}"}, 400)
        return _json({"error": error.detail}, error.status_code)

    routes = [Route("/healthz", health)]
    for model in ("/v1/models/{name}", "/v1/models/{name}/versions/{version:int}"):
        routes += [
            Route(f"{model}:predict", predict, methods=["POST"]),
            Route(f"{model}/metadata", metadata),
            Route(model, status),
        ]
    return Starlette(routes=routes, exception_handlers={Refused: refused, HTTPException: elsewhere})


def _asked(request: Request) -> tuple[str, int | None]:
    return request.path_params["name"], request.path_params.get("version")


async def _body(request: Request) -> bytes:
    too_large = HTTPException(413, f"a request may have {MAX_REQUEST_BYTES} bytes here")
    if int(request.headers.get("content-length", 0)) > MAX_REQUEST_BYTES:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            raise too_large
    return bytes(body)


def _json(document: Any, status: int = 200) -> Response:
    # NaN and Infinity are written as such, as by TF Serving.
    return Response(json.dumps(document, indent=1), status, media_type="application/json")


def _plain(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _predict_json(served: Servable, body: bytes) -> Response:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise Refused("JSON Value: is not an object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise Refused("'signature_name' key must be a string value.")
    if ("instances" in document) == ("inputs" in document):
        raise Refused("There must be either an 'instances' or an 'inputs' key.")
    in_rows = "instances" in document
    asked = document["instances" if in_rows else "inputs"]
    if not name and RAW in served.signatures and _holds_texts(asked, served.signatures[RAW].inputs):
        name = RAW
    signature = _signature(served.signatures, name, grpc.StatusCode.INVALID_ARGUMENT)
    # A protobuf's map has another order in each process, and what is refused is said in one.
    infos = dict(sorted(served.signatures[signature].inputs.items()))
    columns = _columns(asked, infos) if in_rows else _named(asked, infos)
    inputs = {key: _from_json(key, columns[key], info) for key, info in infos.items()}
    outputs = {key: _to_json(key, array) for key, array in served.predict(signature, inputs).items()}
    if len(outputs) == 1:
        (answer,) = outputs.values()
    elif in_rows:
        answer = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    else:
        answer = outputs
    return _json({"predictions" if in_rows else "outputs": answer})


def _holds_texts(asked: Any, infos: Any) -> bool:
    """Whether what is asked, in either format, is meant for the signature of raw texts."""
    first = asked[0] if isinstance(asked, list) and asked else asked
    return bool(set(first) & set(infos)) if _is_object(first) else isinstance(first, str | dict)


def _columns(rows: Any, infos: Any) -> dict[str, Any]:
    """The row format: a list of values of the only input, or of objects with one value an input."""
    if not isinstance(rows, list) or not rows:
        raise Refused("'instances' must be a list with at least one value")
    if not any(_is_object(row) for row in rows):
        return _named(rows, infos)
    for i, row in enumerate(rows):
        if not _is_object(row) or set(row) != set(infos):
            raise Refused(f"Failed to process element: {i} of 'instances' list. Keys must be: {', '.join(infos)}")
    return {name: [row[name] for row in rows] for name in infos}


def _named(value: Any, infos: Any) -> dict[str, Any]:
    """The columnar format: an object with a tensor for each input, or the only input's tensor."""
    if not _is_object(value):
        if len(infos) > 1:
            raise Refused(f"An object is expected, with the inputs {', '.join(infos)}")
        return dict.fromkeys(infos, value)
    if missing := [name for name in infos if name not in value]:
        raise Refused(f"Missing named input: {missing[0]} in 'inputs' object.")
    if unknown := sorted(set(value) - set(infos)):
        raise Refused(f"There is no input {unknown[0]}; there are: {', '.join(infos)}")
    return value  # type: ignore[no-any-return]


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and set(value) != {"b64"}


def _from_json(name: str, value: Any, info: Any) -> Array:
    """Nested lists -> a tensor of the input's dtype. Level by level, for images have too many rows to visit each."""
    shape: list[int] = []
    leaves = [value]
    while (kinds := set(map(type, leaves))) == {list}:
        sizes = set(map(len, leaves))
        if len(sizes) > 1:
            raise Refused(f"input {name} is ragged: lists of {min(sizes)} to {max(sizes)} values at level {len(shape)}")
        shape.append(sizes.pop())
        leaves = list(chain.from_iterable(leaves))
    if list in kinds:
        raise Refused(f"input {name} is ragged: lists beside values at level {len(shape)}")
    _check_shape(name, shape, info)
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return np.array([_decoded(name, leaf) for leaf in leaves], object).reshape(shape)
    allowed = {bool} if dtype.is_bool else {int} if dtype.is_integer else {int, float}
    if foreign := kinds - allowed:
        got = ", ".join(sorted(kind.__name__ for kind in foreign))
        raise Refused(f"input {name} holds values of type {got}, and {dtype.name} is expected")
    try:
        return np.array(leaves, dtype.as_numpy_dtype).reshape(shape)
    except OverflowError as error:
        raise Refused(f"input {name} is {dtype.name}: {error}") from error


def _decoded(name: str, leaf: Any) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if not isinstance(leaf, dict) or set(leaf) != {"b64"} or not isinstance(leaf["b64"], str):
        raise Refused(f'input {name} holds {type(leaf).__name__}, and a string or {{"b64": …}} is expected')
    text = "".join(leaf["b64"].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # padding is optional to TF Serving
    except (binascii.Error, ValueError) as error:
        raise Refused(f"Unable to base64 decode input {name}: {error}") from error


def _to_json(name: str, array: Array) -> Any:
    if array.dtype == object:  # strings; TF Serving tells binary ones by their name
        flat = [{"b64": base64.b64encode(v).decode()} if name.endswith("_bytes") else v.decode() for v in array.flat]
        return np.array(flat, object).reshape(array.shape).tolist()
    if array.dtype == np.float32:
        return array.astype(str).astype(np.float64).tolist()  # 0.2, and not the 0.20000000298 that is the same float32
    return array.tolist()

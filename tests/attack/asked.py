"""Requests to a server of models, honest and hostile, drawn at random."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from served import Server

from attack import pictures
from attack.asking import PREDICT, Reply, head, over_grpc, over_http, posting
from kerastune.targets import images as reader

Random = np.random.Generator
Send = Callable[[Server], Reply]


@dataclass(frozen=True)
class Request:
    """One request. `example` is what the answer is about, where it is known; `gone` if nobody waits for the answer."""

    what: str
    send: Send
    example: Any = None
    must: str | None = "refuse"
    gone: bool = False


def _post(path: str, document: Any) -> Send:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return lambda server: over_http(server.port, [posting(path, body)])


def _b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def _message(name: str, inputs: dict[str, Any], signature: str = "serving_default", **spec: Any) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = name, signature
    if "version" in spec:
        message.model_spec.version.value = spec["version"]
    for key, value in inputs.items():
        message.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return message


def _rpc(message: Any, **how: Any) -> Send:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return lambda server: over_grpc(server.where["grpc"], data, **how)


def picture(random: Random, path: str) -> Request:
    """An image that is right, in one of the ways to send it."""
    if random.random() < 0.5:
        kind = str(random.choice(list(pictures.KINDS)))
        data, must = pictures.KINDS[kind](random), "work" if kind in pictures.TAKEN else None
        example = _decoded(data)
        ways = {"rows": {"instances": [_b64(data)]}, "columns": {"inputs": {"image_bytes": [_b64(data)]}}}
        way = str(random.choice([*ways, "grpc"]))
        if way == "grpc":
            return Request(
                f"{kind}, {way}", _rpc(_message("tf-serving", {"image_bytes": [data]}, "serve_bytes")), example, must
            )
        document = {"signature_name": "serve_bytes", **ways[way]}
        return Request(f"{kind}, {way}", _post(path, document), example, must)
    example = pictures.pixels(random)
    rows = example.tolist()
    ways = {"rows": {"instances": [rows]}, "named": {"instances": [{"images": rows}]}, "columns": {"inputs": [rows]}}
    way = str(random.choice([*ways, "grpc"]))
    send = _rpc(_message("tf-serving", {"images": example[None]})) if way == "grpc" else _post(path, ways[way])
    return Request(f"pixels, {way}", send, example, "work")


def damaged_picture(random: Random, path: str) -> Request:
    kind, data = pictures.damaged(random)
    document = {"signature_name": "serve_bytes", "instances": [_b64(data)]}
    return Request(kind, _post(path, document), _decoded(data), None)


def _decoded(data: bytes) -> Any:
    try:
        return reader.decode(data)[0]
    except ValueError:
        return None


def text(random: Random, path: str) -> Request:
    """A text that is right, in one of the ways to send it."""
    letters = ["cat", "bus", "the", "é", "😀", "\0", "\u200b", "ａ", "中", " ", "\n", "#", "[CLS]", "x" * 300]
    example = " ".join([*random.choice(letters, int(random.integers(0, 30))), "."])
    ways = {
        "rows": {"instances": [example]},
        "bytes": {"instances": [_b64(example.encode())], "signature_name": "serve_texts"},
        "columns": {"inputs": {"texts": [example]}},
    }
    way = str(random.choice([*ways, "grpc"]))
    send = (
        _rpc(_message("tf-serving", {"texts": [example]}, "serve_texts")) if way == "grpc" else _post(path, ways[way])
    )
    return Request(f"text, {way}", send, [example], "work")


WRONG: list[Any] = [
    *(b"", b"{", b"[", b"null", b"1e999", b"\xff\xfe", b"[" * 10**5, b'{"instances":' * 2000, b"NaN", b"{}x"),
    *({}, [], {"instances": []}, {"inputs": {}}, {"instances": {}}, {"instances": None}, {"inputs": None}),
    *({"instances": [[]]}, {"instances": [{}]}, {"instances": [1], "inputs": [1]}, {"signature_name": 1}),
    *({"instances": [float("nan")]}, {"instances": [[[[float("inf")] * 3]]]}, {"inputs": [[[[-1, 0, 0]]]]}),
    *({"instances": [[[[1, 2, 256]]]]}, {"instances": [[[[1.5, 2, 3]]]]}, {"instances": [[[[True, 2, 3]]]]}),
    *({"instances": [[[["1", "2", "3"]]]]}, {"instances": [[[[1, 2]]]]}, {"instances": [[[1, 2, 3]]]}),
    *({"instances": [[[[1, 2, 3], [1, 2]]]]}, {"instances": [[[[None, 2, 3]]]]}, {"instances": [[[[10**400] * 3]]]}),
    *({"inputs": {"pixels": [1]}}, {"inputs": {"x" * 10**5: 1}}, {"inputs": {"\0": 1}}, {"inputs": {"é😀": [1]}}),
    {"inputs": {str(i): i for i in range(5000)}},
    *({"signature_name": name, "instances": ["a"]} for name in ("x", "x" * 10**5, ["serve_bytes"], {}, 7, "\ud83d")),
    *({"signature_name": name, "inputs": {"texts": "a", "image_bytes": "b"}} for name in ("serve_texts", True)),
    *({"signature_name": "serve_bytes", "instances": [one]} for one in ("", "no image", {"b64": "%%"}, {"b64": 1})),
    *({"signature_name": "serve_bytes", "instances": [one]} for one in ({"b64": ""}, {"b64": "é"}, [_b64(b"x")], 1)),
    *(
        {"signature_name": "serve_bytes", "instances": [_b64(b)]}
        for b in (b"\xff\xd8\xff", b"GIF89a", b"RIFF", bytes(9))
    ),
    *({"signature_name": "serve_texts", "instances": [one]} for one in (1, None, ["a"], _b64(b"\xff"), {"texts": 1})),
    *({"signature_name": "serve_texts", "inputs": one} for one in ({"texts": ["a"], "pairs": ["b"]}, {"pairs": ["b"]})),
    *({"instances": [[[[0] * 3]]] * n} for n in (5000, 100_000)),  # a cheap batch, which is not cheap to compute
    {"inputs": {"token_ids": [[1] * 5000], "padding_mask": [[1] * 5000], "segment_ids": [[0] * 5000]}},
]
"""Bodies that no model here answers."""

BOMBS = [(50_000, 50_000), (2**31 - 1, 1), (1, 2**31 - 1), (12_000, 12_000), (0, 5), (20_000, 4_000)]
PATHS = [
    *("/", "//", "/v1", "/v1/models", "/v1/models/", "/v1/models/x", "/v1/models/x:predict", "/%00", "/%ff", "/é"),
    *("/v1/models/tf-serving:classify", "/v1/models/tf-serving:", "/v1/models/tf-serving/metadata", "*", "x"),
    *("/v1/models/tf-serving/versions/2:predict", "/v1/models/tf-serving/versions/x", "/v1/models/tf-serving/"),
    *("/v1/models/tf-serving:predict/", "/v1/models/../../etc/passwd", "/v1/models/tf%2Dserving%3Apredict/x"),
    *(f"/v1/models/{'x' * 30_000}:predict", "/v1/models/tf-serving/versions/-1:predict", "/?" + "a=b&" * 5000),
    *("/v1/models/tf-serving/versions/" + "1" * 5000, "http://evil.example/v1/models/tf-serving"),
]
METHODS = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "GET", "HEAD"]
HOSTS = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "a b", "evil:8501", "[::z]", "é"]


def wrong_body(random: Random, path: str) -> Request:
    number = int(random.integers(len(WRONG)))
    return Request(f"body {number}: {str(WRONG[number])[:40]}", _post(path, WRONG[number]))


def mutated_body(random: Random, path: str) -> Request:
    """A right body with bytes changed."""
    body = bytearray(json.dumps({"instances": [pictures.pixels(random)[:3, :3].tolist()]}).encode())
    for _ in range(int(random.integers(1, 4))):
        body[int(random.integers(len(body)))] = int(random.choice(list(b'0123456789[]{},:"\\ -.eE\x00\xff')))
    return Request(f"mutated {bytes(body)[:40]!r}", _post(path, bytes(body)), must=None)


def bomb(random: Random, path: str) -> Request:
    width, height = BOMBS[int(random.integers(len(BOMBS)))]
    document = {"signature_name": "serve_bytes", "instances": [_b64(pictures.bomb(width, height))]}
    return Request(f"a bomb of {width} x {height}", _post(path, document))


def strange_line(random: Random, path: str) -> Request:
    """Another path, method or Host."""
    which = int(random.integers(3))
    if which == 0:
        at, method = str(random.choice(PATHS)), str(random.choice(["GET", "POST"]))
        lines = ("Content-Length: 2", "Connection: close")
        return Request(f"{method} {at[:60]}", lambda server: over_http(server.port, [head(method, at, *lines) + b"{}"]))
    if which == 1:
        method = str(random.choice(METHODS))
        return Request(
            f"method {method}", lambda server: over_http(server.port, [head(method, path, "Connection: close")])
        )
    host, body = str(random.choice(HOSTS)), b'{"instances": [[[[1, 2, 3]]]]}'
    return Request(f"host {host!r}", lambda server: over_http(server.port, [posting(path, body, host=host)]))


def broken_http(random: Random, path: str) -> Request:
    """Bytes that are no HTTP, or hardly."""
    body = b'{"instances": [[[[1, 2, 3]]]]}'
    chunked = "Transfer-Encoding: chunked"
    sent = {
        "noise": random.bytes(int(random.integers(1, 3000))),
        "TLS": bytes.fromhex("16030100c8010000c40303") + random.bytes(100) + b"\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "no host": b"GET /v1/models/tf-serving HTTP/1.1\r\n\r\n",
        "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        "HTTP/9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "a long header": head("GET", path, "X: " + "x" * 300_000),
        "many headers": head("GET", path, *(f"X-{i}: {i}" for i in range(5000))),
        "a folded header": head("POST", path, "X: a\r\n b", "\0: 1"),
        "length -1": head("POST", path, "Content-Length: -1") + body,
        "length x": head("POST", path, "Content-Length: 0x1e") + body,
        "length of 400 digits": head("POST", path, f"Content-Length: 1{'0' * 400}") + body,
        "two lengths": head("POST", path, "Content-Length: 30", "Content-Length: 31") + body,
        "a length that is too large": head("POST", path, f"Content-Length: {10**10}", "Connection: close") + body,
        "a length that is too small": head("POST", path, "Content-Length: 9", "Connection: close") + body,
        "a chunk of no size": head("POST", path, chunked) + b"zz\r\n" + body,
        "a chunk of endless size": head("POST", path, chunked) + b"f" * 40 + b"\r\n" + body,
        "a chunk that is longer": head("POST", path, chunked) + b"3\r\n" + body + b"\r\n0\r\n\r\n",
        "another coding": head("POST", path, "Transfer-Encoding: gzip, chunked") + body,
        "compressed": head("POST", path, "Content-Encoding: gzip", "Content-Length: 2", "Connection: close")
        + b"\x1f\x8b",
        "a websocket": head("GET", path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x"),
    }
    what = str(random.choice(list(sent)))
    return Request(what, lambda server: over_http(server.port, [sent[what]], leave="half"))


def slow(random: Random, path: str) -> Request:
    """A right request in pieces, chunked or not."""
    example = pictures.pixels(random)
    body = json.dumps({"signature_name": "serve_bytes", "instances": [_b64(pictures.png(example))]}).encode()
    cuts = sorted(random.integers(0, len(body), 4).tolist())
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if b > a]
    if random.random() < 0.5:
        pieces = [posting(path, body)[: -len(body)], *parts]
    else:
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
        pieces = [head("POST", path, "Transfer-Encoding: chunked", "Connection: close"), *chunks, b"0\r\n\r\n"]
    return Request("slow", lambda server: over_http(server.port, pieces, pause=0.2), example, "work")


def gone(random: Random, path: str) -> Request:
    """A client that goes away in the middle, or before its answer."""
    body = b'{"instances": [[[[1, 2, 3]]]]}'
    whole = posting(path, body)
    how = str(random.choice(["in the head", "in the body", "before the answer"]))
    at = {"in the head": 30, "in the body": len(whole) - 9, "before the answer": len(whole)}[how]
    leave = str(random.choice(["quietly", "rudely"]))
    send: Send = lambda server: over_http(server.port, [whole[:at]], leave=leave)  # noqa: E731
    return Request(f"gone {how}, {leave}", send, must=None, gone=True)


def strange_rpc(random: Random, path: str) -> Request:
    """Garbage and mistakes over gRPC."""
    pixels = pictures.pixels(random)[None]
    right = _message("tf-serving", {"images": pixels})
    vast, filtered, labelled = (type(right).FromString(right.SerializeToString()) for _ in range(3))
    vast.inputs["images"].tensor_shape.dim[1].size = 10**9
    filtered.output_filter.append("x" * 2000)
    labelled.model_spec.version_label = "stable"
    changed = bytearray(right.SerializeToString())
    for _ in range(3):
        changed[int(random.integers(min(len(changed), 90)))] = int(random.integers(256))
    sent: dict[str, tuple[Any, str | None]] = {
        "noise": (random.bytes(200), None),
        "nothing": (b"", "refuse"),
        "changed": (bytes(changed), None),
        "a vast shape": (vast, "refuse"),
        "an unknown output": (filtered, "refuse"),
        "a label": (labelled, "refuse"),
        "another model": (_message("é" * 5000, {"images": pixels}), "refuse"),
        "another version": (_message("tf-serving", {"images": pixels}, version=7), "refuse"),
        "another signature": (_message("tf-serving", {"images": pixels}, "\u202e" * 3000), "refuse"),
        "floats": (_message("tf-serving", {"images": pixels.astype(np.float32)}), "refuse"),
        "another rank": (_message("tf-serving", {"images": pixels[0]}), "refuse"),
        "no pixels": (_message("tf-serving", {"images": pixels[:, :0]}), "refuse"),
        "many names": (_message("tf-serving", {f"{'é' * 50}{i}": 1 for i in range(300)}), "refuse"),
        "a batch of small ones": (_message("tf-serving", {"images": np.zeros((200_000, 1, 1, 3), np.uint8)}), "refuse"),
        "tokens": (_message("tf-serving", {"token_ids": np.ones((1, 10**6), np.int32)}), "refuse"),
        "above the limit": (b"\0" * (2**26 + 1), "refuse"),
    }
    what = str(random.choice(list(sent)))
    message, must = sent[what]
    method = PREDICT if random.random() < 0.9 else str(random.choice(["/x/y", PREDICT[:-7] + "Classify", "/"]))
    must = must if method == PREDICT else "refuse"
    return Request(f"gRPC, {what}, {method[-10:]}", _rpc(message, method=method), must=must)


def gone_rpc(random: Random, path: str) -> Request:
    message = _message("tf-serving", {"images": pictures.pixels(random)[None]})
    seconds = float(random.uniform(0.001, 0.02))
    return Request("gRPC, gone", _rpc(message, timeout=seconds), must=None, gone=True)


HOSTILE = [wrong_body, wrong_body, mutated_body, bomb, strange_line, broken_http, gone, strange_rpc, gone_rpc]

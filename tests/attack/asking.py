"""Clients of a server, honest and hostile: HTTP over raw sockets, and gRPC with any bytes."""

import http.client
import io
import json
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SECONDS = 90.0


@dataclass(frozen=True)
class Reply:
    """An HTTP status or a gRPC code, and the answer: bytes, or words of a refusal. "gone" has none."""

    status: int | str
    answer: Any = b""


def head(method: str, path: str, *lines: str, host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("utf-8", "replace")


def posting(path: str, body: bytes, *lines: str, host: str = "localhost") -> bytes:
    return head("POST", path, f"Content-Length: {len(body)}", "Connection: close", *lines, host=host) + body


def over_http(port: int, pieces: Sequence[bytes], pause: float = 0.0, leave: str = "") -> Reply:
    """Sends bytes in pieces and reads one response.

    Args:
        leave: "" to stay for the answer, "quietly" to close instead of reading it, "rudely" to reset, "half" to end
            only the sending and stay.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        try:
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(pause)
                client.sendall(piece)
        except OSError:
            pass  # refused before it was all sent
        if leave == "rudely":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if leave in ("rudely", "quietly"):
            return Reply("gone")
        if leave == "half":
            client.shutdown(socket.SHUT_WR)
        try:
            answer = http.client.HTTPResponse(client, method="HEAD" if pieces[0].startswith(b"HEAD ") else None)
            answer.begin()
            return Reply(answer.status, answer.read())
        except (http.client.BadStatusLine, http.client.IncompleteRead, ConnectionError):
            return Reply("closed")  # without a word


def refusal(reply: Reply) -> str:
    """The reason of an HTTP refusal: JSON's "error", or plain words."""
    try:
        return str(json.load(io.BytesIO(reply.answer))["error"])
    except (ValueError, TypeError, KeyError):
        return bytes(reply.answer).decode()


def over_grpc(address: str, message: bytes, method: str = PREDICT, timeout: float = SECONDS) -> Reply:
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        try:
            return Reply("OK", channel.unary_unary(method)(message, timeout=timeout))
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details())  # type: ignore[attr-defined]

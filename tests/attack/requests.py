"""Requests to `kerastune serve`: 64 at once, honest and hostile, over REST and gRPC."""

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from served import Server

from attack import little
from attack.asked import HOSTILE, Random, Request, damaged_picture, picture, slow, text
from attack.asking import Reply, refusal
from attack.campaign import Campaign, Trial
from kerastune.errors import KerastuneError

AT_ONCE = 64
ALL = {"unfreeze": "all", "epochs": 8, "learning_rate": 2e-2}
TOLERANCE = 1e-5  # the size of a batch changes the last bits
MOST_MEMORY = 3e9  # bytes of a server, TensorFlow and four large requests included
LONGEST = 501  # characters of a refusal
REFUSALS = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")
LOG = ("A client went away before its request was whole.", "Invalid HTTP request received.")


@dataclass(frozen=True)
class Model:
    """An artifact, what is asked of it at random, and what it says of an example in this process."""

    folder: Path
    asked: Callable[[Random, str], Request]
    expected: Callable[[list[Any]], Any]


# --- what comes of it --------------------------------------------------------------------------------------


def _check(request: Request, reply: Reply, expected: Any) -> None:
    if request.gone:
        return
    if reply.status in (200, "OK"):
        found = _scores(reply)
        assert found is None or np.isfinite(found).all(), found
        if request.must == "work" or expected is not None:
            assert found is not None and expected is not None and np.abs(found - expected).max() <= TOLERANCE, (
                f"{found}, expected {expected}"
            )
        return
    if reply.status == "closed":
        raise KerastuneError("closed")
    if isinstance(reply.status, int):
        assert 400 <= reply.status < 500, f"{reply.status}: {reply.answer[:200]!r}"
        reason = refusal(reply)
    else:
        assert reply.status in REFUSALS, f"{reply.status}: {reply.answer[:200]!r}"
        reason = reply.answer
    is_head = not reason and request.what == "method HEAD"
    assert is_head or (0 < len(reason) <= LONGEST and "Traceback" not in reason), reason[:300]
    raise KerastuneError(reason or "no words, to HEAD")


def _scores(reply: Reply) -> Any:
    if reply.status == "OK":
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        outputs = predict_pb2.PredictResponse.FromString(reply.answer).outputs
        return tf.make_ndarray(outputs["scores"])
    answer = json.loads(reply.answer or b"{}")
    found = answer.get("predictions", answer.get("outputs"))
    return None if found is None else np.array(found)


def _check_server(server: Server, asked: list[Request]) -> None:
    """It is small, ends at once, and has logged nothing but a line about each client that went away or was no HTTP."""
    memory = Path(f"/proc/{server.process.pid}/status").read_text()
    most = int(memory.partition("VmHWM:")[2].split()[0]) * 1024
    said = server.stop(signal.SIGTERM)
    lines = said.partition("Next:")[2].splitlines()[1:-1]
    assert not (others := [line for line in lines if not line.endswith(LOG)]), others[:5]
    least = sum(request.what.startswith("gone in the body, quietly") for request in asked)
    left = sum(line.endswith(LOG[0]) for line in lines)
    assert least <= left and len(lines) <= len(asked), f"{len(lines)} lines, {left} of {least} clients that went away"
    assert most < MOST_MEMORY, f"{most / 1e9:.1f} GB"


def _round(random: Random, model: Model) -> Iterator[Trial]:
    """Starts a server, asks it 64 things at once, twice, and once more, and ends it."""
    server, path = Server(model.folder), "/v1/models/tf-serving:predict"
    asked, replies = list[Request](), list[Reply]()
    for count in (AT_ONCE, AT_ONCE, 1):
        some = [_drawn(random, model, path) if count > 1 else model.asked(random, path) for _ in range(count)]
        with ThreadPoolExecutor(count) as pool:
            replies += pool.map(lambda request: request.send(server), some)
        asked += some
    known = [number for number, request in enumerate(asked) if request.example is not None]
    expected = dict(zip(known, model.expected([asked[number].example for number in known]), strict=True))
    yield Trial("the server, after all", partial(_check_server, server, asked), "work")
    for number in reversed(range(len(asked))):
        request = asked[number]
        yield Trial(request.what, partial(_check, request, replies[number], expected.get(number)), request.must)


def _drawn(random: Random, model: Model, path: str) -> Request:
    if random.random() < 0.5:
        return model.asked(random, path)
    return HOSTILE[int(random.integers(len(HOSTILE)))](random, path)


# --- the models --------------------------------------------------------------------------------------------


def _image(random: Random, path: str) -> Request:
    kinds = [picture, picture, picture, slow, damaged_picture]
    return kinds[int(random.integers(len(kinds)))](random, path)


def _model(recipe: Any, folder: Path, asked: Callable[[Random, str], Request]) -> Model:
    from kerastune import export, fine_tune
    from kerastune.recipe import Export
    from kerastune.verifying import runtimes

    (made,) = export(fine_tune(recipe, folder / "run"), Export(target="tf-serving"))

    def expected(examples: list[Any]) -> Any:
        return runtimes.ask(made, "saved-model", [np.array(one) for one in examples]).outputs["scores"]

    return Model(made.folder, asked, expected)


def trials(random: Random, folder: Path) -> Iterator[Trial]:
    pictured = _model(little.images(folder / "images"), folder / "images", _image)
    yield from _round(random, pictured)
    written = _model(little.texts(folder / "texts", phases=[ALL]), folder / "texts", text)
    while True:
        yield from _round(random, written)
        yield from _round(random, pictured)
        yield from _round(random, pictured)


CAMPAIGN = Campaign(
    name="requests",
    about="requests to `kerastune serve`, REST and gRPC, 64 at once: files, texts, wrong bodies, broken HTTP, bombs",
    count=2000,
    trials=trials,
)

"""TF Serving: the files it needs beside a SavedModel, its warm-up requests, and a stand-in for it."""

import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import child
from kerastune.errors import KerastuneError
from kerastune.targets import chats, texts
from kerastune.verifying import artifact
from kerastune.verifying.artifact import Artifact, Image

_PACKAGES = ("grpcio", "starlette", "tensorflow-serving-api", "uvicorn")
_MODULES = ("grpc", "starlette", "tensorflow_serving", "uvicorn")
_WARMUP_SECONDS = 10 * 60


def serve(
    of: Artifact | str | Path,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8501,
    grpc_port: int = 8500,
    ready: Callable[[dict[str, Any]], None] = lambda where: None,
) -> dict[str, int]:
    """Answers TF Serving's REST and gRPC requests until SIGINT or SIGTERM; then those it has accepted, and returns.

    A stand-in to develop against: one model in this process, by `tf.saved_model.load` alone; of texts, with the
    tokenizer of the artifact's reader. Call it in the main thread, where signals arrive.

    Args:
        name: of the model in addresses; default: the artifact's.
        port, grpc_port: 0 takes a free one.
        ready: told the addresses once requests are answered: `name`, `version`, `rest`, `grpc`, `max_request_bytes`,
            and `texts`, the names of inputs that take raw texts.

    Returns:
        What it did: `requests`, `failed`, `executions` (of the graph), `in_flight` (given up after 30 s).

    Raises:
        KerastuneError: a package is not installed, the artifact is no SavedModel, the name is no part of an address,
            or the address is taken.
        VerificationError: a file of the artifact has changed.
    """
    of = of if isinstance(of, Artifact) else artifact.load(of)
    if (format := of.manifest["format"]) != "saved_model":
        raise KerastuneError(
            f"{of.folder} is {format}, and TF Serving serves SavedModels.",
            f"kerastune export {of.manifest['run']} --target tf-serving",
        )
    name = name or of.manifest["name"]
    if not name or set(name) & set("/:"):
        raise KerastuneError(f"A model cannot be called {name!r} in an address.", "Name it without / and :, by --name.")
    of.check_files()
    try:
        from kerastune.serving import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _MODULES:
            raise
        raise KerastuneError(f"kerastune serve needs {error.name}.", f"pip install {' '.join(_PACKAGES)}") from error
    raw = server.Raw()
    if "chat" in of.manifest:
        raw = server.Raw(("prompts",), _conversing(of, server.Refused), answers=True)
    elif packing := of.manifest.get("text"):
        tokenised = texts.load(of.folder, packing)
        raw = server.Raw(("texts", "pairs")[: 1 + packing["pairs"]], lambda rows, execute: execute(tokenised(rows)))
    return server.run(of.folder / of.manifest["model"], name, host, port, grpc_port, ready, raw)


def _conversing(of: Artifact, refused: type[Exception]) -> Callable[..., dict[str, Any]]:
    """How a language model's prompts are answered: greedily, and as long as the golden answers."""
    settings = of.manifest["chat"]
    chat = chats.load(of.folder, settings)

    def respond(rows: list[list[str]], execute: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        def step(tokens: Any, position: Any, kv_cache: Any) -> tuple[Any, Any]:
            said = execute({"tokens": tokens, "position": position, "kv_cache": kv_cache})
            return said["logits"], said["kv_cache_next"]

        answers = []
        for (prompt,) in rows:
            if marks := chat.marks(prompt):
                raise refused(f"a prompt holds {marks[0]!r}, a mark of the chat template")
            ids = chat.prompt([{"role": "user", "content": prompt.strip()}])
            if why := chats.too_long(ids, settings):
                raise refused(f"the prompt {why}")
            answers.append(chat.decode(chats.generate(step, settings, ids, settings["max_tokens"])))
        return {"answers": np.array([answer.encode() for answer in answers], object)}

    return respond


def serving_files(name: str) -> dict[str, str]:
    """The texts of models.config and docker-compose.yml for an artifact that is served as `name`, by file name."""
    folder = files("kerastune.targets") / "tf-serving"
    texts = {file: (folder / file).read_text("utf-8") for file in ("models.config", "docker-compose.yml")}
    # JSON's escapes are those of a protobuf's text, too.
    config = texts["models.config"].replace('name: "classifier"', f"name: {json.dumps(name, ensure_ascii=False)}")
    return {**texts, "models.config": config}


# --- warm-up -----------------------------------------------------------------------------------------------


def write_warmup(model: Path, images: Sequence[Image]) -> bool:
    """Writes assets.extra/tf_serving_warmup_requests, which TF Serving replays before it calls a model available.

    Each image is asked about twice where the model has both signatures: `serving_default` gets its pixels,
    `serve_bytes` a PNG file of it.

    Args:
        model: a SavedModel's folder, the one that holds saved_model.pb.
        images: up to 500, uint8 [H, W, 3] each.

    Returns:
        False, with nothing written, where tensorflow-serving-api is not installed.

    Raises:
        ConverterError: the child process that writes them failed.
    """
    if len(images) > 500:
        raise ValueError(f"{len(images)} images make more than the 1000 requests that TF Serving replays")
    if importlib.util.find_spec("tensorflow_serving") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        stored = Path(scratch) / "images.npz"
        np.savez(stored, allow_pickle=False, **{f"{i:03}": image for i, image in enumerate(images)})
        _warmup("write", model, stored)
    return True


def replay_warmup(model: Path) -> list[tuple[str, dict[str, npt.NDArray[Any]]]]:
    """What the model answers to its warm-up requests, in a process that knows TensorFlow and the stubs alone.

    Returns:
        For each request its signature and the outputs by name; `scores` is float32 [1, K].

    Raises:
        ConverterError: a request failed, or there are none.
    """
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        found = Path(scratch) / "found.npz"
        _warmup("replay", model, found)
        with np.load(found, allow_pickle=False) as stored:
            outputs: list[dict[str, npt.NDArray[Any]]] = [{} for _ in stored["signatures"]]
            for key in stored.files:
                number, _, name = key.partition("/")
                if name:
                    outputs[int(number)][name] = stored[key]
            return list(zip(stored["signatures"].tolist(), outputs, strict=True))


def _warmup(what: str, model: Path, arrays: Path) -> None:
    script = Path(__file__).with_name("warmup.py")  # by its path: `-m` would import kerastune
    child.run(f"Warm-up requests ({what}) of {model}", [str(script), what, str(model), str(arrays)], _WARMUP_SECONDS)

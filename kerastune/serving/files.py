"""Files for deploying a SavedModel with TF Serving: its configuration, a Compose file, and warm-up requests."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune import child, files

Named = Mapping[str, npt.NDArray[Any]]

_SECONDS = 10 * 60
_MOST = 1000  # requests that TF Serving replays


def configuration(name: str) -> dict[str, str]:
    """Returns the texts of models.config and docker-compose.yml, by file name, for a model served as `name`."""
    folder = resources.files("kerastune.targets") / "tf-serving"
    texts = {file: (folder / file).read_text("utf-8") for file in ("models.config", "docker-compose.yml")}
    # JSON escapes strings as protobuf's text format does.
    config = texts["models.config"].replace('name: "classifier"', f"name: {json.dumps(name, ensure_ascii=False)}")
    return {**texts, "models.config": config}


def write_warmup(model: Path, requests: Sequence[tuple[str, Named]]) -> list[dict[str, npt.NDArray[Any]]] | None:
    """Writes assets.extra/tf_serving_warmup_requests, which TF Serving replays before it calls a model available.

    Args:
        model: a SavedModel's folder, the one that holds saved_model.pb.
        requests: up to 1,000, each a signature and its inputs by name.

    Returns:
        The model's answer to each request, outputs by name, computed by TensorFlow without kerastune. None, with
        nothing written, if tensorflow-serving-api is not installed.

    Raises:
        ConverterError: the process failed, or the model refused a request.
    """
    if len(requests) > _MOST:
        raise ValueError(f"{len(requests)} warm-up requests are more than the {_MOST} that TF Serving replays")
    if importlib.util.find_spec("tensorflow_serving") is None:
        return None
    script = str(Path(__file__).with_name("warmup.py"))  # run by its path, because `-m` would import kerastune
    with files.scratch() as scratch:
        asked, found = scratch / "asked.npz", scratch / "found.npz"
        named = {
            f"{i:03}/{sign}/{key}": value for i, (sign, inputs) in enumerate(requests) for key, value in inputs.items()
        }
        np.savez(asked, allow_pickle=False, **named)
        child.run(f"The warm-up of {model}", [script, str(model), str(asked), str(found)], _SECONDS)
        answers: list[dict[str, npt.NDArray[Any]]] = [{} for _ in requests]
        with np.load(found, allow_pickle=False) as stored:
            for key in stored.files:
                number, name = key.split("/", 1)
                answers[int(number)][name] = stored[key]
    return answers

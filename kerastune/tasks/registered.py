"""Saves and loads a task's own Keras model, which is registered with Keras but not a KerasHub class."""

import json
from pathlib import Path
from typing import Any

import keras

_CONFIG, _WEIGHTS = "model.json", "model.weights.h5"


def save(model: keras.Model, folder: Path) -> None:
    """Writes a model's config and weights into a folder.

    Raises:
        ValueError: its class is not registered (`keras.saving.register_keras_serializable`).
    """
    if keras.saving.get_registered_name(type(model)) == type(model).__name__:
        raise ValueError(f"{type(model).__name__} is not registered with Keras, so it could not be loaded")
    config = keras.saving.serialize_keras_object(model)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    model.save_weights(folder / _WEIGHTS)


def load(folder: str | Path, precision: str) -> keras.Model:
    """Loads what `save` wrote.

    Args:
        precision: the Keras dtype policy of all its layers, and the global one from now on; weights are float32.
    """
    keras.config.set_dtype_policy(precision)
    config = json.loads(Path(folder, _CONFIG).read_text("utf-8"))
    model = keras.saving.deserialize_keras_object(_with_policy(config, precision))
    model.load_weights(Path(folder, _WEIGHTS))
    return model


def _with_policy(config: Any, precision: str) -> Any:
    if isinstance(config, list):
        return [_with_policy(each, precision) for each in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {"name": precision}}
    return {key: _with_policy(value, precision) for key, value in config.items()}

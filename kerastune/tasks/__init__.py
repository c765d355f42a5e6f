"""Tasks: one folder and one row in `TASKS` for each. `kerastune.tasks.contract` defines what a task provides."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kerastune.environment import quiet_start

if TYPE_CHECKING:
    from kerastune.tasks.contract import Device, Task

TASKS = {
    "anomaly_detection": "kerastune.tasks.anomaly_detection",
    "audio_classification": "kerastune.tasks.audio_classification",
    "image_classification": "kerastune.tasks.image_classification",
    "image_embedding": "kerastune.tasks.image_embedding",
    "image_segmentation": "kerastune.tasks.image_segmentation",
    "object_detection": "kerastune.tasks.object_detection",
    "speech_to_text": "kerastune.tasks.speech_to_text",
    "text_classification": "kerastune.tasks.text_classification",
    "text_embedding": "kerastune.tasks.text_embedding",
    "causal_lm": "kerastune.tasks.causal_lm",
}


def get(name: str) -> "Task[Any]":
    """Returns the model of a task; imports TensorFlow."""
    with quiet_start():
        found: Task[Any] = import_module(f"{TASKS[name]}.task").TASK
    return found


def device(name: str) -> "Device[Any]":
    """Returns a task as a device sees it; does not import TensorFlow."""
    found: Device[Any] = import_module(f"{TASKS[name]}.device").DEVICE
    return found


def with_option(option: str) -> list[str]:
    """Returns the tasks whose models have an option of `kerastune predict`."""
    return [name for name in TASKS if option in device(name).options]

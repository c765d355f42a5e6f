"""Saving a tuned model as a preset, and proving that what comes back is it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.errors import VerificationError


def save(task: Any, folder: Path, load: Callable[[Path], Any], example: Any) -> tuple[Any, list[str]]:
    """Saves a task, loads it back and compares the predictions on a batch. Returns the loaded task, and notes.

    Raises:
        VerificationError: what comes back is not what was trained.
    """
    task.compile()  # a fresh optimizer: the trained one's state would be saved too, and warn when it is loaded
    task.save_to_preset(str(folder))
    hint = "The preset's settings do not survive KerasHub's save_to_preset; use another preset."
    try:
        loaded = load(folder)
    except ValueError as error:
        raise VerificationError(
            f"The tuned model was saved, but KerasHub cannot load it back: {error}", hint
        ) from error
    trained, restored = (np.asarray(model(example, training=False), np.float32) for model in (task, loaded))
    if not np.array_equal(trained, restored):
        raise VerificationError(
            "The saved model predicts something else than the trained one "
            f"(largest difference {np.nanmax(np.abs(trained - restored)):.3g} in the logits).",
            hint,
        )
    return loaded, []

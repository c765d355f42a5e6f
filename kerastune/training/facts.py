"""Facts that decide the bits of a training: what may not change before a resumption, nor between workers."""

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kerastune import environment
from kerastune.errors import KerastuneError
from kerastune.records import differences
from kerastune.training.plan import Plan

UNCHANGED = ("recipe", "data", "preset_sha256", "versions")
"""Facts that must also be the same in all workers."""


def facts_of(made: Plan, job: Literal["train", "run"] = "train", workers: int = 1) -> dict[str, Any]:
    """Returns the facts that decide the bits, and may not change before a resumption; also time and machine."""
    weights = hashlib.sha256()
    for weight in made.task.backbone.weights:
        weights.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return {
        "recipe": made.recipe.model_dump(mode="json"),
        "data": {"fingerprint": made.splits.fingerprint, **made.counts},
        "preset_sha256": weights.hexdigest(),
        "versions": environment.versions(),
        "machine": {**environment.machine(), "gpus": [d.name for d in tf.config.list_physical_devices("GPU")]},
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "job": job,
        "workers": workers,
        "before": {},
        "resumed": [],
    }


def refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises KerastuneError for facts that differ from those of a checkpoint."""
    keys = [key for key in (*UNCHANGED, "workers") if key in now]
    changes = [line for key in keys for line in differences(then[key], now[key], key)]
    if changes:
        listed = "\n".join(f"  {line}" for line in changes)
        raise KerastuneError(
            f"{folder} cannot be resumed to the same bits; these changed since its last checkpoint:\n{listed}",
            "Put them back as they were, or train again from the start: kerastune run RECIPE -o DIR --force",
        )

"""Whole trainings of every kind, killed at random moments and resumed to the same bits."""

import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attack import little
from attack.campaign import Campaign, Trial
from attack.place import STEPS, Place, at_once, check_run

HEAD = {"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}
GRADUAL = {"unfreeze": "gradual", "epochs": 3, "learning_rate": 1e-3, "ema": 0.9, "layer_decay": 0.5}
LORA = {"unfreeze": "all", "epochs": 2, "lora": {"rank": 2, "targets": ["query", "value"]}}
ALL = {"unfreeze": "all", "epochs": 2, "batch_norm": "train", "gradient_accumulation": 2, "clip_norm": 1.0}
CALIBRATED = {"unfreeze": "top:1", "epochs": 2, "batch_norm": "recalibrate", "optimizer": "adamw", "weight_decay": 1e-2}
KINDS: dict[str, dict[str, Any]] = {
    "resnet, features on disk": {"family": "resnet", "phases": [HEAD, GRADUAL], "train": {**STEPS, "cache": "disk"}},
    "vit, features in memory": {
        "family": "vit",
        "phases": [HEAD, GRADUAL, LORA],
        "train": {**STEPS, "cache": "memory"},
    },
    "efficientnet, augmented": {
        "family": "efficientnet",
        "phases": [HEAD, ALL, CALIBRATED],
        "augment": {"flip": "horizontal", "color": 0.2, "rand_augment": 0.2, "mixup": 0.2, "cutmix": 1.0},
        "train": {**STEPS, "label_smoothing": 0.1},
    },
}


def _try_run(reference: Place, moments: list[float], folder: Path) -> None:
    """Trains until the first kill, resumes until the next, and so on, with what `auto` decided for the reference."""
    place = Place(folder)
    checkpoints = folder / "work" / "made.partial" / "checkpoints"
    line = f"train --like {reference.work / 'made'} -o made"
    for moment in moments:
        was_killed = place.killed(line, moment, None, first=lambda: any(checkpoints.glob("[0-9]*.npz")))
        if not was_killed or (place.work / "made" / "report.html").is_file():
            break
        line = "resume made"
    else:
        place.run(line)
    check_run(place.work / "made", reference.work / "made")
    place.check_clean("made")
    shutil.rmtree(folder)


def runs(random: np.random.Generator, folder: Path) -> Iterator[Trial]:
    references: dict[str, tuple[Place, float]] = {}

    def reference(kind: str) -> tuple[Place, float]:
        if kind not in references:
            place, started = Place(folder / kind.partition(",")[0]), time.monotonic()
            (place.folder / "my.toml").write_text(little.images(place.folder / "little", **KINDS[kind]).to_toml())
            place.run("train ../my.toml -o made")
            references[kind] = place, time.monotonic() - started
        return references[kind]

    def tries() -> Iterator[tuple[str, Callable[[], None]]]:
        number = 0
        while True:
            for kind in KINDS:
                for _ in range(4):
                    place, seconds = reference(kind)
                    moments = (random.random(int(random.integers(1, 4))) * seconds).tolist()
                    number += 1
                    yield f"{kind}, {moments}", partial(_try_run, place, moments, folder / f"{number}")

    yield from at_once(tries())


CAMPAIGN = Campaign(
    name="runs",
    about="whole trainings that are killed once to three times, and resumed to the same bits",
    count=50,
    trials=runs,
)

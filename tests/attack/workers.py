"""Two workers of which one is killed at a random moment, and which start again and go on to the same bits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from bits import assert_same_bits

from attack import little
from attack.campaign import Campaign, Trial
from attack.place import STEPS

TRAINED = {"unfreeze": "all", "batch_norm": "train", "learning_rate": 1e-3}
PHASES = [
    {"unfreeze": "head", "epochs": 3, "learning_rate": 1e-2},
    {**TRAINED, "epochs": 6, "gradient_accumulation": 2, "clip_norm": 1.0, "ema": 0.9},
]


def _begun(line: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kerastune", *line.split(), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _try(whole: Path, recipe: Path, of_chief: bool, moment: float, folder: Path) -> None:
    folder.mkdir()
    out = folder / "made"
    chief = _begun(f"train {recipe} -o {out}")
    try:
        while chief.poll() is None and not any((folder / "made.partial" / "checkpoints").glob("[0-9]*.npz")):
            time.sleep(0.05)
        time.sleep(moment)
        others = [one for one in psutil.Process(chief.pid).children() if "kerastune.training" in one.cmdline()]
        if others:  # else the training had ended before
            os.kill(chief.pid if of_chief else others[0].pid, signal.SIGKILL)
        code = chief.wait(60)
        assert code in ({-9, 0} if of_chief else {4, 0}), code
        _, alive = psutil.wait_procs(others, 30)
        assert not alive
    finally:
        chief.kill()
    if code:
        assert _begun(f"resume {out}").wait(180) == 0
    assert_same_bits(out, whole)
    shutil.rmtree(folder)


def workers(random: np.random.Generator, folder: Path) -> Iterator[Trial]:
    changes = {"flip": "horizontal", "color": 0.2}
    steps = {**STEPS, "precision": "float32"}
    recipe = little.images(folder / "little", family="efficientnet", phases=PHASES, augment=changes, train=steps)
    path, whole = folder / "my.toml", folder / "whole"
    path.write_text(recipe.to_toml())
    started = time.monotonic()
    assert _begun(f"train {path} -o {whole}").wait(300) == 0
    seconds = time.monotonic() - started
    number = 0
    while True:
        number += 1
        of_chief, moment = bool(random.random() < 0.5), float(random.random() * seconds / 2)
        tried = partial(_try, whole, path, of_chief, moment, folder / f"{number}")
        yield Trial(f"{'the chief' if of_chief else 'the other'} after {moment:.1f} s", tried, "work")


CAMPAIGN = Campaign(
    name="workers",
    about="two workers of which one is killed at any moment, and which go on to the same bits",
    count=20,
    trials=workers,
)

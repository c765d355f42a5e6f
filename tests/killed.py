"""A child process that trains, or goes on training, and may be killed: python killed.py RECIPE OUT [WHEN]

WHEN is a stage of the work.
"""

import os
import signal
import sys
from pathlib import Path

from kerastune import fine_tune, read_recipe, resume
from kerastune.progress import Progress


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesIn(Progress):
    def __init__(self, stage: str) -> None:
        self.stage = stage

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage.startswith(self.stage):
            die()


recipe, out, when = [*sys.argv[1:], "never"][:3]
work, progress = Path(f"{out}.partial"), Progress()
if when != "never":
    progress = DiesIn(when)
if work.exists():
    resume(out, progress)
else:
    fine_tune(read_recipe(recipe), out, progress=progress)

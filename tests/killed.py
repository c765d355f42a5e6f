"""A child process that trains, or goes on training, and may be killed: python killed.py RECIPE OUT [SECONDS]

Seconds count from the moment that there is something to go on from.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from kerastune import fine_tune, read_recipe, resume


def kill_after(seconds: float, checkpoints: Path) -> None:
    while not any(checkpoints.glob("[0-9]*.npz")):
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


recipe, out, *delay = sys.argv[1:]
work = Path(f"{out}.partial")
if delay:
    threading.Thread(target=kill_after, args=(float(delay[0]), work / "checkpoints"), daemon=True).start()
if work.exists():
    resume(out)
else:
    fine_tune(read_recipe(recipe), out)

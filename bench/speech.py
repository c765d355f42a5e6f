"""Adapters for Whisper base: kerastune beside a plain loop in transformers, peft and PyTorch: python bench/speech.py

Both sides learn the recipe `prompts` from the same recordings, splits and weights, and write the validation split down
after each epoch. Seconds are of the processor, on one thread, so that other work on the machine does not count. Prints
a line of JSON for each side.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from few import ONE_THREAD

import bench
from kerastune import assets, read_recipe
from kerastune.tasks.learnt import words
from kerastune.tasks.speech_to_text import hugging_face_writing
from kerastune.training import train

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv-peft"
WINDOWS = {"kerastune": 10.0, "transformers": 10.0, "transformers-30s": 30.0}  # 30 s is Whisper's own, in seconds


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", choices=WINDOWS, nargs="+", default=list(WINDOWS), help="some sides")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--steps", type=int, help="stop the peer after so many, to see its examples per second alone")
    asked = options.parse_args()
    for side in asked.only:
        print(side, json.dumps(measured(side, asked.epochs, asked.steps)), flush=True)


def measured(side, epochs, steps):
    with tempfile.TemporaryDirectory(prefix="kerastune-bench-") as home:
        (Path(home) / "assets").symlink_to(assets.home() / "assets")
        job = {"epochs": epochs, "steps": steps}
        script, python = HERE / "speech_job.py", sys.executable
        if side != "kerastune":
            script, python = (
                HERE / "speech_script.py",
                bench.make_torch_environment(VENV, ("peft==0.21.2", "jiwer==4.0.0")),
            )
            write(Path(home), WINDOWS[side])
        printed = bench.run([python, script, json.dumps(job)], {**os.environ, **ONE_THREAD, "KERASTUNE_HOME": home})
        found = json.loads(printed.splitlines()[-1])
        if "said" in found:
            found["word_error_rate"] = word_error_rate(found.pop("said"), found.pop("truth"))
        return found


def write(home, window):
    """Writes the recordings and texts of each split, and the model that hears windows of so many seconds."""
    plan = train.plan(read_recipe("prompts"))
    for name in ("train", "validation", "test"):
        split = getattr(plan.splits, name)
        sounds = {str(i): split.example(i) for i in range(len(split))}
        np.savez(home / f"{name}.npz", texts=[str(text) for text in split.labels], **sounds)
    if window != plan.recipe.data.window:
        plan = train.plan(read_recipe("prompts", [f"data.window={window}"]))
    hugging_face_writing.write(plan.task, plan.recipe.language, False, home / "whisper")


def word_error_rate(said, truth):
    pairs = [[words.normalised(text).split() for text in pair] for pair in zip(said, truth, strict=True)]
    return sum(words.edits(*pair) for pair in pairs) / sum(len(right) for _, right in pairs)


if __name__ == "__main__":
    main()

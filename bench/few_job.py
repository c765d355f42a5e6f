"""kerastune's side of few.py: the recipe `few` on the drawn examples, texts or clothes."""

import contextlib
import json
import os
import sys
from pathlib import Path

from kerastune import Progress, fine_tune, read_recipe

HOME = Path(os.environ["KERASTUNE_HOME"])
CLOTHES = {
    "task": "image_classification",
    "preset": "efficientnet-lite0-imagenet",
    "data": {"source": "folder", "path": str(HOME / "data")},
    "train": {"batch_size": 32, "xla": False},
    "phases": [{"unfreeze": "head", "epochs": 60, "learning_rate": 3e-3}],
}


def recipe(job):
    if job["kind"] == "clothes":
        return read_recipe({**CLOTHES, "name": "few", "seed": job["seed"]})
    data = {"path": HOME / "data", "per_label": job["size"], "max_length": job["max_length"]}
    changes = [f"data.{key}={value}" for key, value in data.items()]
    return read_recipe("few", [*changes, f"seed={job['seed']}", "train.xla=false"])


class Watch(Progress):
    """Notes the processor's time when the model has been loaded, and when its weights are final."""

    def __init__(self):
        self.began = self.ended = None

    @contextlib.contextmanager
    def working(self, stage):
        yield
        if stage.startswith("loading "):
            self.began = os.times()

    def say(self, text):
        if text.startswith("Keeping "):
            self.ended = os.times()


def main(job):
    watch = Watch()
    record = fine_tune(recipe(job), HOME / "run", progress=watch).record
    seconds = sum(watch.ended[:2]) - sum(watch.began[:2])
    precision = next(one.got for one in record.decisions if one.key == "train.precision")
    print(json.dumps({"cpu_seconds": seconds, "accuracy": record.metrics["test"]["accuracy"], "precision": precision}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""kerastune's side of gpu.py: python bench/gpu_job.py JOB      JOB is JSON; prints one line of JSON"""

import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from kerastune import Progress, child, export, fine_tune, read_recipe
from kerastune.training import loop
from kerastune.training.plan import plan

HELD = 16  # batches that lie on the device


class Timed(loop.Training):
    """Times the steps of each epoch, and after the last epoch the same steps on batches that stay on the device."""

    def _epoch(self, feed, steps):
        self.began = time.perf_counter()
        return super()._epoch(feed, steps)

    def _validate(self, feed, steps):
        self.waited()
        self.seconds = [*getattr(self, "seconds", []), time.perf_counter() - self.began]
        if len(self.seconds) == self.phase.epochs:
            self.alone = self.on_the_device(feed, steps)
        return super()._validate(feed, steps)

    def on_the_device(self, feed, steps):
        """Returns examples a second."""
        taken = list(islice(feed.train(1, 0), HELD))
        held = [tf.nest.map_structure(lambda x: tf.identity(tf.convert_to_tensor(x)), batch) for batch in taken]
        for _ in range(2):  # the first time, what is new to the step is traced
            started = time.perf_counter()
            for batch in held:
                steps.train(*batch)
            self.waited()
            seconds = time.perf_counter() - started
        return sum(len(batch[-1]) for batch in held) / seconds

    def waited(self):
        float(self.metrics[0].result())


def recipe(job):
    small, kind = job["small"], job["what"]
    train = {"batch_size": 8 if small else 128, "xla": job["xla"], "cache": "off"}
    phases = [{"unfreeze": "all", "epochs": 3, "learning_rate": 1e-4, "batch_norm": "frozen"}]
    if kind == "texts":
        data = {"source": "csv", "path": "trec-questions", "max_length": 32, **({"per_label": 8} if small else {})}
        named = {"task": "text_classification", "preset": "all-minilm-l6-v2-en", "head": "mean"}
        del phases[0]["batch_norm"]
    else:
        count, pixels = (64, 32) if small else (4096, 224)
        splits = {
            "train": f"train[:{count}]",
            "validation": f"train[59{'9' if small else '0'}00:]",
            "test": "test[:200]",
        }
        data = {"source": "tfds", "name": "fashion_mnist", "data_dir": "fashion-mnist", "image_size": pixels, **splits}
        named = {"task": "image_classification", "preset": "efficientnet-lite0-imagenet"}
    return read_recipe({"name": "gpu", **named, "data": data, "train": train, "phases": phases})


def speed(job, folder):
    made = plan(recipe(job))
    training = Timed(made, folder, {}, Progress())
    training.run()
    rate = len(made.splits.train) / min(training.seconds[1:])
    policy = made.task.backbone.dtype_policy.name
    return {"rate": rate, "alone": training.alone, "start_s": training.at.ran[0].start_s, "note": policy}


def quickstart(job, folder):
    few = ["data.train=train[:320]", "data.validation=train[59900:]", "data.test=test[:200]", "data.image_size=32"]
    wanted = read_recipe("quickstart", few if job["small"] else [])
    exports = wanted.exports[:1] if job["small"] else wanted.exports
    started = time.perf_counter()
    run = fine_tune(wanted.model_copy(update={"exports": ()}), folder / "run")
    trained = time.perf_counter() - started
    made = export(run, exports)
    note = f"{trained:.0f} s of them before the exports; {len(made)} verified"
    return {"seconds": time.perf_counter() - started, "note": note}


def twice(job, folder):
    started = time.perf_counter()
    one, two = (stored(fine_tune(recipe(job), folder / name).folder) for name in ("one", "two"))
    differ = sum(not np.array_equal(one[name], two[name]) for name in one)
    note = f"{differ} of {len(one)} weights differ" if differ else f"same bits of {len(one)} weights"
    return {"seconds": time.perf_counter() - started, "note": note}


def stored(folder):
    """Returns the weights of a run, by name."""
    found = {}
    with h5py.File(folder / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def main(job):
    with tempfile.TemporaryDirectory() as folder:
        return {"quickstart": quickstart, "twice": twice}.get(job["what"], speed)(job, Path(folder))


if __name__ == "__main__":
    with child.forking():
        print(json.dumps(main(json.loads(sys.argv[1]))))

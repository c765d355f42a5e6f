"""kerastune's side: the job as a recipe, through the public API; seconds and accuracy are what the run recorded."""

import json
import os
import resource
import sys
from pathlib import Path

from kerastune import fine_tune
from kerastune.recipe import parse
from kerastune.records import to_json


def recipe(job):
    return texts(job) if "texts" in job else images(job)


def texts(job):
    phase = {key: job[key] for key in ("unfreeze", "epochs", "learning_rate", "weight_decay", "warmup")}
    return parse(
        {
            "name": "bench",
            "task": "text_classification",
            "head": "pooler",  # as in transformers
            "preset": "all-minilm-l6-v2-en",
            "seed": job["seed"],
            "data": {
                "source": "csv",
                "path": str(Path(os.environ["KERASTUNE_HOME"]) / "texts"),
                "max_length": job["max_length"],
            },
            "train": {key: job[key] for key in ("batch_size", "cache", "precision")},
            "phases": [{**phase, "optimizer": "adamw", "schedule": "linear"}],
        },
        "bench",
    )


def images(job):
    data = {"source": "tfds", "name": "fashion_mnist", "data_dir": "fashion-mnist", "image_size": job["image_size"]}
    phase = {"unfreeze": job["unfreeze"], "epochs": job["epochs"], "learning_rate": job["learning_rate"]}
    return parse(
        {
            "name": "bench",
            "task": "image_classification",
            "preset": "efficientnet-lite0-imagenet",
            "seed": job["seed"],
            "data": data | {split: job[split] for split in ("train", "validation", "test")},
            "train": {"batch_size": job["batch_size"], "cache": job["cache"]},
            "phases": [{**phase, "schedule": "cosine", "batch_norm": "frozen"}],
        },
        "bench",
    )


def main(job):
    record = fine_tune(recipe(job), Path(os.environ["KERASTUNE_HOME"]) / "run").record
    found = {"seconds": record.seconds["train"], "accuracy": record.metrics["test"]["accuracy"]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    decisions = [to_json(decision) for decision in record.decisions]
    print(json.dumps({**found, "peak_mb": peak, "run": record.seconds, "decisions": decisions}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

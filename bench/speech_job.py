"""kerastune's side of speech.py: the recipe `prompts`."""

import json
import os
import resource
import sys
from pathlib import Path

from kerastune import Progress, fine_tune, read_recipe
from kerastune.training import loop


class Watch(Progress):
    """Notes the processor's time when training begins, when the frozen part has run, and at the end of training."""

    def __init__(self):
        self.at = {}

    def say(self, text):
        if "frozen layers" in text:
            self.at["kept"] = cpu()
        if text.startswith("Keeping "):
            self.at["trained"] = cpu()


def cpu():
    return sum(os.times()[:2])


def main(job):
    recipe = read_recipe("prompts", [f"phases.0.epochs={job['epochs']}"])
    recipe = recipe.model_copy(update={"control": None, "exports": ()})
    watch, run, validate, validating = Watch(), loop.Training.run, loop.Training._validate, [0.0]

    def begun(*arguments):
        watch.at["began"] = cpu()
        return run(*arguments)

    def timed(*arguments):
        before = cpu()
        found = validate(*arguments)
        validating[0] += cpu() - before
        return found

    loop.Training.run, loop.Training._validate = begun, timed
    record = fine_tune(recipe, Path(os.environ["KERASTUNE_HOME"], "run"), progress=watch).record
    at = watch.at
    print(
        json.dumps(
            {
                "cpu_seconds": at["trained"] - at["began"],
                "encoder_cpu_seconds": at["kept"] - at["began"],
                "step_cpu_seconds": at["trained"] - at["kept"] - validating[0],
                "examples": job["epochs"] * sum(record.data.counts["train"].values()),
                "word_error_rate": record.metrics["test"]["word_error_rate"],
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""The input alone, without the model: python bench/input.py [speed] [pictures] [texts]

"speed": images a second in an epoch that decodes photos of 500 x 375 pixels to 224 pixels, and in one that gathers what
was kept. "pictures" and "texts": memory and seconds with 1,000, 100,000 and 1,000,000 examples (or as many as given) of
which nothing is kept: all are read, checked and split, and then 200 batches are made. Each row has its own process.

The pictures are JPEG files of 32 x 32 pixels, 4,096 different ones; a number behind the end of each makes every file
another one. The texts are rows of a Parquet file. Both are made in TMPDIR first (4 GB of disk).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np

COUNTS = (1_000, 100_000, 1_000_000)
LABELS, DIFFERENT, STEPS, PHOTOS = 10, 4_096, 200, 2_000
WORDS = "where is the oldest town of that country and who was first to see a river in winter by train or boat"


def jpeg(random, width, height):
    """Returns a picture with something on it: noise of a tenth of its size, enlarged."""
    from PIL import Image

    small = random.integers(0, 256, (max(height // 10, 4), max(width // 10, 4), 3), np.uint8)
    made = BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(made, "JPEG", quality=90)
    return made.getvalue()


def write_pictures(folder, count, different, width, height):
    random = np.random.default_rng(0)
    held = [jpeg(random, width, height) for _ in range(different)]
    for label in range(LABELS):
        (folder / f"label-{label}").mkdir(parents=True)
    for i in range(count):
        data = held[i % different] + i.to_bytes(8, "big")
        (folder / f"label-{i % LABELS}" / f"{i:07}.jpg").write_bytes(data)


def write_texts(path, count):
    import pyarrow as pa
    import pyarrow.parquet as pq

    words, random = np.array(WORDS.split()), np.random.default_rng(0)
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, count, 50_000):
            numbers = range(start, min(start + 50_000, count))
            drawn = words[random.integers(0, len(words), (len(numbers), 12))]
            texts = [f"{' '.join(row[: 4 + i % 9])} {i}" for i, row in zip(numbers, drawn, strict=True)]
            labels = [f"label-{i % LABELS}" for i in numbers]
            file.write_table(pa.table({"text": texts, "label": labels}, schema))


# --- one process ---------------------------------------------------------------------------------------------


class Peak(threading.Thread):
    """Samples this process's own memory, in MB, without what is mapped from files: the system takes that back."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.stage = {}, "libraries"
        self.start()

    def run(self):
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
            self.most[self.stage] = max(self.most.get(self.stage, 0.0), now)
            time.sleep(0.02)


def recipe(what, path):
    from kerastune import read_recipe

    texts = what == "texts"
    size = {"speed": 224, "pictures": 32}.get(what)
    rows, images = {"source": "parquet", "max_length": 64}, {"source": "folder", "image_size": size}
    wanted = {
        "task": "text_classification" if texts else "image_classification",
        "preset": "all-minilm-l6-v2-en" if texts else "efficientnet-lite0-imagenet",
        "data": {**(rows if texts else images), "path": path},
        "train": {"batch_size": 64, "precision": "float32", "xla": False, "inputs": "auto" if texts else "off"},
        "phases": [{"unfreeze": "all", "epochs": 3, "learning_rate": 1e-3}],
    }
    return read_recipe({**wanted, **({"head": "mean"} if texts else {})})


def memory(what, path):
    """Plans a training, and makes the first batches of an epoch."""
    from kerastune import data
    from kerastune.training import plan as planning
    from kerastune.training.feed import Feed

    peak, started, load = Peak(), time.perf_counter(), data.load

    def loaded(*arguments):  # tells the stages of `plan` apart
        peak.stage = "data"
        found = load(*arguments)
        peak.stage = "model"
        return found

    data.load = loaded
    made = planning.plan(recipe(what, path))
    ready, peak.stage = time.perf_counter(), "batches"
    for _ in islice(Feed(made.batches, 1, 3).train(1, 0), STEPS):
        pass
    return {
        "ready after": f"{ready - started:.1f} s",
        f"{STEPS} batches": f"{time.perf_counter() - ready:.1f} s",
        "largest": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB",
        "without files": f"{max(peak.most.values()):,.0f} MB",
        "by stage": ", ".join(f"{stage} {most:,.0f}" for stage, most in peak.most.items()),
    }


def speed(what, path):
    """Makes three epochs' batches, decoded anew and from what is kept. The first epoch also starts the pipelines."""
    from kerastune.progress import Progress
    from kerastune.training import inputs
    from kerastune.training.feed import Feed
    from kerastune.training.plan import plan

    made = plan(recipe(what, path))
    found = {}
    for where in ("decoded in each epoch", "kept in memory", "kept on disk"):
        kept = None if "decoded" in where else inputs.keep(made.batches, "disk" in where, Progress())
        feed, seconds = Feed(kept or made.batches, 1, 3), []
        for epoch in (1, 2, 3):
            started = time.perf_counter()
            for _ in feed.train(epoch, 0):
                pass
            seconds.append(time.perf_counter() - started)
        found[where] = f"{len(made.splits.train) / min(seconds[1:]):,.0f} images/s"
    return found


# --- all -----------------------------------------------------------------------------------------------------


def measured(what, path):
    command = [sys.executable, __file__, "--one", what, str(path)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def show(cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main(wanted, counts=COUNTS):
    from kerastune import assets

    with tempfile.TemporaryDirectory(prefix="kerastune-bench-") as folder:
        Path(folder, "assets").symlink_to(assets.home() / "assets")
        os.environ["KERASTUNE_HOME"] = folder  # what is kept on disk goes with it
        for what in wanted:
            if what == "speed":
                write_pictures(Path(folder, what), PHOTOS, PHOTOS, 500, 375)
                for row in measured(what, Path(folder, what)).items():
                    show(row)
                continue
            for count in counts:
                path = Path(folder, f"{what}-{count}" + (".parquet" if what == "texts" else ""))
                write_texts(path, count) if what == "texts" else write_pictures(path, count, DIFFERENT, 32, 32)
                found = measured(what, path)
                if count == counts[0]:
                    show((what, *found))
                show((f"{count:,}", *found.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps((speed if sys.argv[2] == "speed" else memory)(*sys.argv[2:])))
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
        main(
            [word for word in sys.argv[1:] if not word.isdecimal()] or ["speed", "pictures", "texts"], numbers or COUNTS
        )

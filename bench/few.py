"""Few examples: kerastune beside the setfit package (texts) and a plain Keras script (images): python bench/few.py

Each side is a process that reads the same examples, drawn by seed. Seconds are of the processor, on one thread, so that
other work on the machine does not count. Results are added to few.json; the table is printed.
"""

import argparse
import csv
import json
import os
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import bench
from kerastune import assets

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv-setfit"
RESULTS = HERE / "few.json"
TEXTS = {"questions": "trec-questions", "spam": "sms-spam", "reviews": "vader-movie-reviews"}
PEER = {**dict.fromkeys(TEXTS, "setfit"), "clothes": "keras"}
SIZES = {**dict.fromkeys(TEXTS, (8, 16, 64)), "clothes": (8, 32)}
SEEDS = range(3)
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1"),
    "TF_NUM_INTEROP_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", default=[], metavar="DATA[:SIZE[:SEED[:SIDE]]]", help="some; others stay")
    asked = options.parse_args().only
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, size, seed, side in jobs():
        key = f"{name}:{size}:{seed}:{side}"
        if (not asked and key not in found) or any(f"{key}:".startswith(f"{one}:") for one in asked):
            found[key] = measured(name, size, seed, side)
            print(key, json.dumps(found[key]), file=sys.stderr, flush=True)
            RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
    print(table(found))


def jobs():
    for name, sizes in SIZES.items():
        for size in sizes:
            for seed in SEEDS:
                for side in ("kerastune", PEER[name]):
                    yield name, size, seed, side


def measured(name, size, seed, side):
    with tempfile.TemporaryDirectory(prefix="kerastune-bench-") as home:
        (Path(home) / "assets").symlink_to(assets.home() / "assets")
        (draw_texts if name in TEXTS else draw_clothes)(name, size, seed, Path(home) / "data")
        script = {"kerastune": "few_job", "setfit": "setfit_script", "keras": "few_keras"}[side]
        python = bench.make_torch_environment(VENV, ("setfit==1.2.0",)) if side == "setfit" else sys.executable
        job = {"kind": "texts" if name in TEXTS else "clothes", "seed": seed, "size": size, "max_length": 128}
        command = [python, HERE / f"{script}.py", json.dumps(job)]
        return json.loads(bench.run(command, {**os.environ, **ONE_THREAD, "KERASTUNE_HOME": home}).splitlines()[-1])


def draw_texts(name, size, seed, folder):
    """Writes CSV files: so many of each label for training and for validation, and every nth row, 500, for the test."""
    folder.mkdir()
    draw = random.Random(seed)
    for split in ("train", "validation", "test"):
        path = assets.home() / "assets" / TEXTS[name] / f"{split}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["label"], row["text"]) for row in csv.DictReader(file)]
        if split == "test":
            rows = rows[:: max(len(rows) // 500, 1)][:500]  # a file may hold one label after the other
        else:
            rows = of_each(rows, size if split == "train" else min(size, 16), draw)
        with (folder / f"{split}.csv").open("w", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("label", "text"), *rows])


def draw_clothes(name, size, seed, folder):
    """Writes a folder of images a label, likewise; 1,000 for the test."""
    import tensorflow_datasets as tfds
    from PIL import Image

    draw = random.Random(seed)
    where = str(assets.home() / "assets" / "fashion-mnist")
    for split, part in (("train", "train[:10000]"), ("validation", "train[55000:]"), ("test", "test[:1000]")):
        stored = tfds.load("fashion_mnist", split=part, data_dir=where, as_supervised=True)
        images = [(str(label), image) for image, label in tfds.as_numpy(stored)]
        if split != "test":
            images = of_each(images, size if split == "train" else 16, draw)
        for i, (label, image) in enumerate(images):
            path = folder / split / label / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[:, :, 0]).save(path)


def of_each(rows, size, draw):
    by = defaultdict(list)
    for row in rows:
        by[row[0]].append(row)
    return [row for label in sorted(by) for row in draw.sample(by[label], min(size, len(by[label])))]


def table(found):
    lines = ["| data | a label | kerastune | peer | processor seconds | ratio |", "|---|---|---|---|---|---|"]
    for name, sizes in SIZES.items():
        for size in sizes:
            sides = [
                [found[key] for seed in SEEDS if (key := f"{name}:{size}:{seed}:{side}") in found]
                for side in ("kerastune", PEER[name])
            ]
            if all(sides):
                seconds = [statistics.mean(one["cpu_seconds"] for one in side) for side in sides]
                cells = [
                    name,
                    size,
                    *map(spread, sides),
                    "{:.0f} / {:.0f}".format(*seconds),
                    f"{seconds[1] / seconds[0]:.1f} ×",
                ]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def spread(side):
    got = [one["accuracy"] for one in side]
    return (
        f"{statistics.mean(got):.4f} ({min(got):.4f} to {max(got):.4f}, {len(got)} draw{'s' if len(got) > 1 else ''})"
    )


if __name__ == "__main__":
    main()

"""Little models to attack: their data, presets and recipes, made in a folder."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 50, 40)}
NOUNS = {"animal": ("cat", "dog", "emu", "yak"), "vehicle": ("car", "bus", "van", "bike")}


FAMILIES = {"efficientnet": "EfficientNet", "resnet": "ResNet", "vit": "ViT"}


def images(folder: Path, family: str = "efficientnet", **changes: Any) -> Any:
    """A recipe that labels noisy pictures of three colours; keyword arguments replace its top-level keys."""
    import keras
    import tiny
    from keras_hub import models

    random = np.random.default_rng(0)
    for label, color in COLORS.items():
        (folder / "data" / label).mkdir(parents=True)
        for i in range(16):
            pixels = np.array(color) + random.normal(0, 25, (32, 32 + 8 * (i % 2), 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "data" / label / f"{i:02}.png")
    keras.utils.set_random_seed(1)
    kind = getattr(models, f"{FAMILIES[family]}ImageClassifier")
    converter = kind.preprocessor_cls.image_converter_cls(image_size=(32, 32), scale=1 / 64, offset=-2.0)
    task = kind(
        backbone=tiny.BACKBONES[FAMILIES[family]](), num_classes=3, preprocessor=kind.preprocessor_cls(converter)
    )
    task.save_to_preset(str(folder / "preset"))
    return _recipe(folder, "image_classification", {"source": "folder", "path": str(folder / "data")}, changes)


def texts(folder: Path, **changes: Any) -> Any:
    """A recipe that labels sentences; keyword arguments replace its top-level keys."""
    import tiny

    folder.mkdir(parents=True, exist_ok=True)
    random, path = np.random.default_rng(0), folder / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(120):
            label = ("animal", "vehicle")[i % 2]
            more = " ".join(random.choice(["big", "old", "red", "slow", "fast"], 3 if i % 3 else 12))
            rows.writerow([f"the {NOUNS[label][i // 2 % 4]} is {more}", label])
    tiny.text_classifier("Bert").save_to_preset(str(folder / "preset"))
    return _recipe(folder, "text_classification", {"source": "csv", "path": str(path)}, changes)


def _recipe(folder: Path, task: str, data: dict[str, Any], changes: dict[str, Any]) -> Any:
    from kerastune.recipe import parse

    values = {
        "name": "little",
        "task": task,
        "preset": str(folder / "preset"),
        "data": data,
        "train": {"batch_size": 8, "xla": False},
        "phases": [{"unfreeze": "head", "epochs": 2, "learning_rate": 3e-2}],
    }
    return parse({**values, **changes}, "little")

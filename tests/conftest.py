"""Shared fixtures: fetched assets, tiny real presets, a folder of pictures, and runs trained on them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 50, 40)}


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    """Children that need TensorFlow fork, in a session of tests, from one process that has imported it."""
    from kerastune import child

    with child.forking():
        yield


@pytest.fixture(scope="session")
def assets_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KERASTUNE_HOME with the quickstart's assets. KERASTUNE_TEST_HOME keeps it from one session to the next."""
    from kerastune import assets

    kept = os.environ.get("KERASTUNE_TEST_HOME")
    home = Path(kept) if kept else tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASTUNE_HOME", str(home))
        for name in ("efficientnet-lite0-imagenet", "fashion-mnist"):
            assets.fetch(name)
    return home


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, 40 noisy single-colour pictures each, in three sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for label, color in COLORS.items():
        (folder / label).mkdir()
        for i in range(40):
            height, width = [(32, 32), (40, 56), (50, 36)][i % 3]
            pixels = np.array(color) + random.normal(0, 25, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny preset of a family."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            import keras
            from keras_hub import models
            from tiny import BACKBONES

            keras.utils.set_random_seed(1)
            names = {"efficientnet": "EfficientNet", "mobilenet": "MobileNet", "resnet": "ResNet", "vit": "ViT"}
            kind = getattr(models, f"{names[family]}ImageClassifier")
            converter = kind.preprocessor_cls.image_converter_cls(image_size=(32, 32), scale=1 / 64, offset=-2.0)
            backbone = BACKBONES[names[family]]()
            task = kind(backbone=backbone, num_classes=3, preprocessor=kind.preprocessor_cls(converter))
            made[family] = tmp_path_factory.mktemp("presets") / family
            task.save_to_preset(str(made[family]))
        return made[family]

    return make


@pytest.fixture(scope="session")
def recipe(pictures: Path, preset: Callable[[str], Path]) -> Callable[..., Any]:
    """A recipe on the pictures; keyword arguments replace its top-level keys."""
    from kerastune.recipe import parse

    def make(family: str = "efficientnet", **changes: Any) -> Any:
        values = {
            "name": family,
            "task": "image_classification",
            "preset": str(preset(family)),
            "data": {"source": "folder", "path": str(pictures)},
            "train": {"batch_size": 8},
            "phases": [{"unfreeze": "head", "epochs": 3, "learning_rate": 3e-2}, {"unfreeze": "top:1", "epochs": 1}],
        }
        return parse({**values, **changes}, "test")

    return make


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 sentences about animals and vehicles, of two lengths, with a rating and a second sentence each."""
    import csv

    nouns = {"animal": ["cat", "dog", "emu", "yak"], "vehicle": ["car", "bus", "van", "bike"]}
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "all.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "pair", "label", "labels", "rating"])
        for i in range(120):
            label = ("animal", "vehicle")[i % 2]
            noun, words = nouns[label][i // 2 % 4], ["big", "old", "red", "slow", "fast"]
            more = " ".join(random.choice(words, 3 if i % 3 else 12))
            both = "|".join([label, *(["old"] if "old" in more else [])])
            rows.writerow([f"the {noun} is {more}", f"a {noun} {i}", label, both, i % 2 + ("old" in more) / 2])
    return path


@pytest.fixture(scope="session")
def text_preset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny preset of a text family, tokenizer included."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            import tiny

            made[family] = tmp_path_factory.mktemp("text-presets") / family
            tiny.text_classifier(family).save_to_preset(str(made[family]))
        return made[family]

    return make


@pytest.fixture(scope="session")
def text_recipe(texts: Path, text_preset: Callable[[str], Path]) -> Callable[..., Any]:
    """A recipe on the texts; keyword arguments replace its top-level keys, `data` only the keys it has."""
    from kerastune.recipe import parse

    def make(family: str = "Bert", data: dict[str, Any] | None = None, **changes: Any) -> Any:
        values = {
            "name": family.lower(),
            "task": "text_classification",
            "preset": str(text_preset(family)),
            "data": {"source": "csv", "path": str(texts), **(data or {})},
            "train": {"batch_size": 8},
            "phases": [{"unfreeze": "all", "epochs": 4, "learning_rate": 1e-2}],
        }
        return parse({**values, **changes}, "test")

    return make


@pytest.fixture(scope="session")
def embedder_preset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny text embedder."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            import tiny

            made[family] = tmp_path_factory.mktemp("embedder-presets") / family
            tiny.text_embedder(family).save_to_preset(str(made[family]))
        return made[family]

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, recipe: Callable[..., Any]) -> Callable[[str], Any]:
    """A run of a family on the pictures, trained once a session. Tests must not write into it."""
    made: dict[str, Any] = {}

    def make(family: str = "efficientnet") -> Any:
        from kerastune import fine_tune

        if family not in made:
            made[family] = fine_tune(recipe(family), tmp_path_factory.mktemp("runs") / family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, trained: Callable[[str], Any]
) -> Callable[[str], dict[str, Any]]:
    """Every format and quantisation of a family's run, exported and verified once a session: name -> artifact."""
    made: dict[str, dict[str, Any]] = {}
    modes = [("saved_model", "none"), ("tflite", "none"), ("tflite", "dynamic"), ("tflite", "int8"), ("onnx", "none")]

    def make(family: str = "efficientnet") -> dict[str, Any]:
        from kerastune import export
        from kerastune.recipe import Export

        if family not in made:
            wanted = [Export(format=f, quantize=q, max_accuracy_drop=0.1) for f, q in modes]
            made[family] = {a.manifest["name"]: a for a in export(trained(family), wanted)}
        return made[family]

    return make


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Callable[[Any], Any]]:
    """A copy of an artifact that a test may damage."""
    import shutil

    from kerastune.verifying import artifact

    yield lambda of: artifact.load(shutil.copytree(of.folder, tmp_path / of.folder.name))


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def chat_preset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a tiny language model, and a chat template if one is given."""
    made: dict[tuple[str, str | None], Path] = {}

    def make(family: str = "Qwen3", template: str | None = CHATML) -> Path:
        if (family, template) not in made:
            import tiny

            folder = made[family, template] = tmp_path_factory.mktemp("chat-presets") / family
            tiny.causal_lm(family).save_to_preset(str(folder))
            if family == "Llama3":  # KerasHub 0.32 does not save this one setting
                from kerastune.training import saving

                task = tiny.causal_lm(family)
                for part in saving._parts(task):
                    saving._write_in(part, folder)
            if template is not None:
                (folder / "chat_template.jinja").write_text(template, "utf-8")
        return made[family, template]

    return make


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of 16 prompts and responses to train on, and 4 each to choose by and to test with."""
    import json

    words = ["sun", "sea", "fog", "gull", "rope", "salt", "tide", "wind"]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"{words[i % 8]} {i // 8}?",
            "response": f"{words[(i * 3 + i // 8) % 8]}!",
            "split": "train" if i < 16 else "validation" if i < 20 else "test",
        }
        for i in range(24)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


@pytest.fixture(scope="session")
def chat_recipe(pairs: Path, chat_preset: Callable[..., Path]) -> Callable[..., Any]:
    """A recipe on the pairs; keyword arguments replace its top-level keys, `data` only the keys it has."""
    from kerastune.recipe import parse

    def make(family: str = "Qwen3", template: str | None = CHATML, data: Any = None, **changes: Any) -> Any:
        values = {
            "name": family.lower(),
            "task": "causal_lm",
            "preset": str(chat_preset(family, template)),
            "data": {"source": "jsonl", "path": str(pairs), "split_column": "split", **(data or {})},
            "samples": {"count": 2, "max_tokens": 8},
            "train": {"batch_size": 8},
            "phases": [{"epochs": 2, "learning_rate": 1e-2}],
        }
        return parse({**values, **changes}, "test")

    return make

"""Shared fixtures: fetched assets, tiny real presets, a folder of pictures, and runs trained on them."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 50, 40)}


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    """Children that need TensorFlow fork, in a session of tests, from one process that has imported it."""
    from kerastune import child

    with child.forking():
        yield


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Has a folder or a file written once a session: by the worker of pytest-xdist that comes first; others wait.

    All tests of the session read it, so none may change it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
                write(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def export_once(once: Once) -> Callable[[Any, list[Any]], dict[str, Any]]:
    """The artifacts of a run of `trained` by name, exported and verified once a session."""
    from kerastune import export
    from kerastune.recipe import export_name
    from kerastune.verifying import artifact

    def make(of: Any, wanted: list[Any]) -> dict[str, Any]:
        names = [export_name(one) for one in wanted]
        once(f"exports/{of.folder.name}-{'-'.join(names)}", lambda _: export(of, wanted))
        return {name: artifact.load(of.exports / name) for name in names}

    return make


@pytest.fixture(scope="session")
def assets_home(once: Once) -> Path:
    """A KERASTUNE_HOME with the quickstart's assets. KERASTUNE_TEST_HOME keeps it from one session to the next."""
    from kerastune import assets

    kept = os.environ.get("KERASTUNE_TEST_HOME")

    def fetch(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KERASTUNE_HOME", kept or str(folder))
            for name in ("efficientnet-lite0-imagenet", "fashion-mnist"):
                assets.fetch(name)

    home = once("home", fetch)
    return Path(kept) if kept else home


@pytest.fixture(scope="session")
def pictures(once: Once) -> Path:
    """Three labels, 40 noisy single-colour pictures each, in three sizes."""

    def write(folder: Path) -> None:
        random = np.random.default_rng(0)
        for label, color in COLORS.items():
            (folder / label).mkdir(parents=True)
            for i in range(40):
                height, width = [(32, 32), (40, 56), (50, 36)][i % 3]
                pixels = np.array(color) + random.normal(0, 25, (height, width, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i:02}.png")

    return once("pictures", write)


@pytest.fixture(scope="session")
def pieces(once: Once) -> Path:
    """Striped pieces: 120 good ones, 12 with a bright spot (and its mask), and 12 with other stripes."""

    def piece(random: np.random.Generator, wave: float) -> Any:
        rows = np.arange(32)[:, None] + random.uniform(0, 8)
        return 128 + 50 * np.sin(rows * wave) + random.normal(0, 6, (32, 32))

    def write(folder: Path) -> None:
        random = np.random.default_rng(0)
        for kind, count in {"good": 120, "spot": 12, "stripes": 12}.items():
            (folder / kind).mkdir(parents=True)
            for i in range(count):
                grey, mask = piece(random, 1.6 if kind == "stripes" else 0.8), np.zeros((32, 32), np.uint8)
                if kind == "spot":
                    y, x = random.integers(2, 25, 2)
                    mask[y : y + 5, x : x + 5] = 255
                    grey[mask > 0] = random.uniform(0, 255, 25)
                    (folder / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(folder / "ground_truth" / kind / f"{i:03}_mask.png")
                pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
                Image.fromarray(pixels).save(folder / kind / f"{i:03}.png")

    return once("pieces", write)


@pytest.fixture(scope="session")
def hits(once: Once) -> Path:
    """Hits of ten kits: high and low tones that fade, and noise; below hits/<label>/<kit>."""

    def write(folder: Path) -> None:
        import sounds

        random = np.random.default_rng(0)
        for kit in range(10):
            for label, hertz in {"high": 3000, "low": 300, "noise": 0}.items():
                for n in range(4):
                    sound = sounds.noise(0.2, seed=kit * 100 + n, level=0.3 if label == "noise" else 0.01)
                    sound += sounds.tone(hertz * random.uniform(0.9, 1.1), 0.2) if hertz else 0
                    faded = sound * np.exp(-np.arange(len(sound)) / 800).astype(np.float32)
                    sounds.write(folder / label / f"kit{kit}" / f"{n}.wav", faded.clip(-1, 1))

    return once("hits", write)


@pytest.fixture(scope="session")
def sound_preset(once: Once) -> Path:
    """A folder with a tiny Whisper."""
    import tiny

    return once("presets/whisper", tiny.sound_preset)


@pytest.fixture(scope="session")
def moonshine(once: Once) -> Path:
    """A folder with a tiny Moonshine."""
    import tiny

    return once("presets/moonshine", tiny.moonshine_preset)


@pytest.fixture(scope="session")
def speech_preset(once: Once) -> Path:
    """A folder with a tiny Whisper that writes letters."""
    import tiny

    return once("presets/speech", tiny.speech_preset)


@pytest.fixture(scope="session")
def spoken(once: Once) -> Path:
    """A table of 48 sounds: each is one to three tones, and its transcript has a word for each tone."""

    def write(folder: Path) -> None:
        import sounds

        words, random = {"do": 300, "mi": 900, "so": 2700}, np.random.default_rng(0)
        rows = []
        for i in range(48):
            said = [list(words)[n] for n in random.integers(0, 3, 1 + i % 3)]
            tones = [sounds.tone(words[word] * random.uniform(0.97, 1.03), 0.2, level=0.4) for word in said]
            sounds.write(
                folder / f"{i:02}.wav", np.concatenate(tones) + sounds.noise(0.2 * len(said), seed=i, level=0.01)
            )
            split = "train" if i < 32 else "validation" if i < 40 else "test"
            rows.append({"audio": f"{i:02}.wav", "text": " ".join(said), "split": split})
        (folder / "spoken.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")

    return once("spoken", write)


@pytest.fixture(scope="session")
def speech_recipe(spoken: Path, speech_preset: Path) -> Callable[..., Any]:
    """A recipe on the tones; keyword arguments replace its top-level keys, `data` only the keys it has."""
    from kerastune.recipe import parse

    def make(data: Any = None, **changes: Any) -> Any:
        values = {
            "name": "tones",
            "task": "speech_to_text",
            "preset": str(speech_preset),
            "data": {
                "source": "jsonl",
                "path": str(spoken / "spoken.jsonl"),
                "split_column": "split",
                "window": 1.0,
                **(data or {}),
            },
            "train": {"batch_size": 8, "xla": False, "precision": "float32"},
            "phases": [{"unfreeze": "all", "lora": False, "epochs": 3, "learning_rate": 1e-2}],
        }
        return parse({**values, **changes}, "test")

    return make


@pytest.fixture(scope="session")
def preset(once: Once) -> Callable[[str], Path]:
    """A folder with a tiny preset of a family."""
    names = {"efficientnet": "EfficientNet", "mobilenet": "MobileNet", "resnet": "ResNet", "vit": "ViT"}

    def write(family: str, folder: Path) -> None:
        import tiny

        tiny.image_preset(names[family], folder)

    return lambda family: once(f"presets/{family}", partial(write, family))


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
def texts(once: Once) -> Path:
    """A CSV of 120 sentences about animals and vehicles, of two lengths, with a rating and a second sentence each."""
    nouns = {"animal": ["cat", "dog", "emu", "yak"], "vehicle": ["car", "bus", "van", "bike"]}

    def write(path: Path) -> None:
        random = np.random.default_rng(0)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "pair", "label", "labels", "rating"])
            for i in range(120):
                label = ("animal", "vehicle")[i % 2]
                noun, words = nouns[label][i // 2 % 4], ["big", "old", "red", "slow", "fast"]
                more = " ".join(random.choice(words, 3 if i % 3 else 12))
                both = "|".join([label, *(["old"] if "old" in more else [])])
                rows.writerow([f"the {noun} is {more}", f"a {noun} {i}", label, both, i % 2 + ("old" in more) / 2])

    return once("texts.csv", write)


@pytest.fixture(scope="session")
def text_preset(once: Once) -> Callable[[str], Path]:
    """A folder with a tiny preset of a text family, tokenizer included."""
    import tiny

    def make(family: str) -> Path:
        return once(f"text-presets/{family}", lambda folder: tiny.text_classifier(family).save_to_preset(str(folder)))

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
def embedder_preset(once: Once) -> Callable[[str], Path]:
    """A folder with a tiny text embedder."""
    import tiny

    def make(family: str) -> Path:
        return once(f"embedder-presets/{family}", lambda folder: tiny.text_embedder(family).save_to_preset(str(folder)))

    return make


@pytest.fixture(scope="session")
def trained(once: Once, recipe: Callable[..., Any]) -> Callable[[str], Any]:
    """A run of a family on the pictures."""
    from kerastune import fine_tune, run

    return lambda family: run.load(once(f"runs/{family}", lambda folder: fine_tune(recipe(family), folder)))


@pytest.fixture(scope="session")
def exported(
    trained: Callable[[str], Any], export_once: Callable[[Any, list[Any]], dict[str, Any]]
) -> Callable[[str], dict[str, Any]]:
    """Every format and quantisation of a family's run: name -> artifact."""
    from kerastune.recipe import Export

    modes = [("saved_model", "none"), ("tflite", "none"), ("tflite", "dynamic"), ("tflite", "int8"), ("onnx", "none")]
    wanted = [Export(format=f, quantize=q, max_accuracy_drop=0.1) for f, q in modes]
    return lambda family: export_once(trained(family), wanted)


@pytest.fixture
def copied_run(tmp_path: Path) -> Callable[[Any], Any]:
    """A copy of a run, without its exports, that a test may change."""
    from kerastune import run

    without = shutil.ignore_patterns("exports")  # other workers may write there
    return lambda of: run.load(shutil.copytree(of.folder, tmp_path / "run", ignore=without))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Any], Any]:
    """A copy of an artifact that a test may damage."""
    from kerastune.verifying import artifact

    return lambda of: artifact.load(shutil.copytree(of.folder, tmp_path / of.folder.name))


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def chat_preset(once: Once) -> Callable[..., Path]:
    """A folder with a tiny language model, and a chat template if one is given."""

    def write(family: str, template: str | None, folder: Path) -> None:
        import tiny

        tiny.causal_lm(family).save_to_preset(str(folder))
        if family == "Llama3":  # KerasHub 0.32 does not save this one setting
            from kerastune.training import saving

            task = tiny.causal_lm(family)
            for part in saving._parts(task):
                saving._write_in(part, folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, "utf-8")

    def make(family: str = "Qwen3", template: str | None = CHATML) -> Path:
        kind = sha256(str(template).encode()).hexdigest()[:8]
        return once(f"chat-presets-{kind}/{family}", partial(write, family, template))

    return make


@pytest.fixture(scope="session")
def pairs(once: Once) -> Path:
    """A jsonl file of 16 prompts and responses to train on, and 4 each to choose by and to test with."""
    words = ["sun", "sea", "fog", "gull", "rope", "salt", "tide", "wind"]
    rows = [
        {
            "prompt": f"{words[i % 8]} {i // 8}?",
            "response": f"{words[(i * 3 + i // 8) % 8]}!",
            "split": "train" if i < 16 else "validation" if i < 20 else "test",
        }
        for i in range(24)
    ]
    return once("pairs.jsonl", lambda path: path.write_text("\n".join(map(json.dumps, rows)), "utf-8"))


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

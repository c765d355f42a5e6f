"""Hostile files, names and mappings in place of a recipe, and plans that no machine can follow."""

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from attack.campaign import Trial
from kerastune import read_recipe
from kerastune.errors import KerastuneError
from kerastune.recipe import Recipe

BIG = "x" * 1_000_000
DIGITS = "9" * 5000


# --- what must hold ----------------------------------------------------------------------------------------


def taken(folder: Path, given: dict[str, Any] | None, make: Callable[[], Recipe]) -> Recipe:
    """Reads a recipe; asserts that it says what was given, and reads back equal from the file that a run keeps."""
    try:
        recipe = make()
    except KerastuneError as error:
        assert all(c.isprintable() or c == "\n" for c in str(error)), f"unprintable: {str(error)[:200]!a}"
        assert max(map(len, str(error).splitlines())) < 1000, "a line without end"
        raise
    kept = folder / "kept.toml"
    kept.write_text(recipe.to_toml(), "utf-8", newline="")
    again = read_recipe(kept)
    assert again == recipe, "reads back as another recipe"
    assert again.sha256() == recipe.sha256(), "reads back with another hash"
    if given:
        _assert_same(given, recipe.model_dump(mode="json"), ())
    return recipe


def _assert_same(given: Any, got: Any, path: tuple[Any, ...]) -> None:
    """Asserts that every given value is in the recipe, unchanged but for paths, which become absolute."""
    if isinstance(given, dict):
        for key, value in given.items():
            _assert_same(value, got[key], (*path, key))
    elif isinstance(given, list | tuple):
        assert len(given) == len(got), f"{path}: {given!r} became {got!r}"
        for n, (one, other) in enumerate(zip(given, got, strict=True)):
            _assert_same(one, other, (*path, n))
    elif path[-1] in ("path", "images", "data_dir", "preset"):
        assert got == given or os.path.isabs(got), f"{path}: {given!r} became {got!r}"
    elif path[-1] != "lora":  # false is no adapters
        assert type(given) is type(got) or isinstance(got, float), f"{path}: {given!r} became {got!r}"
        assert given == got, f"{path}: {given!r} became {got!r}"


# --- written by hand ---------------------------------------------------------------------------------------

_TASK = 'task = "image_classification"\npreset = "efficientnet-lite0-imagenet"\n'
_MINIMAL = _TASK + 'data = { source = "folder", path = "photos" }\n[[phases]]\nunfreeze = "head"\n'
CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "the smallest recipe": (_MINIMAL, "work"),
    "with a byte order mark": (_MINIMAL.encode("utf-8-sig"), "work"),
    "with CRLF": (_MINIMAL.replace("\n", "\r\n"), "work"),
    "with odd names": (_MINIMAL.replace("photos", 'ä "quoted"\\\\ \\u202e\\t'.replace('"', '\\"')), "work"),
    "a learning rate of a whole number": (_MINIMAL + "learning_rate = 1\n", "work"),
    "a hundred phases": (_MINIMAL + '[[phases]]\nunfreeze = "top:1"\n' * 99, "work"),
    "UTF-16": (_MINIMAL.encode("utf-16"), "refuse"),
    "UTF-16 without a mark": (_MINIMAL.encode("utf-16-le"), "refuse"),
    "UTF-32": (_MINIMAL.encode("utf-32"), "refuse"),
    "Latin-1": (_MINIMAL.replace("photos", "caf\xe9").encode("latin-1"), "refuse"),
    "NUL": (_MINIMAL.replace("photos", "a\0b"), "refuse"),
    "CR alone": (_MINIMAL.replace("\n", "\r"), "work"),
    "nothing": ("", "refuse"),
    "only comments": ("# task\n" * 100, "refuse"),
    "YAML": ("task: image_classification\ndata:\n  source: folder\n  path: photos\n", "refuse"),
    "JSON": (json.dumps({"task": "causal_lm", "phases": []}, indent=1), "refuse"),
    "INI": ("[train]\nbatch_size: 8\n; comment\n", "refuse"),
    "Python": ("import os\nos.system('true')\n", "refuse"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "refuse"),
    "the same key twice": (_TASK + _MINIMAL, "refuse"),
    "the same table twice": (_MINIMAL + "[train]\nxla = true\n[train]\nseed = 1\n", "refuse"),
    "a table and a list": (_MINIMAL + "[phases]\nepochs = 1\n", "refuse"),
    "task = []": (_MINIMAL.replace('"image_classification"', "[]"), "refuse"),
    "no task": (_MINIMAL.split("\n", 1)[1], "refuse"),
    "phases = []": (_MINIMAL.partition("[[")[0] + "phases = []", "refuse"),
    "phases in single brackets": (_MINIMAL.replace("[[", "[").replace("]]", "]"), "refuse"),
    "5,000 digits": (_MINIMAL + f"epochs = {DIGITS}\n", "refuse"),
    "1e400": (_MINIMAL + "learning_rate = 1e400\n", "refuse"),
    "epochs = 1e30": (_MINIMAL + "epochs = 1e30\n", "refuse"),
    "epochs = 10**30": (_MINIMAL + f"epochs = {10**30}\n", "refuse"),
    "batch_size = 2**63 - 1": (_MINIMAL + f"[train]\nbatch_size = {2**63 - 1}\n", "refuse"),
    "20,000 unknown keys": (_MINIMAL + "".join(f"key{n} = {n}\n" for n in range(20_000)), "refuse"),
    "60 long unknown keys": (_MINIMAL + "".join(f"{n}{'k' * 10_000} = 1\n" for n in range(60)), "refuse"),
    "60 wrong long values": (_TASK + "phases = [" + ('{unfreeze = "' + "u" * 9000 + '"}, ') * 60 + "]", "refuse"),
    "a key of 900 kB": (_MINIMAL + "k" * 900_000 + " = 1\n", "refuse"),
    "a text of 900 kB": (_MINIMAL.replace("photos", "p" * 900_000), "refuse"),
    "1,000 nested lists": (_MINIMAL + f"x = {'[' * 1000}{']' * 1000}\n", "refuse"),
    "90,000 nested lists": (_MINIMAL + f"x = {'[' * 90_000}{']' * 90_000}\n", "refuse"),
    "1,000 nested tables": (_MINIMAL + f"x = {'{a = ' * 1000}1{'}' * 1000}\n", "refuse"),
    "a key with 10,000 dots": (_MINIMAL + "a." * 10_000 + "a = 1\n", "refuse"),
    "a key with 400,000 dots": (_MINIMAL + "a." * 400_000 + "a = 1\n", "refuse"),
    "a table with 400,000 dots": (_MINIMAL + f"[{'a.' * 400_000}a]\n", "refuse"),
    "30,000 exports": (_MINIMAL + '[[exports]]\nformat = "onnx"\n' * 30_000, "refuse"),
    "9,000 exports with names": (
        _MINIMAL + "".join(f'[[exports]]\nformat = "onnx"\nname = "e{n}"\n' for n in range(9000)),
        "refuse",
    ),
    "25,000 phases": (_MINIMAL + '[[phases]]\nunfreeze = "top:1"\n' * 25_000, "refuse"),
    "2 MB of comments": ("#" * 2_000_000, "refuse"),
    "half a character": (_MINIMAL.replace("photos", "\\ud83d"), "refuse"),
    "a control character": (_MINIMAL.replace("photos", "a\x07b"), "refuse"),
    "one number for a truth value": (_MINIMAL + "[train]\nxla = 1\n", "refuse"),
    "a regular expression without end": (
        _MINIMAL.replace('"head"', '"match:' + "(" * 5000 + ")" * 5000 + '"'),
        "refuse",
    ),
    "names of the same folder": (_MINIMAL + '[[exports]]\nname = "a"\nformat = "onnx"\n' * 2, "refuse"),
    "a name that leaves its folder": (_MINIMAL + '[[exports]]\nname = "../x"\nformat = "onnx"\n', "refuse"),
    "a recipe's name that leaves its folder": ('name = "../x"\n' + _MINIMAL, "refuse"),
    "a name of 300 characters": (f'name = "{"n" * 300}"\n' + _MINIMAL, "refuse"),
    "a name with a line break": ('name = "a\\n"\n' + _MINIMAL, "refuse"),
}


def contents(folder: Path) -> Iterator[Trial]:
    for what, (text, must) in CONTENTS.items():

        def run(text: str | bytes = text) -> None:
            (folder / "content.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
            taken(folder, None, lambda: read_recipe(folder / "content.toml"))

        yield Trial(f"a file: {what}", run, must)


def references(folder: Path) -> Iterator[Trial]:
    """What can stand in place of a recipe's file or name."""
    kinds = folder / "kinds"
    kinds.mkdir()
    os.mkfifo(kinds / "pipe.toml")
    (kinds / "folder.toml").mkdir()
    (kinds / "loop.toml").symlink_to(kinds / "loop.toml")
    (kinds / "nowhere.toml").symlink_to(kinds / "nothing")
    (kinds / "zero.toml").symlink_to("/dev/zero")
    (kinds / "recipe.yaml").write_text("task: causal_lm\n")
    (kinds / "recipe.json").write_text("{}")
    there = [str(path) for path in sorted(kinds.iterdir())]
    words = [
        "",
        ".",
        "..",
        "/",
        "~",
        "~nobody-here/x.toml",
        "QUICKSTART",
        "quickstart ",
        "quickstart/",
        "quickstart.toml",
    ]
    words += [
        "/dev/zero",
        "/dev/null",
        "/proc/self/mem",
        "/dev/stdin/x.toml",
        "n" * 300,
        f"{'n' * 300}.toml",
        "a\0b",
        "a\0.toml",
    ]
    words += [
        "\x1b[31m.toml",
        "\x1b[31m",
        "line\nbreak.toml",
        "\ud800.toml",
        "\udcff/x.toml",
        f"{'d/' * 3000}x.toml",
        "💥",
        BIG,
    ]
    words += ["http://example.org/a.toml", "hf://x/y", "--help", "quickstrat", "../../recipes/quickstart.toml"]
    for word in (*there, *words):
        yield Trial(f"recipe {word!r:.80}", lambda word=word: taken(folder, None, lambda: read_recipe(word)), "refuse")


def mappings(folder: Path) -> Iterator[Trial]:
    """What only a mapping can hold."""
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    whole = {**tomllib.loads(_MINIMAL)}
    hostile: dict[str, Any] = {
        "a list in itself": {**whole, "x": nested},
        "a table in itself": {**whole, "data": itself},
        "itself": itself,
        "a list of 1,000,000": {**whole, "phases": [whole["phases"][0]] * 1_000_000},
        "keys that are no text": {**whole, 1: 2, None: 3, b"x": 4, ("a",): 5},
        "inner keys that are no text": {**whole, "train": {1: 2, None: 3}},
        "half a character": {**whole, "data": {"source": "folder", "path": "a\ud83d"}},
        "half a character in a key": {**whole, "\ud83d": 1},
        "half a character in an expression": {**whole, "phases": [{"unfreeze": "match:\ud83d"}]},
        "1 MB as a name": {**whole, "name": BIG},
        "an empty one": {},
        "a name that is a list": {**whole, "name": []},
    }
    for what, values in hostile.items():
        yield Trial(f"a mapping: {what}", lambda v=values: taken(folder, None, lambda: read_recipe(v)), "refuse")
    as_path = {**whole, "data": {"source": "folder", "path": Path("photos")}}
    yield Trial("a mapping: a path", lambda: taken(folder, None, lambda: read_recipe(as_path)), "work")


# --- plans -------------------------------------------------------------------------------------------------


def plans(folder: Path) -> Iterator[Trial]:
    """Plans of a tiny model on 3,000 tiny pictures."""

    @cache
    def ready() -> dict[str, Any]:
        import tiny
        from PIL import Image

        random = np.random.default_rng(0)
        for i in range(3000):
            path = folder / "many" / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
        tiny.image_preset("EfficientNet", folder / "preset")
        data = {"source": "folder", "path": str(folder / "many"), "image_size": 32}
        return {**tomllib.loads(_MINIMAL), "preset": str(folder / "preset"), "data": data}

    for must, *overrides in (
        ("work", "train.batch_size=8"),
        ("work", "train.batch_size=1000000", "phases.0.epochs=1000000"),
        ("work", "phases.0.gradient_accumulation=1000000", "phases.0.unfreeze=all"),
        ("refuse", "data.image_size=4096", "train.batch_size=1000000"),
        ("refuse", "data.image_size=4096", "train.batch_size=3000", "phases.0.unfreeze=all"),
        ("refuse", "phases.0.unfreeze=match:nothing"),
        ("refuse", "phases.0.unfreeze=top:9999"),
        ("refuse", "train.cache=disk", "phases.0.unfreeze=all"),
    ):

        def run(overrides: list[str] = overrides) -> None:
            from kerastune.training.plan import plan

            assert plan(taken(folder, None, lambda: read_recipe(ready(), overrides))).memory_mb

        yield Trial(f"plan {overrides}", run, must)

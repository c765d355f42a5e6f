"""Recipes: shipped ones with mutations, hostile files, mappings and overrides, and plans that no machine can follow."""

import copy
import datetime
import math
import tomllib
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from attack.campaign import Campaign, Trial
from attack.recipe_files import DIGITS, contents, mappings, plans, references, taken
from kerastune import read_recipe
from kerastune.errors import quoted
from kerastune.recipe import find, shipped

BIG = "x" * 20_000
Random = np.random.Generator
Mutation = Callable[[Random, dict[str, Any]], object]

ODD = ["", " ", "\0", "a\0b", "\x1b[31mred", "line\nbreak", "\u202eevil", "e\u0301", "\N{GRINNING FACE}", "﷽" * 50, BIG]
PATHS = [
    "../../etc/passwd",
    "/dev/zero",
    "~nobody-here/x",
    "//host/share",
    "C:\\x",
    "p" * 5000,
    "file:///etc/passwd",
    ".",
]
VALUES: list[Any] = [
    *(True, False, 0, -1, 1, 2, 3.0, 0.5, -0.0, 1e30, -1e30, 5e-324, math.inf, -math.inf, math.nan),
    *(2**31, 2**63 - 1, -(2**63), 2**64, int(DIGITS[:4000])),
    *([], [[]], [{}], {}, {"": ""}, {"a": {"b": 1}}, ["x"], [1, "x", {}], [[0]] * 500),
    *(
        "linux",
        "none",
        "auto",
        "all",
        "top:2",
        "top:0",
        "match:",
        "match:(",
        "match:a{99999999999}",
        "match:.*",
        "head",
    ),
    *(
        "10 steps",
        "0 steps",
        "2026-01-31",
        "2026-02-31",
        "nan",
        "true",
        "1",
        "csv",
        "folder",
        "train",
        "${HOME}",
        "{x}",
    ),
    *(datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 1, 2, 3), datetime.time(1, 2)),
    *ODD,
    *PATHS,
]
UNTYPED: list[Any] = [  # what a mapping can hold, but a file cannot
    *(None, b"bytes", 10**5000, Decimal("NaN"), np.float32(1), np.int64(3), np.zeros(3), "\ud800", 1j, object, id),
    *({1, 2}, (1, 2), range(3), iter([1]), Path("photos"), {1: 2}, {None: 1}, {"\ud800": 1}, {b"a": 1}),
]
KEYS = [
    "",
    " ",
    "trian",
    "data.path",
    "__class__",
    "model_config",
    "name\n",
    "\x1b[2J",
    "ключ",
    "k" * 300,
    BIG,
    "source",
]


# --- mutations of good recipes -----------------------------------------------------------------------------

FULL = """
seed = 3
train = { xla = "auto", precision = "float32", early_stopping = 2, checkpoint_every = "5 steps", tensorboard = true }
[[phases]]
unfreeze = "match:block[12]"
learning_rates = { "block1" = 1e-3, "block2" = 2e-3 }
clip_norm = 1.0
lora = { rank = 4, alpha = 8.0, targets = ["query", "value"], bias = true }
gradient_accumulation = 2
[[exports]]
format = "tflite"
quantize = "auto"
name = "small"
max_accuracy_drop = 0.5
max_size_mb = 3.5
max_latency_ms = 10
"""
DATA = {
    "image_classification": {
        "source": "csv",
        "path": "a.csv",
        "images": "photos",
        "delimiter": ";",
        "regression": True,
    },
    "text_classification": {"source": "parquet", "path": "a.parquet", "label_separator": "|", "pair_column": "b"},
    "text_embedding": {"source": "jsonl", "path": "a.jsonl", "anchor_column": "q", "positive_column": "a"},
    "causal_lm": {"source": "jsonl", "path": "a.jsonl", "messages_column": "m", "today": "2026-01-31", "system": "Hi"},
}


def good(random: Random) -> dict[str, Any]:
    """A shipped recipe, or one with most keys."""
    name = str(random.choice(shipped()))
    values = {"name": name, **tomllib.loads(find(name)[1])}
    if random.random() < 0.5:
        values |= tomllib.loads(FULL) | {"data": dict(DATA.get(values["task"], values["data"]))}
    return values


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key's path, outer and inner."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


def somewhere(random: Random, values: dict[str, Any]) -> tuple[Any, Any]:
    """A table or list in a recipe, and a key of it."""
    paths = list(places(values))
    *parents, last = paths[random.integers(len(paths))]
    node: Any = values
    for parent in parents:
        node = node[parent]
    return node, last


def one_of(random: Random, values: list[Any]) -> Any:
    return copy.deepcopy(values[random.integers(len(values))])


def replace(random: Random, values: dict[str, Any]) -> object:
    node, key = somewhere(random, values)
    node[key] = value = one_of(random, VALUES)
    return key, value


def scale(random: Random, values: dict[str, Any]) -> object:
    numbers = [
        (node, key)
        for node, key in (somewhere(random, values) for _ in range(50))
        if type(node[key]) in (int, float)  # not bool
    ]
    for node, key in numbers[:1]:
        node[key] = type(node[key])(node[key] * float(random.choice([-1, 0, 0.5, 2, 10, 1e3, 1e9])))
    return [(key, node[key]) for node, key in numbers[:1]]


def delete(random: Random, values: dict[str, Any]) -> object:
    node, key = somewhere(random, values)
    del node[key]
    return key


def add(random: Random, values: dict[str, Any]) -> object:
    node, _ = somewhere(random, values)
    key, value = one_of(random, KEYS), one_of(random, VALUES)
    node.append(value) if isinstance(node, list) else node.update({key: value})
    return key, value


def swap(random: Random, values: dict[str, Any]) -> object:
    (a, i), (b, j) = somewhere(random, values), somewhere(random, values)
    a[i], b[j] = copy.deepcopy(b[j]), copy.deepcopy(a[i])
    return i, j


def multiply(random: Random, values: dict[str, Any]) -> object:
    key, times = random.choice(["phases", "exports"]), int(random.choice([2, 50, 1000]))
    there = values.get(key)  # an earlier change may have put anything there
    tables = [dict(one) for one in there if isinstance(one, dict)] if isinstance(there, list) else [{}]
    values[key] = (tables * times)[:2000]
    return key, times


MUTATIONS: list[Mutation] = [replace, replace, scale, scale, delete, add, swap, multiply]


def mutated(random: Random, folder: Path, n: int) -> Trial:
    """A good recipe with one to three mutations, as a file or as a mapping."""
    values = good(random)
    said = [str(one_of(random, MUTATIONS)(random, values))[:80] for _ in range(random.integers(1, 4))]
    as_file = random.random() < 0.6
    if not as_file and random.random() < 0.5:
        node, key = somewhere(random, values) if values else (values, "seed")
        node[key] = UNTYPED[random.integers(len(UNTYPED))]
        said.append(f"{key} = {quoted(node[key])}")

    def run() -> None:
        path = folder / "mutated.toml"
        if as_file:
            try:
                path.write_bytes(tomli_w.dumps(values).encode())
            except RecursionError:  # two mutations have put a table into itself
                return
        taken(folder, None if _untyped(values) else values, lambda: read_recipe(path if as_file else values))

    return Trial(f"{values.get('name')!r:.30} with {'; '.join(said)}", run)


def _untyped(values: Any) -> bool:
    """Whether a mapping holds what a recipe cannot say, so that what becomes of it is not compared."""
    if isinstance(values, dict):
        return any(map(_untyped, values.values()))
    if isinstance(values, list):
        return any(map(_untyped, values))
    return not isinstance(values, str | int | float)


def scribbled(random: Random, folder: Path, n: int) -> Trial:
    """The text of a shipped recipe, with bytes changed, cut, doubled or moved."""
    text = bytearray(find(str(random.choice(shipped())))[1].encode())
    kind = str(random.choice(["bytes", "cut", "double", "move", "lines"]))
    a, b = sorted(map(int, random.integers(0, len(text), 2)))
    if kind == "bytes":
        for at in random.integers(0, len(text), random.integers(1, 9)):
            text[at] = random.integers(256)
    elif kind == "cut":
        del text[a:b]
    elif kind == "double":
        text[a:a] = text[a:b]
    elif kind == "move":
        text = text[b:] + text[a:b] + text[:a]
    else:
        lines = bytes(text).splitlines(keepends=True)
        text = bytearray(b"".join(lines[i] for i in random.permutation(len(lines))))

    def run() -> None:
        (folder / "scribbled.toml").write_bytes(text)
        taken(folder, None, lambda: read_recipe(folder / "scribbled.toml"))

    return Trial(f"scribbled {n}: {kind} {a} to {b}", run)


def overridden(random: Random, folder: Path, n: int) -> Trial:
    """A shipped recipe with a hostile override; a good one must be taken."""
    keys = [
        "phases.0.epochs",
        "train.batch_size",
        "seed",
        "data",
        "phases",
        "exports.0",
        "task",
        "data.path",
        "name",
        "a.b",
    ]
    keys += [
        "phases.-1.epochs",
        f"phases.{DIGITS}.epochs",
        "train.",
        ".seed",
        "..",
        "seed.x.y",
        "phases.0",
        "__class__.x",
    ]
    key, value = one_of(random, keys), one_of(random, [v for v in VALUES if isinstance(v, str)] + _TEXTS)
    name = str(random.choice(shipped()))
    said = f"{key}={value}" if random.random() < 0.95 else str(value)
    return Trial(f"{name} -s {said!r:.80}", lambda: taken(folder, None, lambda: read_recipe(name, [said])))


_TEXTS = [
    *(
        "[" * 5000,
        "{a=" * 500,
        DIGITS,
        f"0x{'f' * 5000}",
        "1e400",
        "-nan",
        "1\nseed=2",
        "1 # x",
        "'''a\nb'''",
        '"\\ud800"',
    ),
    *(
        '"\\u0000"',
        "[{unfreeze='head'}]",
        "{}",
        "[]",
        "=",
        "==1",
        "'",
        '"',
        "1979-05-27T07:32:00Z",
        "\ud800",
        "3",
        "1e-3",
    ),
]


# --- the campaign ------------------------------------------------------------------------------------------


def trials(random: Random, folder: Path) -> Iterator[Trial]:
    written = [*contents(folder), *references(folder), *mappings(folder)]
    by_hand = iter([written[i] for i in random.permutation(len(written))])
    drawn = (make(random, folder, n) for n in range(1_000_000) for make in (mutated, mutated, scribbled, overridden))
    planned, each = plans(folder), range(1_000_000)
    early = chain.from_iterable((*islice(by_hand, 1), *islice(drawn, 2)) for _ in range(10))
    late = chain.from_iterable((*islice(by_hand, 1), *islice(planned, 1), *islice(drawn, 2)) for _ in each)
    return chain(early, late)  # plans need TensorFlow, which a short draw does not load


CAMPAIGN = Campaign("recipes", "mutated and hostile recipes, mappings and overrides", 400, trials)

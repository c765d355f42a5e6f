"""The package's shape: imports point one way, TensorFlow is imported where it is needed, readers need no kerastune."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Container, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from kerastune.exporting.extras import EXTRAS
from kerastune.formats import FORMATS
from kerastune.modalities import MODALITIES
from kerastune.recipe import target
from kerastune.targets import answers
from kerastune.targets import artifact as reader
from kerastune.tasks.learnt import LEARNT
from kerastune.verifying.runtimes import RUNTIMES

ROOT = Path(__file__).parents[1]

# The rooms, in the order of the work. What stands in a row may import the rows before it and what is left of it there.
ROOMS = [
    *("targets", "errors", "records", "progress"),
    *("locks", "files", "environment", "forkserver", "child", "keras_private", "weights", "formats"),
    *("assets", "recipe"),
    *("modalities", "data", "run", "unfinished"),
    *("tasks", "workers", "training"),
    *("verifying", "serving", "exporting"),
    *("predicting", "reporting"),
    *("cli", "__main__"),
]

HEAVY = {
    "scipy",
    "sklearn",
    "tensorflow",
    "keras",
    "keras_hub",
    "tensorflow_datasets",
    "onnx",
    "tf2onnx",
    "ai_edge_litert",
}
# The rest imports them inside functions, or never.
SERVER = tuple(f"serving.{name}" for name in ("server", "signatures", "tensors", "raw_texts", "warmup"))
MAY_BE_HEAVY = ("training", "workers.group", "exporting.rehearsal", *SERVER, "keras_private", "weights")
LIGHT_TASKS = {"contract", "learnt", "wanted", "heads", "sound_device", "text_device", "device", "settings"}


def modules() -> dict[Path, str]:
    """Every file of the package, and its room: the module or folder directly below kerastune that it belongs to."""
    package = ROOT / "kerastune"
    files = [path for path in sorted(package.rglob("*.py")) if path != package / "__init__.py"]
    return {path: path.relative_to(package).parts[0].removesuffix(".py") for path in files}


def statements(node: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, those for type checkers too; those inside functions only if `lazy`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if lazy or not is_function:
            yield from statements(child, lazy)


def imported(source: str, *, lazy: bool) -> set[str]:
    """Dotted names that a source imports: `from a import b` is a.b."""
    found = set()
    for statement in statements(ast.parse(source), lazy):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        else:
            assert not statement.level, "imports are absolute"
            found |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def within(names: set[str]) -> set[str]:
    """Rooms among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("kerastune.")}


def may_be_heavy(module: str) -> bool:
    if module.startswith("kerastune.tasks"):
        return not set(module.split(".")[1:]) & LIGHT_TASKS and module != "kerastune.tasks"
    return module.removeprefix("kerastune.").startswith(MAY_BE_HEAVY)


@pytest.mark.parametrize(("path", "room"), modules().items(), ids=lambda x: x.name if isinstance(x, Path) else x)
def test_imports_follow_the_order_of_the_work(path: Path, room: str) -> None:
    assert room in ROOMS, f"give {room} a place in ROOMS"
    others = within(imported(path.read_text("utf-8"), lazy=True)) - {room}
    assert others <= set(ROOMS[: ROOMS.index(room)])


@pytest.mark.parametrize("room", sorted(set(modules().values())))
def test_no_two_modules_of_a_room_import_each_other(room: str) -> None:
    inside = {path: dotted(path) for path, its in modules().items() if its == room}
    reads = {name: imported(path.read_text("utf-8"), lazy=False) for path, name in inside.items()}
    graph = {name: read_from(names, reads) - {name} for name, names in reads.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_from(names: set[str], modules: Container[str]) -> set[str]:
    """Modules that imported names are, or are something of: of two, one below the other, the lower."""
    ways = ([".".join(parts[:n]) for n in range(len(parts), 0, -1)] for parts in (name.split(".") for name in names))
    return {found for way in ways if (found := next((one for one in way if one in modules), None))}


def test_only_who_trains_imports_heavy_packages_when_it_is_imported() -> None:
    reads = {dotted(path): imported(path.read_text("utf-8"), lazy=False) for path in modules()}
    needs = {name: read_from(its, reads) for name, its in reads.items()}
    needs = {name: its | {name.rpartition(".")[0]} & reads.keys() for name, its in needs.items()}  # and its package
    heavy = {name for name, its in reads.items() if tops(its) & HEAVY}
    while more := {name for name, its in needs.items() if its & heavy} - heavy:
        heavy |= more
    assert not [name for name in sorted(heavy) if not may_be_heavy(name)]


_PRIVATE = {"_flatten_layers", "_layers", "_trainable_variables", "_non_trainable_variables", "_inbound_nodes"}
_PRIVATE |= {"_outbound_nodes", "_keras_history", "_seed_generators", "_kernel", "_embeddings", "_functional"}
_PRIVATE |= {
    "_standardize_inputs",
    "_inputs_struct",
    "_outputs_struct",
    "_untrack_variable",
    "_build_cache",
    "_iterations",
}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.name)
def test_private_names_of_keras_stand_in_one_module(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & _PRIVATE
    inside = {
        name for name in imported(path.read_text("utf-8"), lazy=True) if name.startswith(("keras.src", "keras_hub.src"))
    }
    assert path.name == "keras_private.py" or not used | inside


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.name)
def test_only_the_command_line_prints(path: Path) -> None:
    source = path.read_text("utf-8")
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert not prints
    assert path.relative_to(ROOT / "kerastune").parts[0] == "cli" or not tops(imported(source, lazy=True)) & {
        "click",
        "rich",
    }


NAMED = {*FORMATS, *target.names(), *RUNTIMES}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_asks_for_a_format_a_target_or_a_runtime_by_name(path: Path) -> None:
    """Their rows and folders say what they need; `if format == "tflite"` would be a row of its own elsewhere."""
    if path.parent.name in ("formats", "prefix"):  # onnxruntime is also a way to run a frozen prefix
        return
    compared = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Compare)]
    names = [one.value for node in compared for one in ast.walk(node) if isinstance(one, ast.Constant)]
    assert not NAMED & {name for name in names if isinstance(name, str)}


def test_the_facade_imports_nothing_of_kerastune_until_it_is_asked() -> None:
    code = "import sys, kerastune; sys.exit(any(name.startswith('kerastune.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "export").glob("*/reader.py")), ids=lambda path: path.parent.name)
def test_a_reader_needs_numpy_and_its_runtime_only(path: Path) -> None:
    names = tomllib.loads(path.with_name("target.toml").read_text("utf-8"))["runtimes"]
    packages = {RUNTIMES[name].package.replace("-", "_") for name in names}
    if path.parent.name == "tf-serving":  # a client; saved_model.py beside it runs the model
        packages |= {"grpc", "saved_model", "tensorflow_serving"}
    packages |= {"torch"} if "transformers" in packages else set()
    allowed = sys.stdlib_module_names | {"numpy", "artifact", "chats", "operators", "speech"} | packages
    assert tops(imported(path.read_text("utf-8"), lazy=True)) <= allowed


@pytest.mark.parametrize(
    ("name", "lazily", "always"),
    [
        ("artifact", {"answers"}, set()),
        ("answers", set(), set()),
        ("images", {"PIL"}, set()),
        ("audio", {"soundfile", "soxr"}, set()),
        ("containers", {"av"}, set()),
        ("recordings", set(), set()),
        ("speech", set(), set()),
        ("texts", set(), {"tokenizers"}),
        ("chats", {"tokenizers"}, {"jinja2"}),
        ("operators", set(), {"tensorflow"}),
    ],
)
def test_what_readers_share_needs_numpy_and_little_else(name: str, lazily: set[str], always: set[str]) -> None:
    source, allowed = (ROOT / "export" / f"{name}.py").read_text("utf-8"), sys.stdlib_module_names | {"numpy"} | always
    assert tops(imported(source, lazy=False)) <= allowed
    assert tops(imported(source, lazy=True)) <= allowed | lazily


def test_every_modality_has_a_reader_and_every_kind_of_truth_an_answer() -> None:
    assert set(reader.EXAMPLES) == set(MODALITIES) and set(answers.ANSWERS) == set(LEARNT)
    for name, module in reader.EXAMPLES.items():
        assert f"{module}.py" in MODALITIES[name].readers


def test_every_target_has_a_reader_and_says_where_it_runs() -> None:
    targets = [path for path in (ROOT / "export").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert targets
    for folder in targets:
        assert {"reader.py", "target.toml"} <= {path.name for path in folder.iterdir()}
        assert set(tomllib.loads((folder / "target.toml").read_text("utf-8")).get("extras", ())) <= set(EXTRAS)


@pytest.mark.parametrize(
    ("source", "lazy", "expected"),
    [
        ("from kerastune import cli", False, {"kerastune.cli"}),
        ("import tensorflow.keras as k", False, {"tensorflow.keras"}),
        ("try:\n    import keras\nexcept ImportError:\n    pass", False, {"keras"}),
        ("class A:\n    import keras", False, {"keras"}),
        ("def f():\n    import keras", False, set()),
        ("def f():\n    import keras", True, {"keras"}),
        ("if TYPE_CHECKING:\n    import keras", True, {"keras"}),
    ],
)
def test_the_rules_above_see_every_kind_of_import(source: str, lazy: bool, expected: set[str]) -> None:
    assert imported(source, lazy=lazy) == expected

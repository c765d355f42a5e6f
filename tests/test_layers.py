"""The package's shape: imports point one way, TensorFlow is imported where it is needed, readers need no kerastune."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kerastune.runtimes import RUNTIMES

ROOT = Path(__file__).parents[1]

# A module may import those before it. A new module has to be given its place here.
ORDER = [
    "targets",
    "errors",
    "child",
    "memory",
    "support",
    "progress",
    "assets",
    "target",
    "recipe",
    "data",
    "scoring",
    "run",
    "tasks",
    "tokenizer",
    "hugging_face",
    "optimizers",
    "lora",
    "phases",
    "cache",
    "features",
    "trace",
    "formats",
    "forward",
    "checkpoint",
    "saving",
    "feed",
    "loop",
    "train",
    "lr_finder",
    "artifact",
    "warmup",
    "server",
    "serving",
    "runtimes",
    "microcontroller",
    "verifier",
    "exporter",
    "rehearsal",
    "inference",
    "search",
    "benchmark",
    "report",
    "doctor",
    "terminal",
    "cli",
    "__main__",
]

# Stricter than the order: these know nothing else of kerastune.
KNOWS = {
    "errors": set(),
    "child": {"errors"},
    "memory": set(),
    "support": set(),
    "tokenizer": {"errors", "targets", "tasks"},
    "hugging_face": {"errors", "targets", "tokenizer"},
    "trace": {"hugging_face", "run", "progress", "tasks", "targets", "tokenizer"},
    "runtimes": {"artifact", "assets", "child", "errors", "targets"},
    "progress": set(),
    "formats": set(),
    "assets": {"errors"},
    "target": {"errors"},
    "recipe": {"errors", "assets", "target"},
    "data": {"errors", "recipe", "assets"},
    "optimizers": {"recipe"},
    "lora": {"errors", "recipe"},
    "phases": {"errors", "recipe", "optimizers", "lora"},
    "cache": {"errors", "assets"},
    "features": {"cache", "phases"},
    "forward": {"child", "errors", "progress", "cache", "features", "trace", "formats"},
    "checkpoint": {"errors"},
    "saving": {"errors", "lora"},
    "scoring": set(),
    "run": {"errors", "progress", "recipe", "data"},
    "artifact": {"errors", "run"},
    "terminal": {"errors", "progress"},
    "__main__": {"cli"},
}

HEAVY = {"tensorflow", "keras", "keras_hub", "tensorflow_datasets", "onnx", "tf2onnx", "ai_edge_litert"}
# The rest imports TensorFlow inside functions, or never.
MAY_BE_HEAVY = {"optimizers", "lora", "phases", "features", "forward", "tasks", "saving"}
MAY_BE_HEAVY |= {"server", "warmup", "feed", "loop", "train", "lr_finder", "rehearsal"}


def modules() -> dict[Path, str]:
    """Every file of the package, and which module or sub-package directly below kerastune it belongs to."""
    package = ROOT / "kerastune"
    files = [path for path in sorted(package.rglob("*.py")) if path != package / "__init__.py"]
    return {path: path.relative_to(package).parts[0].removesuffix(".py") for path in files}


def statements(node: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements; those inside functions only if `lazy`, those for type checkers never."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types and (lazy or not is_function):
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
    """Modules directly below kerastune among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("kerastune.")}


@pytest.mark.parametrize(("path", "module"), modules().items(), ids=lambda x: x.name if isinstance(x, Path) else x)
def test_imports_point_one_way(path: Path, module: str) -> None:
    assert module in ORDER, f"give {module} a place in ORDER"
    others = within(imported(path.read_text("utf-8"), lazy=True)) - {module}
    assert others <= set(ORDER[: ORDER.index(module)])
    assert others <= KNOWS.get(module, others)
    assert "cli" not in others or module == "__main__"


@pytest.mark.parametrize(("path", "module"), modules().items(), ids=lambda x: x.name if isinstance(x, Path) else x)
def test_only_who_trains_imports_tensorflow_when_it_is_imported(path: Path, module: str) -> None:
    if module not in MAY_BE_HEAVY:
        found = imported(path.read_text("utf-8"), lazy=False)
        assert not tops(found) & HEAVY
        assert not within(found) & MAY_BE_HEAVY


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.name)
def test_only_the_command_line_prints(path: Path) -> None:
    source = path.read_text("utf-8")
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert not prints
    assert path.name in ("cli.py", "terminal.py") or not tops(imported(source, lazy=True)) & {"click", "rich"}


def test_the_facade_imports_nothing_of_kerastune_until_it_is_asked() -> None:
    assert within(imported((ROOT / "kerastune" / "__init__.py").read_text("utf-8"), lazy=False)) == set()


@pytest.mark.parametrize("reader", sorted((ROOT / "export").glob("*/reader.py")), ids=lambda path: path.parent.name)
def test_a_reader_needs_numpy_and_its_runtime_only(reader: Path) -> None:
    names = tomllib.loads(reader.with_name("target.toml").read_text("utf-8"))["runtimes"]
    packages = {RUNTIMES[name].package.replace("-", "_") for name in names}
    if reader.parent.name == "tf-serving":  # a client; saved_model.py beside it runs the model
        packages |= {"grpc", "saved_model", "tensorflow_serving"}
    packages |= {"torch"} if "transformers" in packages else set()
    allowed = sys.stdlib_module_names | {"numpy", "classify", "chats"} | packages
    assert tops(imported(reader.read_text("utf-8"), lazy=True)) <= allowed


def test_what_readers_share_needs_numpy_and_pillow_only_for_files() -> None:
    source = (ROOT / "export" / "classify.py").read_text("utf-8")
    assert tops(imported(source, lazy=False)) <= sys.stdlib_module_names | {"numpy"}
    assert tops(imported(source, lazy=True)) <= sys.stdlib_module_names | {"numpy", "PIL", "texts", "chats"}


def test_what_makes_tokens_needs_numpy_and_tokenizers_only() -> None:
    source = (ROOT / "export" / "texts.py").read_text("utf-8")
    assert tops(imported(source, lazy=True)) <= sys.stdlib_module_names | {"numpy", "tokenizers"}


def test_every_target_has_a_reader_and_says_where_it_runs() -> None:
    targets = [path for path in (ROOT / "export").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert targets
    for target in targets:
        assert {"reader.py", "target.toml"} <= {path.name for path in target.iterdir()}


@pytest.mark.parametrize(
    ("source", "lazy", "expected"),
    [
        ("from kerastune import cli", False, {"kerastune.cli"}),
        ("import tensorflow.keras as k", False, {"tensorflow.keras"}),
        ("try:\n    import keras\nexcept ImportError:\n    pass", False, {"keras"}),
        ("class A:\n    import keras", False, {"keras"}),
        ("def f():\n    import keras", False, set()),
        ("def f():\n    import keras", True, {"keras"}),
        ("if TYPE_CHECKING:\n    import keras", True, set()),
    ],
)
def test_the_rules_above_see_every_kind_of_import(source: str, lazy: bool, expected: set[str]) -> None:
    assert imported(source, lazy=lazy) == expected

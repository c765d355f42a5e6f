"""Finds, reads and validates a recipe."""

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from kerastune.errors import RecipeError, listed, printable, quoted, shortened
from kerastune.recipe.base import MAX_NAME
from kerastune.recipe.explain import did_you_mean, explain
from kerastune.recipe.exports import Export
from kerastune.recipe.override import override, unreadable
from kerastune.recipe.settings import Recipe

_LARGEST = 1_000_000  # bytes of a recipe
# A key of many parts, which takes Python's reader a time that grows with their square.
_DEEP = re.compile(r"""(?<![\w"'-])(?:(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){200}""")


def recipes() -> dict[str, type[Recipe]]:
    """Returns the settings class of each task.

    A task's settings live with the task, and tasks build on recipes. So only here does the lower room use the upper
    one: by the names in `kerastune.tasks.TASKS`, and only when a recipe is read.
    """
    rows: dict[str, str] = import_module("kerastune.tasks").TASKS
    return {task: import_module(f"{where}.settings").RECIPE for task, where in rows.items()}


def shipped() -> list[str]:
    """Returns the names of the shipped recipes."""
    return sorted(f.name[:-5] for f in files("kerastune.recipes").iterdir() if f.name.endswith(".toml"))


def find(reference: str | os.PathLike[str]) -> tuple[str, str]:
    """Returns a recipe's name and text, from a shipped recipe's name or a file's path.

    Raises:
        RecipeError: there is no such recipe, or the file is not UTF-8 text.
    """
    name = os.fspath(reference)
    path = Path(os.path.expanduser(name))
    is_path = path.suffix == ".toml" or os.sep in name or (os.path.isfile(path) and name not in shipped())
    if is_path:
        return path.stem, _text(path)
    if name in shipped():
        return name, files("kerastune.recipes").joinpath(f"{name}.toml").read_text("utf-8")
    raise RecipeError(
        f"There is no recipe called {quoted(name)}{did_you_mean(name, shipped())}.",
        f"Shipped recipes: {', '.join(shipped())}. For your own file, give its path, ending in .toml.",
    )


def _text(path: Path) -> str:
    full = shortened(printable(str(path.absolute())))
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # a pipe would block
            raise RecipeError(f"{full} cannot be read as text: it is not a file.")
        if found.st_size > _LARGEST:
            raise RecipeError(f"{full} has {found.st_size:,} bytes, but a recipe can have at most {_LARGEST:,}.")
        text = path.read_text("utf-8-sig")
        if "\0" in text:
            raise RecipeError(f"{full} holds NUL characters; it may be UTF-16.", "Save the file as UTF-8.")
        return text
    except FileNotFoundError:
        raise RecipeError(
            f"There is no file {full}.", "kerastune recipes copy NAME DEST copies a recipe to start from."
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{full} cannot be read as text: {shortened(str(error))}.", "Save the file as UTF-8."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RecipeError(f"{full} cannot be read as text: {shortened(str(error))}.") from error


def read(reference: str | os.PathLike[str] | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe, applies overrides, and validates the whole.

    Args:
        reference: a shipped recipe's name, a TOML file's path, or the content of such a file.
        overrides: a sequence of `a.b=value`, applied in order.

    Raises:
        RecipeError: with every problem in one message.
    """
    if isinstance(reference, Mapping):
        name, origin = "recipe", "The recipe"
        try:
            values = _copied(reference)
        except RecursionError as error:
            raise RecipeError(f"The recipe cannot be read: {unreadable(error)}.") from error
    else:
        (name, text), origin = find(reference), shortened(printable(os.fspath(reference)))
        values = _loaded(text, origin)
    for assignment in [overrides] if isinstance(overrides, str) else overrides:
        override(values, assignment)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:MAX_NAME] or "recipe"
    return parse({"name": name, **values}, origin)


def _loaded(text: str, origin: str) -> dict[str, Any]:
    if _DEEP.search(text):
        raise RecipeError(f"{origin} cannot be read: it has a key of more than 200 parts.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        is_other = origin.endswith((".yaml", ".yml", ".json"))
        hint = "A recipe is a TOML file" if is_other else "Texts need quotes"
        raise RecipeError(
            f"{origin} is not valid TOML: {shortened(str(error))}.", f"{hint}; see https://toml.io for the syntax."
        ) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{origin} cannot be read: {unreadable(error)}.") from error


def _copied(value: Any) -> Any:
    """Returns a copy whose tables and lists can be changed, with paths as text."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner) for inner in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def parse(values: Mapping[str, Any], origin: str) -> Recipe:
    """Validates the content of a recipe; `origin` names it in messages."""
    known, task = recipes(), values.get("task")
    is_known = isinstance(task, str) and task in known
    found: list[tuple[type[Recipe], list[ErrorDetails]]] = []
    for recipe in [known[str(task)]] if is_known else known.values():
        try:
            return recipe.model_validate(values)
        except ValidationError as error:
            found.append((recipe, error.errors(include_url=False)))
    # If the task is unknown, report the problems of the closest one.
    recipe, problems = min(found, key=lambda refused: len(refused[1]))
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    raise RecipeError(
        f"{origin} has {count}:\n{listed(problems, lambda problem: explain(problem, recipe, known))}",
        "kerastune recipes schema prints every key; kerastune recipes show NAME prints an example.",
    )


def parse_export(values: Mapping[str, Any]) -> Export:
    """Validates an export from outside a recipe, with the same messages."""
    try:
        return Export.model_validate(values)
    except ValidationError as error:
        problems = [explain({**p, "loc": ("exports", 0, *p["loc"])}, Recipe) for p in error.errors(include_url=False)]
    raise RecipeError("; ".join(problem.removeprefix("exports.0").lstrip(".: ") for problem in problems))


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a recipe, for editors."""
    any_task: Any = Annotated[Union[*recipes().values()], Field(discriminator="task")]
    schema = TypeAdapter(any_task).json_schema()
    for recipe in recipes().values():
        schema["$defs"][recipe.__name__]["required"].remove("name")  # the default is the file's name
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

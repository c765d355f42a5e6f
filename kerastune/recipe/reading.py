"""Finds, reads and validates a recipe."""

import functools
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter, ValidationError

from kerastune.errors import RecipeError
from kerastune.recipe.explain import did_you_mean, explain
from kerastune.recipe.exports import Export
from kerastune.recipe.override import override
from kerastune.recipe.settings import Recipe


@functools.cache
def recipes() -> dict[str, type[Recipe]]:
    """The settings class of each task.

    A task's settings live with the task, and tasks are built on recipes. So this is the one place where the lower room
    asks the upper one: by the names in `kerastune.tasks.TASKS`, and only when a recipe is read.
    """
    rows: dict[str, str] = import_module("kerastune.tasks").TASKS
    return {task: import_module(f"{where}.settings").RECIPE for task, where in rows.items()}


def shipped() -> list[str]:
    """Names of the recipes that come with kerastune."""
    return sorted(f.name[:-5] for f in files("kerastune.recipes").iterdir() if f.name.endswith(".toml"))


def find(reference: str) -> tuple[str, str]:
    """A recipe's name and text, from a shipped recipe's name or a file's path.

    Raises:
        RecipeError: there is no such recipe, or the file is not UTF-8 text.
    """
    path = Path(os.path.expanduser(reference))
    is_path = path.suffix == ".toml" or os.sep in reference or (path.is_file() and reference not in shipped())
    if not is_path and reference in shipped():
        return reference, files("kerastune.recipes").joinpath(f"{reference}.toml").read_text("utf-8")
    if not is_path:
        raise RecipeError(
            f"There is no recipe called {reference!r}{did_you_mean(reference, shipped())}.",
            f"Shipped recipes: {', '.join(shipped())}. For a file of yours, give its path, ending in .toml.",
        )
    try:
        return path.stem, path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"There is no file {path.absolute()}.",
            "kerastune recipes copy NAME DEST makes a recipe of your own to start from.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.absolute()} cannot be read as text: {error}.") from error


def read(reference: str, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe by name or path, applies `a.b=value` overrides, and validates the whole.

    Raises:
        RecipeError: with every problem in one message.
    """
    name, text = find(reference)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(
            f"{reference} is not valid TOML: {error}.",
            "Texts need quotes; see https://toml.io for the syntax.",
        ) from error
    for assignment in [overrides] if isinstance(overrides, str) else overrides:
        override(values, assignment)
    return parse({"name": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "recipe", **values}, reference)


def parse(values: Mapping[str, Any], origin: str) -> Recipe:
    """Validates a recipe that is already a dict; `origin` names it in messages."""
    known, task = recipes(), values.get("task")
    found: list[list[str]] = []
    for recipe in [known[task]] if task in known else known.values():
        try:
            return recipe.model_validate(values)
        except ValidationError as error:
            found.append([explain(problem, recipe, known) for problem in error.errors()])
    problems = min(found, key=len)  # where the task is not known, those of the one that was probably meant
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise RecipeError(
        f"{origin} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems),
        "kerastune recipes schema prints every key there is; kerastune recipes show NAME prints an example.",
    )


def parse_export(values: Mapping[str, Any]) -> Export:
    """An export that was asked for outside a recipe; the same problems, the same words."""
    try:
        return Export.model_validate(values)
    except ValidationError as error:
        problems = [explain({**p, "loc": ("exports", 0, *p["loc"])}, Recipe) for p in error.errors()]
    raise RecipeError("; ".join(problem.removeprefix("exports.0").lstrip(".: ") for problem in problems))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    any_task: Any = Annotated[Union[*recipes().values()], Field(discriminator="task")]
    schema = TypeAdapter(any_task).json_schema()
    for recipe in recipes().values():
        schema["$defs"][recipe.__name__]["required"].remove("name")  # the file's name stands in
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

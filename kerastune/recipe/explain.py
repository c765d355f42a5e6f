"""Explains what is wrong with a recipe: the key's path, the received value, and a suggestion."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from kerastune.errors import printable, quoted, shortened

_LONGEST_WORD = 200  # characters of a name; comparing longer ones takes long


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Returns a suggestion in brackets, or nothing."""
    if not isinstance(word, str) or len(word) > _LONGEST_WORD:
        return ""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def explain(problem: ErrorDetails, recipe: type[BaseModel], tasks: Iterable[str] = ()) -> str:
    """Explains one pydantic error in one line.

    Args:
        recipe: the settings class that refused.
        tasks: the allowed values of `task`.
    """
    path, table = _locate(problem["loc"], recipe)
    where = ".".join(shortened(printable(part)) for part in path) or "recipe"
    received = quoted(problem["input"])
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(path[-1], table.model_fields)}"
    if kind == "missing":
        return f"{where}: is missing"
    if kind.startswith("union_tag"):
        sources = _by_source(_tables(recipe.model_fields["data"].annotation))
        there = ", ".join(f'"{source}"' for source in sources)
        if kind == "union_tag_not_found":
            return f"{where}.source: is missing; one of {problem['ctx']['discriminator']} = {there}"
        tag = str(problem["ctx"]["tag"])
        return f"{where}.source: {quoted(tag)} is not a source{did_you_mean(tag, sources)}; use one of {there}"
    if kind == "literal_error":
        expected = " or ".join(map(repr, tasks)) if where == "task" else problem["ctx"]["expected"]
        near = did_you_mean(problem["input"], re.findall(r"'([^']*)'", expected))
        return f"{where}: {received} is not one of {expected}{near}"
    if kind == "tuple_type":
        is_of_tables = where in recipe.model_fields and _tables(recipe.model_fields[where].annotation)
        return f"{where}: must be a list" + (
            f" of tables, each under [[{where}]]" if is_of_tables else f", not {received}"
        )
    if kind == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    message = problem["msg"].replace("Input should be", "must be")
    return f"{where}: {message[0].lower()}{message[1:]}; received {received}"


def _locate(loc: tuple[int | str, ...], recipe: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """Returns a pydantic location as the user's key path, and the settings class that owns its last key.

    If a table can have several classes, pydantic adds the source's name to the location, which users never wrote.
    """
    path: list[str] = []
    owner, tables = recipe, [recipe]
    for part in loc:
        if len(tables) > 1 and (chosen := _by_source(tables).get(str(part))):
            tables = [chosen]
            continue
        path.append(str(part))
        if isinstance(part, str) and tables:
            owner = tables[0]
            field = owner.model_fields.get(part)
            tables = _tables(field.annotation) if field else []
    return path, owner


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """Returns the settings classes in a type: `tuple[Phase, ...]` holds Phase."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for inner in get_args(annotation) for table in _tables(inner)]


def _by_source(tables: Iterable[type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """Returns the settings classes of [data] by their sources."""
    return {
        source: table
        for table in tables
        if "source" in table.model_fields
        for source in get_args(table.model_fields["source"].annotation)
    }

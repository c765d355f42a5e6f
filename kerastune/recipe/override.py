"""Overrides: `-s phases.0.epochs=3`."""

import tomllib
from typing import Any

from kerastune.errors import RecipeError


def override(values: dict[str, Any], assignment: str) -> None:
    """Sets one key of a recipe that is not yet validated.

    Args:
        assignment: `a.b=value`, where the value is TOML, or a bare word.

    Raises:
        RecipeError: there is no such place.
    """
    key, equals, text = assignment.partition("=")  # only the first "=": values may hold more
    if not equals or not key.strip():
        raise RecipeError(f"-s {assignment!r} is not KEY=VALUE.", "For example: -s train.batch_size=64")
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a text, so that shells need no double quoting
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"-s {assignment!r} sets more than one key.", "Use one -s for each.") from error
    *parents, last = key.strip().split(".")
    node: Any = values
    for depth, part in enumerate(parents):
        node = _step(node, part, ".".join(parents[: depth + 1]), assignment)
    if isinstance(node, list):
        node[_index(node, last, key, assignment)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"-s {assignment}: {'.'.join(parents)} is {node!r}, which has no key {last!r}.")


def _step(node: Any, part: str, where: str, assignment: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, where, assignment)]
    if not isinstance(node, dict):
        raise RecipeError(f"-s {assignment}: there is nothing below {where.rpartition('.')[0]}, it is {node!r}.")
    return node.setdefault(part, {})


def _index(node: list[Any], part: str, where: str, assignment: str) -> int:
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    raise RecipeError(
        f"-s {assignment}: {where.rpartition('.')[0]} has {len(node)} entries, so {part!r} is not one of them.",
        f"Count from 0: use 0 to {len(node) - 1}." if node else None,
    )

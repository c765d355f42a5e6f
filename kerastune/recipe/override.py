"""Applies overrides: `-s phases.0.epochs=3`."""

import tomllib
from typing import Any

from kerastune.errors import RecipeError, quoted, shortened


def override(values: dict[str, Any], assignment: str) -> None:
    """Sets one key of a recipe before validation.

    Args:
        assignment: `a.b=value`, where the value is TOML, or a bare word.

    Raises:
        RecipeError: the key cannot be set, or the value cannot be read.
    """
    key, equals, text = assignment.partition("=")  # only the first "=": values may hold more
    if not equals or not key.strip():
        raise RecipeError(f"-s {quoted(assignment)} is not KEY=VALUE.", "For example: -s train.batch_size=64")
    value = _value(text, assignment)
    *parents, last = key.strip().split(".")
    node: Any = values
    for depth, part in enumerate(parents):
        node = _step(node, part, ".".join(parents[: depth + 1]), assignment)
    if isinstance(node, list):
        node[_index(node, last, key, assignment)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise _refusal(assignment, f"{'.'.join(parents)} is {quoted(node)}, which has no key {quoted(last)}.")


def unreadable(error: Exception) -> str:
    """Returns why Python's TOML reader gave up on text that may be valid TOML."""
    return "it nests too deeply" if isinstance(error, RecursionError) else "a number has more than 4,300 digits"


def _value(text: str, assignment: str) -> Any:
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text  # a bare word is text, so that shells need no double quoting
    except (ValueError, RecursionError) as error:
        raise _refusal(assignment, f"{unreadable(error)}.") from error
    if len(read) > 1:
        raise RecipeError(f"-s {quoted(assignment)} sets more than one key.", "Use one -s for each.")
    return read["value"]


def _step(node: Any, part: str, where: str, assignment: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, where, assignment)]
    if not isinstance(node, dict):
        raise _refusal(assignment, f"there is nothing below {where.rpartition('.')[0]}, it is {quoted(node)}.")
    return node.setdefault(part, {})


def _index(node: list[Any], part: str, where: str, assignment: str) -> int:
    if part.isdecimal() and len(part) < 10 and int(part) < len(node):
        return int(part)
    raise _refusal(
        assignment,
        f"{where.rpartition('.')[0]} has {len(node)} entries, so {quoted(part)} is not one of them.",
        f"Count from 0: use 0 to {len(node) - 1}." if node else None,
    )


def _refusal(assignment: str, what: str, hint: str | None = None) -> RecipeError:
    return RecipeError(f"-s {shortened(assignment)}: {what}", hint)

"""Records that cross rooms: frozen dataclasses, checked when they are loaded."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

R = TypeVar("R")


@dataclass(frozen=True)
class Decision:
    """What a training does where a recipe leaves it to the machine.

    Attributes:
        key: the recipe's key, "train.precision", or what belongs to one, "train.cache forward".
        asked: what the recipe says: mostly "auto".
        got: what it came to.
        why: the reason, in a sentence.
        phase: which phase it holds for, from 1; None: for all.
        after: of "train.cache": the layers whose outputs are kept, or would be.
        bytes_per_example: of "train.cache": the size of these outputs.
    """

    key: str
    asked: bool | str
    got: bool | str
    why: str
    phase: int | None = None
    after: tuple[str, ...] = ()
    bytes_per_example: int | None = None


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON object, without what has its default."""
    found: dict[str, Any] = TypeAdapter(type(record)).dump_python(record, mode="json", exclude_defaults=True)
    return found


def from_json(kind: type[R], value: Any) -> R:
    """A record from a JSON object.

    Raises:
        pydantic.ValidationError: something is missing, or of another type.
    """
    return TypeAdapter(kind).validate_python(value)

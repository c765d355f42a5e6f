"""Reads conversations from rows of a CSV, JSON Lines or Parquet file, for language models."""

import json
from collections import Counter
from typing import Any

from kerastune.data import cells
from kerastune.data.contents import Contents
from kerastune.data.source import Example, Problem, Progress, Source, counted, named
from kerastune.data.sources.messages import turns_of
from kerastune.data.sources.table import all_rows, cleaned, in_column, placed
from kerastune.errors import DataError, quoted
from kerastune.modalities.conversation import Message
from kerastune.recipe.sources import ChatData

_EXAMPLE = 'A minimal line of a jsonl file:  {"prompt": "Where is Rome?", "response": "In Italy."}'


def examples(settings: ChatData, progress: Progress) -> Source:
    """Reads the conversations of one file, or of one file per split; each is a JSON list of {"role", "content"}.

    Raises:
        DataError: a file cannot be read in its format, or lacks a column.
    """
    found: list[Example] = []
    contents = Contents()
    problems: list[Problem] = []
    notes: Counter[str] = Counter()
    more: list[str] = []
    for n, (where, row, split) in enumerate(all_rows(settings, notes, more), start=1):
        messages = row if isinstance(row, str) else _conversation(settings, row, notes)
        place = (None, None) if isinstance(row, str) else placed(settings, row, split)
        if isinstance(messages, str):
            problems.append(Problem(where, messages))
        elif isinstance(place, Problem):
            problems.append(Problem(where, place.text))
        else:
            found.append(Example(where, (), *place))
            contents.append(json.dumps(messages, ensure_ascii=False).encode())
        if n % 10_000 == 0:
            progress("reading texts", len(found), 0)
    if not found and not problems:
        raise DataError(f"{named(settings.path)} holds no rows.", _EXAMPLE)
    return Source(
        where=named(settings.path),
        examples=found,
        read=contents.__getitem__,
        labels=(settings.messages_column or settings.response_column,),
        problems=tuple(problems),
        notes=(*more, *(f"{counted(count, 'row')}: {what}" for what, count in notes.items())),
    )


def _conversation(settings: ChatData, row: dict[str, Any], notes: Counter[str]) -> list[Message] | str:
    """Returns a row's turns, or what is wrong with them."""
    if settings.messages_column:
        found = turns_of(row[settings.messages_column], notes)
        return f"{found} (column {quoted(settings.messages_column)})" if isinstance(found, str) else found
    turns = []
    for role, column in (("user", settings.prompt_column), ("assistant", settings.response_column)):
        given = in_column(column, cells.text(row[column], "text"))
        if isinstance(given, Problem):
            return given.text
        if not (content := cleaned(notes, given)):
            return f"has no text in column {quoted(column)}"
        turns.append({"role": role, "content": content})
    return turns

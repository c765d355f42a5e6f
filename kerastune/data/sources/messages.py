"""Reads lists of messages in common forms: the turns of a conversation, or why they cannot be read."""

import json
from collections import Counter
from typing import Any

from kerastune.data import cells
from kerastune.data.source import Problem
from kerastune.data.sources.table import cleaned
from kerastune.errors import quoted
from kerastune.modalities.conversation import Message

ROLES = ("system", "user", "assistant", "tool")
_MEANT = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
}
_CALLS = ("tool_calls", "function_call")
_READ = ("role", "content", "from", "value", "weight", *_CALLS)


def turns_of(cell: Any, notes: Counter[str]) -> list[Message] | str:
    """Returns the turns in a cell, or what is wrong with them; `notes` counts corrections."""
    given = cells.plain(cell)
    if isinstance(given, str | bytes):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return "has no list of messages, but a text that is not JSON"
    if not isinstance(given, list) or not all(isinstance(turn, dict) for turn in given):
        return "has no list of messages"
    turns: list[Message] = []
    for number, turn in enumerate(given, start=1):
        found = _turn(turn, notes)
        if isinstance(found, str):
            return f"message {number} {found}"
        if found["role"] == "system" and number > 1:
            return f"message {number} is from 'system', which is only allowed first"
        turns.append(found)
    if not turns or turns[-1]["role"] != "assistant":
        return "does not end with a message from 'assistant'"
    if not any(turn["role"] == "assistant" and "weight" not in turn for turn in turns):
        return "has no message from 'assistant' to learn: all weights are 0"
    if unread := sorted({str(key) for turn in given for key in turn} - set(_READ)):
        notes[f"keys of messages that are not read: {quoted(', '.join(unread))}"] += 1
    return turns


def _turn(turn: dict[Any, Any], notes: Counter[str]) -> Message | str:
    said, content = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    role = _MEANT.get(str(said), said)
    if role not in ROLES:
        return f"is from {quoted(said)}, not one of {', '.join(ROLES)}"
    if role != said:
        notes[f"role {quoted(said)} read as {role!r}"] += 1
    if any(turn.get(key) for key in _CALLS):
        return f"calls a tool ({next(key for key in _CALLS if turn.get(key))}), which is not learnt"
    text = _content(content)
    if isinstance(text, Problem):
        return text.text
    if not (text := cleaned(notes, text)):
        return "has no text"
    weight = turn.get("weight", 1)
    if weight is None or role != "assistant":
        weight = 1
    if weight not in (0, 1):
        return f"has the weight {quoted(weight)}; only 0 and 1 are supported"
    return {"role": role, "content": text} | ({} if weight else {"weight": 0})


def _content(content: Any) -> str | Problem:
    """Returns a content as a text: unchanged, or joined from parts that are all text."""
    if not isinstance(content, list):
        return cells.text(content, "text")
    parts = []
    for part in content:
        one = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(one, dict) or one.get("type", "text") != "text":
            kind = one.get("type") if isinstance(one, dict) else cells.kind(one)
            return Problem("", f"holds a part of type {quoted(kind)}, but only texts are supported")
        found = cells.text(one.get("text"), "text")
        if isinstance(found, Problem):
            return found
        parts.append(found)
    return "".join(parts)

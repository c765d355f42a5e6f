"""Conversations in every layout, and chat templates that ask for more than there is."""

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from growing import GROWING

from attack.campaign import Trial
from attack.expected import Expected, content_of, examples, loaded, settings, shuffled
from kerastune.errors import KerastuneError

Random = np.random.Generator

ROLES: dict[Any, str | None] = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
    **dict.fromkeys(["System", "USER", " user", "ipython", "", None, 3, "x" * 100_000, "a\x1b[31m"]),
}
CONTENTS: list[Any] = [
    *("plain", "two\nlines", " spaces ", "nul\0", "👩‍👩‍👧", "\u202eevil", "{{ 7 * 7 }}", "x" * 100_000, 3, 0.5, True),
    *("", " ", None, math.nan, "\ud83d", {"a": 1}, [1], [{"type": "image_url"}], [{"type": "text"}], [[]], [None]),
    *(["a", "b"], [{"type": "text", "text": "a"}, {"text": "b"}], [{"type": "text", "text": ["c"]}], []),
]
WEIGHTS: list[Any] = [0, 1, 1.0, None, True, False, 0.5, 2, "1", [], "x" * 100_000]


def talk(random: Random) -> list[Any]:
    """A list of messages with one odd thing, or none."""
    turns: list[Any] = [{"role": "system", "content": "Be kind."}] if random.random() < 0.3 else []
    for i in range(random.integers(1, 4)):
        turns.append({"role": "user", "content": f"tide {i} {random.integers(10**9)}?"})
        turns.append({"role": "assistant", "content": f"low {i}"})
    turn = turns[random.integers(len(turns))]
    kind = str(random.choice(["none", "role", "content", "weight", "calls", "layout", "keys", "order"]))
    if kind == "role":
        turn["role"] = list(ROLES)[random.integers(len(ROLES))]
    elif kind == "content":
        turn["content"] = CONTENTS[random.integers(len(CONTENTS))]
    elif kind == "weight":
        turn["weight"] = WEIGHTS[random.integers(len(WEIGHTS))]
    elif kind == "calls":
        turn["tool_calls"] = [None, [], [{"id": 1}], "x", 0][random.integers(5)]
    elif kind == "layout":
        turns = [{"from": one["role"], "value": one["content"]} for one in turns]
    elif kind == "keys":
        turn["x\x1b[31m"] = 1
    elif kind == "order":
        turns = shuffled(random, turns)
    return turns


def meant(turns: Any) -> list[dict[str, Any]] | None:
    """The turns that a list is read as, by a second reading of the rules; None if it must be refused."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    found = []
    for number, turn in enumerate(turns):
        said, content = (turn["role"], turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
        role = ROLES.get(said)
        text = _content(content)
        weight = turn.get("weight", 1) if role == "assistant" else 1
        weight = 1 if weight is None else weight
        if role is None or text is None or (role == "system" and number) or turn.get("tool_calls"):
            return None
        if isinstance(weight, str | list) or weight not in (0, 1):
            return None
        found.append({"role": role, "content": text, **({} if weight else {"weight": 0})})
    learnt = any(turn["role"] == "assistant" and "weight" not in turn for turn in found)
    return found if found[-1]["role"] == "assistant" and learnt else None


def _content(content: Any) -> str | None:
    if not isinstance(content, list):
        return content_of(content)
    texts = []
    for part in content:
        one = part if isinstance(part, dict) else {"text": part if isinstance(part, str) else None}
        if one.get("type", "text") != "text" or not isinstance(one.get("text"), str):
            return None
        texts.append(one["text"])
    return content_of("".join(texts))


def conversations(random: Random, folder: Path, n: int) -> Trial:
    """Lists of messages, as lists or as a JSON text in a cell, half of them with something odd."""
    rows = [talk(random) for _ in range(12)]
    source = ("jsonl", "csv", "parquet")[n % 3]
    as_text = source != "jsonl" or bool(random.random() < 0.3)
    plain = [[{"role": "user", "content": f"plain {i}?"}, {"role": "assistant", "content": "yes"}] for i in range(30)]
    rows = shuffled(random, [*rows, *plain])
    path = folder / f"talks.{source}"

    def run() -> None:
        _write(path, source, [json.dumps(row) if as_text else row for row in rows])
        expected: Expected = {}
        for i, row in enumerate(rows, start=1):
            where = f"{path.name}, {'row' if source == 'parquet' else 'line'} {i + (source == 'csv')}"
            found = meant(json.loads(json.dumps(row)))
            expected[where] = (found, None) if found else None
        data = {"source": source, "path": str(path), "messages_column": "talk", "skip_bad": True}
        splits = loaded(settings("causal_lm", data))
        found_all, skipped = examples(splits), {one["id"] for one in splits.skipped}
        assert set(found_all) | skipped == set(expected), "lost or added rows"
        wrong = skipped ^ {id for id, values in expected.items() if values is None}
        assert not wrong, f"{sorted(wrong)[:2]}: {[one for one in splits.skipped if one['id'] in wrong][:2]!r:.300}"
        for id, values in found_all.items():
            assert values == expected[id], f"{id} is {values!r:.200}, not {expected[id]!r:.200}"

    return Trial(f"conversations {n} in {source}, as text {as_text}", run, "work")


def _write(path: Path, source: str, cells: list[Any]) -> None:
    if source == "jsonl":
        path.write_text("\n".join(json.dumps({"talk": cell}) for cell in cells))
    elif source == "csv":
        import csv

        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["talk"], *([cell] for cell in cells)])
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"talk": cells}), path)


# --- templates ---------------------------------------------------------------------------------------------

_ALL = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '<|im_end|>' }}\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
_LONG = "{% for i in range(99999) %}"
WORKING = [
    _ALL + _ASK,
    "{%- for m in messages -%}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}",
    "{% if tools is not none %}TOOLS{% endif %}{% if documents %}DOCS{% endif %}" + _ALL + _ASK,
    "{{ strftime_now('%Y') }}" + _ALL + _ASK,
    "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{{ m|tojson }}<|im_end|>{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = 1 %}{{ m.content }}<|im_end|>{% endfor %}",
    "{% macro say(m) %}{{ m.content }}<|im_end|>{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
]
HOSTILE = [
    *GROWING,
    "{% for i in range(10000000000) %}{% endfor %}",
    _LONG * 2 + "{% endfor %}" * 2,
    _LONG * 3 + "x" + "{% endfor %}" * 3,
    "{{ 'a' * 10000000000 }}",
    "{{ ('a' * 99999) * 99999 }}",
    "{% set a = 'a' * 99999 %}" + _LONG + "{{ a }}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=['ab']) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 'a'.zfill(10000000000) }}",
    "{{ 'a\\tb'.expandtabs(10000000000) }}",
    "{{ 'a' | indent(10000000000) }}",
    "{{ 'a b' | wordwrap(1) | center(10000000000) }}",
    "{{ '%999999999s' | format('a') }}",
    "{{ '{:>999999999}'.format('a') }}",
    "{{ ('a' * 99999).split('') }}",
    "{{ range(99999) | list | batch(1) | list | tojson * 999 }}",
    "{{ (range(99999) | list | tojson) * 99 }}",
    "{{ messages | tojson(indent=999999999) }}",
    "{{ [1, 2] | sum(start=10 ** 999) ** 999 }}",
    "{{ 1 << 10000000000 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends 'x' %}",
    "{{ undefined.attribute }}",
    "{{ raise_exception('no') }}",
    "{{ raise_exception('x' * 99999) }}",
    "{{ raise_exception('\x1b[31m\n\n') }}",
    "{{ strftime_now('%Y' * 99999) }}",
    "{{ strftime_now(1) }}",
    "{% if x %}" * 500 + "{% endif %}" * 500,
    "{% for a in b %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "not " * 100_000 + "1 }}",
    "{{ " + "1 + " * 20_000 + "1 }}",
    "{{ 'a' " + "~ 'a' " * 20_000 + "}}",
    "{{ a" + ".a" * 50_000 + " }}",
    "{{ a" + " | trim" * 20_000 + " }}",
    "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% set x %}" + _LONG + "aaaaaaaaaa" * 99 + "{% endfor %}{% endset %}",
    "x" * 200_001,
    "x" * 199_000,
    "{{",
    "{% for %}",
    "{% nothing %}",
    "\0",
    "",
    " ",
    "{# only a comment #}",
    "no messages at all",
    "{{ messages }}",
    "{{ messages[99].content }}",
    "{{ messages[0].content }}<|im_end|>",
    "{{ range(3) | random }}" + _ALL + _ASK,
    "{{ (messages | map(attribute='content') | join) * 999999 }}",
    "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' is match('(a+)+b') }}",
    "{{ ('<' * 99999) | striptags }}",
    "{{ ('http://a.b ' * 9999) | urlize }}",
    "{{ messages | groupby('x' * 99999) }}",
    "{{ lipsum(n=100000) }}",
    "{{ dict(a=1).update(a=2) }}",
    "{% set messages = 3 %}" + _ALL,
    "{% call m() %}{% endcall %}",
    "{% filter upper %}" * 300 + "{% endfilter %}" * 300,
    "{% trans %}a{% endtrans %}",
    "{% do messages %}",
    "{% raw %}" + "{{" * 1000,
]


@cache
def _preprocessor() -> Any:
    import tiny

    return tiny.causal_lm("Qwen3").preprocessor


def templates(folder: Path) -> Iterator[Trial]:
    for n, (source, must) in enumerate([*((one, "work") for one in WORKING), *((one, None) for one in HOSTILE)]):

        def run(n: int = n, source: str = source, must: str | None = must) -> None:
            from kerastune.targets import templates as limits
            from kerastune.tasks.causal_lm import chats

            preset = folder / f"preset{n}"
            preset.mkdir(exist_ok=True)
            (preset / "chat_template.jinja").write_text(source, "utf-8")
            (preset / "config.json").write_text("{}")
            limits.SECONDS, before = 1, limits.SECONDS
            try:
                data: Any = settings("causal_lm", {"source": "jsonl", "path": "x.jsonl"})
                chat = chats.chat_of(str(preset), _preprocessor(), data)
                assert chat.origin == "chat_template.jinja", chat.origin
                turns = [{"role": "user", "content": "sun?"}, {"role": "assistant", "content": "low"}]
                (spoken,) = chat.conversations([turns])
                assert "TOOLS" not in chat.render(turns)
            except KerastuneError as error:
                assert all(c.isprintable() or c == "\n" for c in str(error)), f"unprintable: {str(error)[:300]!a}"
                raise
            finally:
                limits.SECONDS = before
            learnt = [i for i, on in zip(spoken.ids, spoken.scored, strict=True) if on]
            assert "low" in chat.decode(learnt), f"learns {chat.decode(learnt)!r}"
            assert "sun?" not in chat.decode(learnt), f"learns {chat.decode(learnt)!r}"

        yield Trial(f"template {n}: {source[:80]!r}", run, must)


def texts_of_settings(folder: Path) -> Iterator[Trial]:
    """tokenizer_config.json in every form, in place of a template's file."""
    for n, (content, must) in enumerate(
        [
            (json.dumps({"chat_template": WORKING[0]}), "work"),
            (json.dumps({"chat_template": [{"name": "default", "template": WORKING[0]}]}), "work"),
            (json.dumps({"chat_template": None}), "work"),
            (json.dumps({}), "work"),
            ("[]", "refuse"),
            ("{", "refuse"),
            ("null", "refuse"),
            ("[" * 100_000, "refuse"),
            (json.dumps({"chat_template": [1]}), "refuse"),
            (json.dumps({"chat_template": [{"name": "default"}]}), "refuse"),
            (json.dumps({"chat_template": "x" * 1_000_000}), "refuse"),
            ('{"chat_template": ' + "9" * 5000 + "}", "refuse"),
        ]
    ):

        def run(n: int = n, content: str = content) -> None:
            from kerastune.tasks.causal_lm import chats

            preset = folder / f"settings{n}"
            preset.mkdir(exist_ok=True)
            (preset / "tokenizer_config.json").write_text(content)
            (preset / "config.json").write_text("{}")
            data: Any = settings("causal_lm", {"source": "jsonl", "path": "x.jsonl"})
            chats.chat_of(str(preset), _preprocessor(), data)

        yield Trial(f"tokenizer_config.json: {content[:60]}", run, must)

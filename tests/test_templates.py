"""Chat templates are rendered as transformers renders them, and take neither the machine's memory nor its time."""

import time
from pathlib import Path
from typing import Any

import pytest
from growing import GROWING

from kerastune.targets import templates

TURNS = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": 'Where is "Rome"?'},
    {"role": "assistant", "content": "In Italy.\n"},
]
KNOWN: dict[str, Any] = {
    "messages": TURNS,
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
}

SAME = [
    ("{% if tools is not none %}TOOLS{% else %}none{% endif %}", "none"),
    ("{% if documents %}DOCS{% endif %}{{ documents is none }}", "True"),
    ("{{ messages[0].content|tojson }}", '"Be <brief> & kind."'),
    ("{{ messages[0]|tojson(indent=1) }}", '{\n "role": "system",\n "content": "Be <brief> & kind."\n}'),
    ("{{ {'b': 'é', 'a': 1}|tojson(sort_keys=true, ensure_ascii=true) }}", '{"a": 1, "b": "\\u00e9"}'),
    ("{% for m in messages %}{{ m.role }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}", "systemuser"),
    (
        "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }},{% endfor %}",
        "system,assistant,",
    ),
    (
        "{% for m in messages %}{% generation %}{{ m.content|trim }}|{% endgeneration %}{% endfor %}",
        'Be <brief> & kind.|Where is "Rome"?|In Italy.|',
    ),
    (
        "{% for m in messages %}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 }} {% endfor %}",
        "False32 False31 True30 ",
    ),
    ("{% for m in messages if m.role != 'system' %}{{ m.role[0] ~ loop.index }}{% else %}-{% endfor %}", "u1a2"),
    ("{%- for k, v in messages[1].items() %}{{ k }}={{ v }};{%- endfor %}", 'role=user;content=Where is "Rome"?;'),
    ("{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "10"),
    ("{% macro say(t, n=2) %}{{ t * n }}{% endmacro %}{{ say('ab') }}{{ say('c', n=3) }}", "ababccc"),
    ("{{ messages|map(attribute='role')|join(' > ') }}", "system > user > assistant"),
    ("{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|length }}", "1"),
    ("{{ messages|join('-', attribute='role') }}", "system-user-assistant"),
    ("{{ '%05.1f %s' % (3.14159, 'x') }}{{ '{:>4}'.format('y') }}{{ '%s!' | format('z') }}", "003.1 x   yz!"),
    ("{{ messages[1].content.replace('Rome', 'Paris')|upper }}{{ ','.join(['a', 'b']) }}", 'WHERE IS "PARIS"?a,b'),
    ("{% set all %}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ all|length }}", "19"),
    ("{{ messages[-1]['content'] }}{% if add_generation_prompt %}<a>{% endif %}", "In Italy.\n<a>"),
    ("    {% if true %}\n  kept\n    {% endif %}\nend", "  kept\nend"),
    (
        "{{ [1, 2] + [3] }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ true and none }}{{ missing is defined }}",
        "[1, 2, 3]3332NoneFalse",
    ),
]


@pytest.mark.parametrize(("source", "expected"), SAME, ids=range(len(SAME)))
def test_a_template_renders_as_in_transformers(source: str, expected: str) -> None:
    assert templates.Template(source, "2026-01-31").render(KNOWN) == expected


@pytest.mark.parametrize("source", [source for source, _ in SAME], ids=range(len(SAME)))
def test_transformers_says_the_same(source: str) -> None:
    published = pytest.importorskip("transformers.utils.chat_template_utils")
    expected = published._compile_jinja_template(source).render(**KNOWN)
    assert templates.Template(source, "2026-01-31").render(KNOWN) == expected


def test_the_date_is_the_one_that_the_run_was_trained_with() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert templates.Template(source, "2024-07-26").render(KNOWN) == "26 Jul 2024"


LOOP = "{% for i in range(99999) %}"
LARGE = [
    "{% for i in range(10000000000) %}{% endfor %}",
    LOOP * 2 + "{% endfor %}" * 2,
    LOOP * 2 + "x" + "{% endfor %}" * 2,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ 'a' * 10000000000 }}",
    "{{ 10000000000 * 'a' }}",
    "{{ ['a'] * 10000000000 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 'a'|center(10000000000) }}",
    "{{ 'a'.ljust(10000000000) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10000000000, 1) }}",
    "{{ '%10000000000d'|format(1) }}",
    "{{ '{:>10000000000}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=10000000000) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=['ab']) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=['ab']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set a = 'a' * 99999 %}{{ a.replace('a', a) }}",
    "{% set a = 'a' * 99999 %}{{ a|replace('a', a) }}",
    "{% set a = ['a' * 99999] * 99999 %}{{ a|join }}",
    "{% set a = ['a' * 99999] * 99999 %}{{ ''.join(a) }}",
    "{% set a = 'a' * 99999 %}{% set b %}" + LOOP + "{{ a }}{% endfor %}{% endset %}{{ b|length }}",
    "{% set a = 'a' * 99999 %}" + LOOP + "{{ a }}{% endfor %}",
    "{% set a = ['a'] * 99999 %}{{ [a] * 99999 }}",
    "{% set a = ['a'] * 99999 %}{{ ([a] * 99999)|tojson }}",
    "{% set a = ['a'] * 99999 %}{{ 'x' ~ [a] * 99999 }}",
    *GROWING,
]


@pytest.mark.parametrize("source", LARGE, ids=range(len(LARGE)))
def test_a_template_has_limits_of_time_and_size(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(Exception, match=r"seconds|characters|above|too big|[Rr]ecursion|too many|unsafe|No filter"):
        templates.Template(source, "2026-01-31").render(KNOWN)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "source",
    [
        "{% if a %}" * 500 + "{% endif %}" * 500,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 400 + "]" * 400 + " }}",
        "x" * 200_001,
    ],
    ids=["ifs", "loops", "brackets", "lists", "long"],
)
def test_a_template_that_nests_too_deep_or_is_too_long_is_refused_in_words(source: str) -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match=r"nests too deep|200,000 are allowed"):
        templates.Template(source, "2026-01-31").render(KNOWN)


def test_a_long_conversation_is_rendered_within_the_limits() -> None:
    source = "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content|trim }}\n{% endfor %}"
    turns = [{"role": "user", "content": f"{i} " + "word " * 200} for i in range(5000)]
    found = templates.Template(source, "2026-01-31").render(KNOWN | {"messages": turns})
    assert found.count("<user>") == 5000


def test_a_template_travels_with_its_artifact() -> None:
    from kerastune.modalities.conversation import CONVERSATION

    assert {"chats.py", "templates.py"} == set(CONVERSATION.readers)
    assert Path(templates.__file__).name == "templates.py"

"""Renders chat templates like transformers, but without it: Jinja, in its sandbox and with limits.

Templates are untrusted. They see the messages but nothing of Python, and cannot exhaust the machine's memory or time:
every loop iteration, call, filter and concatenated text is checked.
"""

import json
import re
import time
from datetime import datetime
from functools import wraps

from jinja2 import TemplateError, nodes, pass_context, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

SOURCE = 200_000  # characters of a template
SECONDS = 10  # maximum per conversation
SIZE = 10_000_000  # maximum characters of a text that it makes, or entries of a list
NUMBER = 100_000  # maximum argument of a function, such as the width of a column
FORBIDDEN = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")  # filters that long texts keep busy for hours
FORBIDDEN_METHODS = ("expandtabs", "translate")  # of texts; they multiply the length


class Template:
    """A chat template.

    Args:
        source: the template, in Jinja.
        today: the date for `strftime_now`, such as "2026-01-31".

    Raises:
        TemplateError: it is not valid Jinja, nests too deep or is too long.
    """

    def __init__(self, source, today):
        if len(source) > SOURCE:
            raise TemplateError(f"it has {len(source):,} characters, but {SOURCE:,} are allowed")
        self._sandbox = Sandbox(datetime.fromisoformat(today))
        try:
            self._template = self._sandbox.from_string(source)
        except (RecursionError, SyntaxError, MemoryError) as error:  # Python's, from the code that Jinja generates
            raise TemplateError("it nests too deep") from error

    def render(self, known):
        """Renders the template with the values in `known`.

        Raises:
            TemplateError: the template rejects it, or does something that the sandbox forbids.
        """
        self._sandbox.start()
        found = self._template.generate(**known)
        return self._sandbox.concat(found)


class Sandbox(ImmutableSandboxedEnvironment):
    """The template environment of transformers, with limits."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, today):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_sized)
        self.ends = float("inf")
        self.concat = self._joined
        self.filters |= {"tojson": _tojson, "join": _join}
        self.filters = {name: self._limited(name, one) for name, one in self.filters.items() if name not in FORBIDDEN}
        self.filters |= {_LOOP: _in_time, _VALUE: _limited_value}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "strftime_now": today.strftime}

    def start(self):
        """Starts the timer."""
        self.ends = time.monotonic() + SECONDS

    def in_time(self):
        if time.monotonic() > self.ends:
            raise SecurityError(f"it takes more than {SECONDS} seconds for one conversation")

    def _parse(self, source, name, filename):
        return _Limits().visit(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj, attr, value):
        return attr not in FORBIDDEN_METHODS and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context, operator, left, right):
        self.in_time()
        if operator == "%" and isinstance(left, str):
            _check_format(left, right if isinstance(right, tuple) else (right,))
        elif operator == "**":
            _check_numbers((left, right), 1000)
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(times, int):
                    _check_size(len(one) * times)
            if isinstance(left, int) and isinstance(right, int):
                _check_numbers((left, right), 2**64)
        return _sized(super().call_binop(context, operator, left, right))

    def call(self, context, function, /, *arguments, **named):
        self.in_time()
        name, text = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if name != "raise_exception":
            _check_numbers((*arguments, *named.values()))
        if name in ("format", "format_map", "strftime"):
            _check_format(text if isinstance(text, str) else str(arguments[0]), (*arguments, *named.values()))
        elif name == "replace" and isinstance(text, str):
            _check_replaced(text, *arguments)
        elif name == "join" and isinstance(text, str):
            arguments = (self._listed(arguments[0], len(text)),)
        return _sized(super().call(context, function, *arguments, **named))

    def wrap_str_format(self, value):
        formats = super().wrap_str_format(value)
        if formats is None:
            return None

        @wraps(formats)
        def limited(*arguments, **named):
            _check_format(value.__self__, (*arguments, *named.values()))
            return formats(*arguments, **named)

        return limited

    def _limited(self, name, function):
        first = 2 if hasattr(function, "jinja_pass_arg") else 1  # Jinja's own argument comes before the value

        @wraps(function)
        def limited(*arguments, **named):
            self.in_time()
            _check_numbers((*arguments[first:], *named.values()))
            for one in arguments:
                _sized(one)
            if name == "format":
                _check_format(str(arguments[0]), (*arguments[1:], *named.values()))
            elif name == "replace":
                _check_replaced(*map(str, arguments[1:4]))
            elif name == "indent":
                width = next(iter((*arguments[1:2], *named.values())), 4)
                _check_size((str(arguments[0]).count("\n") + 1) * (len(width) if isinstance(width, str) else width))
            found = function(*arguments, **named)
            return self._counted(found) if name == "map" else _sized(found)

        return limited

    def _listed(self, parts, between):
        """Yields the parts of a text; raises SecurityError if it gets too long."""
        found, size = [], 0
        for part in parts:
            self.in_time()
            found.append(part)
            size += len(part) + between
            _check_size(size)
        return found

    def _counted(self, values):
        """Yields values; raises SecurityError if they are too large together."""
        size = 0
        for value in values:
            self.in_time()
            size += 1 + _weight(value)
            _check_size(size)
            yield value

    def _joined(self, parts):
        return "".join(self._listed(parts, 0))


# --- what has no hook in Jinja's sandbox --------------------------------------------------------------------

_LOOP, _VALUE = "limited loop", "limited value"  # filters with names that no template can write


class _Limits(NodeTransformer):
    """Adds a filter around the iterable of every loop, around texts concatenated with ~, and around new collections.

    A list in a list in a list … doubles without any function. Comparing or printing it would never end.
    """

    def visit_For(self, node):
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, _LOOP, node)
        return node

    def visit_Concat(self, node):
        self.generic_visit(node)
        node.nodes = [self._filtered(one, _VALUE, node) for one in node.nodes]
        return self._filtered(node, _VALUE, node)

    def visit_List(self, node):
        self.generic_visit(node)
        return self._filtered(node, _VALUE, node) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_Dict = visit_List

    def visit_Name(self, node):
        return self._filtered(node, _VALUE, node) if node.name in ("varargs", "kwargs") and node.ctx == "load" else node

    def _filtered(self, node, name, at):
        made = nodes.Filter(node, name, [], [], None, None, lineno=at.lineno)
        made.set_environment(at.environment)
        return made


@pass_context
def _in_time(context, values):
    for value in values:
        context.environment.in_time()
        yield value


@pass_context
def _limited_value(context, value):
    context.environment.in_time()
    return _sized(value)


class _Generation(Extension):
    """`{% generation %}`, with which templates mark assistant turns; it does not change the text."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller):
        return caller()


# --- functions ---------------------------------------------------------------------------------------------


@pass_eval_context
def _tojson(context, value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Returns JSON without the HTML escapes of Jinja's own filter."""
    if any(len(one) > 10 for one in separators or ()):
        raise SecurityError("it separates JSON by more than 10 characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(context.environment._listed(encoder.iterencode(value), 0))


@pass_eval_context
def _join(context, value, between="", attribute=None):
    sandbox = context.environment
    if attribute is not None:
        value = (sandbox.getitem(one, attribute) for one in value)
    return str(between).join(sandbox._listed(map(str, value), len(str(between))))


def _refuse(message):
    raise TemplateError(message)


# --- limits ------------------------------------------------------------------------------------------------


def _sized(value):
    """Returns the value; raises SecurityError if it is too large, whatever its type."""
    _weight(value)
    return value


def _weight(value):
    """Returns the number of characters and entries in a value; raises SecurityError if there are too many."""
    left, stack = SIZE, [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str | bytes):
            left -= len(one)
        elif isinstance(one, dict):
            left -= len(one)
            stack += [*one.keys(), *one.values()] if left >= 0 else []
        elif isinstance(one, list | tuple):
            left -= len(one)
            stack += one if left >= 0 else []
        if left < 0:
            _check_size(SIZE + 1)
    return SIZE - left


def _check_size(size):
    if size > SIZE:
        raise SecurityError(f"it makes a text of more than {SIZE:,} characters")


def _check_numbers(values, most=NUMBER):
    if any(isinstance(one, int | float) and abs(one) > most for one in values):
        raise SecurityError(f"it gives a function a number above {most:,}")


def _check_replaced(text, old, new="", *more):
    _check_size(len(text) + text.count(old) * len(new))


def _check_format(text, values):
    """Raises SecurityError for widths, and values that are repeated, that would make a long text."""
    if re.search(r"\d{6}", text):
        raise SecurityError(f"it formats with a width above {NUMBER:,}")
    if "*" in text:
        _check_numbers(values)
    if (places := text.count("%") + text.count("{")) > 1:
        _check_size(places * _weight(values))

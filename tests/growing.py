"""Short chat templates that would take all memory or time."""

DOUBLED = (
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
GROWING = [
    "{{ range(99999)|list|tojson(indent=99999) }}",
    "{{ range(99999)|list|tojson(separators=('a' * 99999, 'b')) }}",
    "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "{{ ('\\n' * 99999)|indent(99999) }}",
    "{{ ('%(a)s' * 99999) % {'a': 'b' * 99999} }}",
    "{{ ('%(a)s' * 99999)|format(a='b' * 99999) }}",
    "{{ ('{0}' * 99999).format('b' * 99999) }}",
    "{{ (['a' * 10] * 99999)|map('replace', 'a', 'b' * 99999)|list }}",
    "{{ ('a' * 9999999)|wordwrap(1) }}",
    "{{ (range(99999)|list * 99)|pprint }}",
    DOUBLED + "{% if ns.x == ns.y %}{% endif %}",
    DOUBLED + "{{ '%s' % (ns.x,) }}",
    DOUBLED + "{{ '{}'.format(ns.x) }}",
    DOUBLED + "{{ raise_exception(ns.x) }}",
    DOUBLED + "{{ {(ns.x, ns.y): 1} }}",
    "{% set ns = namespace(x=1) %}{% macro m() %}{% set ns.x = varargs %}{% endmacro %}"
    "{% for i in range(60) %}{{ m(ns.x, ns.x) }}{% endfor %}{{ ns.x == ns.x }}",
]

"""Template rendering: values are inserted, invalid templates rejected, and nothing is computed."""

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmring_server.errors import InvalidRequest
from llmring_server.templates.rendering import MAX_RESULT_CHARACTERS, render_template

VARIABLES: dict[str, Any] = {
    "name": "Ada",
    "user": {"name": "Bob", "tags": ["a", "b"], "items": 1},
    "x": "{{ name }}",
    "price": Decimal("0.10"),
    "nil": None,
    "yes": True,
    "self": 1,
    "range": [1],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("as it is: { } {} $5 %s {name} ü\n", "as it is: { } {} $5 %s {name} ü\n"),
        ("Hi {{ name }}, {{name}}!", "Hi Ada, Ada!"),
        ("{{ user.name }} {{ user['name'] }} {{ user.tags[1] }} {{ user.tags.0 }}", "Bob Bob b a"),
        ("{{ user.items }}", "1"),
        ("{{ x }}", "{{ name }}"),
        ("{{ price }} {{ nil }} {{ yes }} {{ user.tags }}", '0.1 null true ["a","b"]'),
        ("{{ nobody | default('you') }} {{ user.age | default(7) }}", "you 7"),
        ("{{ name | default('you') }}", "Ada"),
        ("{# no #}{% raw %}{{ name }}{% endraw %}", "{{ name }}"),
        ("a  {{- name -}}  b", "aAdab"),
        ("{{ self }}{{ range }}", "1[1]"),
    ],
)
def test_expressions_are_replaced_by_values(text: str, expected: str) -> None:
    assert render_template(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("{{ a }} {{ name }} {{ b.c }} {{ a }}", "a, b.c"),
        ("{{ user.age }} {{ user.tags[2] }}", "user.age, user.tags.2"),
        ("{{ name.first }} {{ price.real }} {{ nil.x }}", "name.first, price.real, nil.x"),
        ("{{ lipsum }} {{ dict }} {{ loop }}", "lipsum, dict, loop"),
        ("{{ name.__class__ }}", "name.__class__"),
        ("{{ user.keys }} {{ user['__class__'].mro }}", "user.keys, user.__class__.mro"),
        ("{{ ''.__class__ }}", "....__class__"),
    ],
)
def test_missing_variables_are_named(text: str, missing: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render_template(text, VARIABLES)
    assert str(caught.value) == f"variables: missing: {missing}"


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in name %}{% for j in name %}{% endfor %}{% endfor %}",
        "{% set a = name ~ name %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}",
        "{% if name %}{% endif %}",
        "{% filter upper %}{% endfilter %}",
        "{{ 'a' * 10**9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ name ~ name }}",
        "{{ '%999999999s' % name }}",
        "{{ '{:>999999999}'.format(name) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ cycler.__init__.__globals__ }}" + "{{ name() }}",
        "{{ name | attr('__class__') }}",
        "{{ name | center(10**9) }}",
        "{{ name | default(name) }}",
        "{{ name | default('a', true) | upper }}",
        "{{ user[name] }}",
        "{{ name[0:1] }}",
        "{{ [name] }}",
        "{{ name if name }}",
        "{{ (name, name) }}",
        "{{ -1 }}",
        "{{ name",
        "{{ }}",
        "{{ " + "9" * 5000 + " }}",
        "{{ '\\N{x}' }}",
        "{{ " + "(" * 900 + "name" + ")" * 900 + " }}",
        "{{ " + "not " * 2000 + "name }}",
        "{{ name" + ".a" * 2000 + " }}",
        "{{ name }}" * 2000,
        "{{ a" + "+a" * 100_000 + " }}",
        "{{ " + "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_nothing_is_computed(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render_template(text, VARIABLES)
    assert caught.value.code == "invalid_template"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("one\n{{ name\n}}\n{{ }}", "line 4: syntax error"),
        ("one\n\n{{ name ~ name }}", "line 3: only {{ name }}, {{ name.member }}"),
        ("{% if name %}{% endif %}", "line 1: only {{ name }}"),
        ("one\n{{ 1e999 }}", "line 2: a constant cannot be represented in JSON"),
        ("{{ " + "9" * 5000 + " }}", "a number has too many digits"),
        ("{{ " + "not " * 2000 + "name }}", "nested too deeply"),
        ("{{ name }}" * 2000, "more than 5,000 tokens"),
    ],
    ids=lambda text: text[:30],
)
def test_errors_give_the_line_and_the_reason(text: str, detail: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render_template(text, VARIABLES)
    assert str(caught.value).startswith(f"template: {detail}")


@pytest.mark.parametrize(
    "constant", ["9" * 23, "-" + "9" * 23, "1e999", r'"\ud83d"', r'"a\x00"'], ids=str
)
@pytest.mark.parametrize("text", ["{{ %s }}", "{{ a | default(%s) }}"])
def test_a_constant_that_json_cannot_represent_is_refused(text: str, constant: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render_template(text % constant, {})
    assert caught.value.code == "invalid_template"


def test_the_result_is_bounded() -> None:
    with pytest.raises(InvalidRequest) as caught:
        render_template("{{ x }}" * 800, {"x": "x" * (MAX_RESULT_CHARACTERS // 4)})
    assert caught.value.code == "result_too_long"


def test_the_list_of_missing_variables_is_bounded() -> None:
    with pytest.raises(InvalidRequest) as caught:
        render_template("".join(f"{{{{ {'n' * 1000}{number} }}}}" for number in range(100)), {})
    assert len(str(caught.value)) < 2000


PARTS = (
    "{{ }} {% %} {# #} - name user . [ ] ( ) 0 ' | default raw endraw self __class__ = ~ \\ if *"
)


@given(
    st.lists(st.sampled_from([*PARTS.split(), " ", "\n"]) | st.text(max_size=3), max_size=30).map(
        "".join
    )
)
def test_any_text_is_rendered_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert len(render_template(text, VARIABLES)) <= len(text) * 100

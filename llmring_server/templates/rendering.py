"""Filling templates in: text and variables go in, text comes out, and nothing is computed.

Jinja2 reads the text; we fill in what it found, and know five kinds of it: text, names, their
members, constants, and what to say by default. Nothing is compiled or run, so there is nothing to
break out of; there are no loops, so it takes no longer than the text is long.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import orjson
from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmring_server.core.strict_json import MAX_INTEGER, MIN_INTEGER, json_default
from llmring_server.errors import InvalidRequest

# Of what Jinja2 reads, of what comes out, of what is said to be missing.
MOST_TOKENS, LONGEST, MOST_NAMES, LONGEST_NAME = 5_000, 2**20, 20, 64

ABSENT: Final = object()

_READER = ImmutableSandboxedEnvironment(keep_trailing_newline=True)


class TokenBudget:
    """How many tokens may still be read, of all texts together: reading is what takes time."""

    def __init__(self) -> None:
        self._left = MOST_TOKENS

    def spend(self, text: str) -> None:
        self._left -= sum(1 for _ in islice(_READER.lex(text), self._left + 1))
        if self._left < 0:
            raise InvalidRequest("template: too many placeholders to fill in", "invalid_template")


def render_template(
    text: str, variables: Mapping[str, Any], budget: TokenBudget | None = None
) -> str:
    """Put variables where `text` names them; Invalid names those that are missing."""
    try:
        (budget or TokenBudget()).spend(text)
        holes = list(_holes(text))
        missing = [_path(hole) for hole in holes if _value(hole, variables) is ABSENT]
        if missing:
            names = ", ".join(list(dict.fromkeys(missing))[:MOST_NAMES])
            raise InvalidRequest(f"variables: missing: {names}", "missing_variables")
        return _joined(_spelled(_value(hole, variables)) for hole in holes)
    except (TemplateSyntaxError, ValueError, RecursionError) as exc:
        raise InvalidRequest(
            "template: not a template that can be read", "invalid_template"
        ) from exc


def _holes(text: str) -> Iterator[nodes.Node]:
    """Return the text between holes, and the holes, in order."""
    for node in _READER.parse(text).body:
        if not isinstance(node, nodes.Output):
            raise _unknown()
        yield from node.nodes


def _value(node: nodes.Node, variables: Mapping[str, Any]) -> Any:
    match node:
        case nodes.TemplateData(data=text):
            return text
        case nodes.Const(value=value):
            return _constant(value)
        case nodes.Name(name=name):
            return variables.get(name, ABSENT)
        case nodes.Getattr(node=of, attr=key) | nodes.Getitem(node=of, arg=nodes.Const(value=key)):
            return _member(_value(of, variables), key)
        case nodes.Filter(
            node=nodes.Node() as of, name="default", args=[nodes.Const(value=other)], kwargs=[]
        ):
            found = _value(of, variables)
            return _constant(other) if found is ABSENT else found
    raise _unknown()


def _constant(value: Any) -> Any:
    """Return a constant, or raise ValueError if JSON cannot say it."""
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text
        sound = "\0" not in value
    else:
        sound = value is None or MIN_INTEGER <= value < MAX_INTEGER
    if not sound:
        raise ValueError
    return value


def _member(of: Any, key: Any) -> Any:
    """Look into what JSON has; a Python object's attributes are no members."""
    if isinstance(of, dict):
        return of.get(key, ABSENT)
    inside = isinstance(of, list) and type(key) is int and 0 <= key < len(of)
    return of[key] if inside else ABSENT


def _path(node: nodes.Node) -> str:
    match node:
        case nodes.Name(name=name):
            return str(name)[:LONGEST_NAME]
        case nodes.Getattr(node=of, attr=key) | nodes.Getitem(node=of, arg=nodes.Const(value=key)):
            return f"{_path(of)}.{key}"[:LONGEST_NAME]
    return "..."


def _spelled(value: Any) -> str:
    """Write text as it is, and all else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value, json_default).decode()


def _joined(pieces: Iterator[str]) -> str:
    filled, length = [], 0
    for piece in pieces:
        filled.append(piece)
        length += len(piece)
        if length > LONGEST:
            raise InvalidRequest(
                f"variables: more than {LONGEST} characters come out", "result_too_long"
            )
    return "".join(filled)


def _unknown() -> InvalidRequest:
    return InvalidRequest(
        "template: a template may say {{ name }}, {{ name.member }}, {{ name[0] }} and"
        ' {{ name | default("...") }}, and no more',
        "invalid_template",
    )

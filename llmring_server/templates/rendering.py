"""Template rendering: fills variables into text, and computes nothing.

Jinja2 parses the text; this module evaluates the result. It supports five kinds of nodes: text,
names, members, constants and the filter `default`. Nothing is compiled or run, so there is no
sandbox to escape from; there are no loops, so the time is bounded by the length of the text.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmring_server.core.strict_json import MAX_INTEGER, MIN_INTEGER, encode_json
from llmring_server.errors import InvalidRequest

MAX_TOKENS = 5_000
MAX_RESULT_CHARACTERS = 2**20
# Error messages name at most so many variables, each by at most so many characters.
MAX_REPORTED_NAMES = 20
MAX_REPORTED_NAME_CHARACTERS = 64

MISSING: Final = object()

_PARSER = ImmutableSandboxedEnvironment(keep_trailing_newline=True)


class TokenBudget:
    """The number of tokens that all texts of a request may contain: parsing is what takes time."""

    def __init__(self) -> None:
        self._remaining = MAX_TOKENS

    def spend(self, text: str) -> None:
        """Subtract the tokens of `text`, or raise InvalidRequest if there are too many."""
        self._remaining -= sum(1 for _ in islice(_PARSER.lex(text), self._remaining + 1))
        if self._remaining < 0:
            raise InvalidRequest(f"template: more than {MAX_TOKENS:,} tokens", "invalid_template")


def render_template(
    text: str, variables: Mapping[str, Any], budget: TokenBudget | None = None
) -> str:
    """Replace the expressions in `text` by values; raise InvalidRequest if variables are missing.

    Texts that belong to one request share a `budget`.
    """
    try:
        (budget or TokenBudget()).spend(text)
        parts = list(_parse(text))
    except TemplateSyntaxError as exc:
        raise _invalid(f"line {exc.lineno}: syntax error") from exc
    except ValueError as exc:
        # Python refuses to read the number.
        raise _invalid("a number has too many digits") from exc
    except RecursionError as exc:
        raise _invalid("nested too deeply") from exc
    return _render(parts, variables)


def _parse(text: str) -> Iterator[nodes.Expr]:
    """Yield the parts of a template in order: plain text, and expressions to evaluate."""
    for node in _PARSER.parse(text).body:
        if not isinstance(node, nodes.Output):
            raise _unsupported(node)
        yield from node.nodes


def _render(parts: list[nodes.Expr], variables: Mapping[str, Any]) -> str:
    try:
        values = [_evaluate(part, variables) for part in parts]
    except RecursionError as exc:
        raise _invalid("nested too deeply") from exc
    missing = {
        _path(part): None for part, value in zip(parts, values, strict=True) if value is MISSING
    }
    if missing:
        names = ", ".join(islice(missing, MAX_REPORTED_NAMES))
        raise InvalidRequest(f"variables: missing: {names}", "missing_variables")
    return _join(_to_text(value) for value in values)


def _evaluate(node: nodes.Node, variables: Mapping[str, Any]) -> Any:
    """Return the value of a node, or MISSING."""
    match node:
        case nodes.TemplateData(data=text):
            return text
        case nodes.Const():
            return _constant(node)
        case nodes.Name(name=name):
            return variables.get(name, MISSING)
        case (
            nodes.Getattr(node=parent, attr=key)
            | nodes.Getitem(node=parent, arg=nodes.Const(value=key))
        ):
            return _member(_evaluate(parent, variables), key)
        case nodes.Filter(
            node=nodes.Node() as parent, name="default", args=[nodes.Const() as default], kwargs=[]
        ):
            value = _evaluate(parent, variables)
            return _constant(default) if value is MISSING else value
    raise _unsupported(node)


def _constant(node: nodes.Const) -> Any:
    """Return the value of a constant, or raise InvalidRequest if JSON cannot represent it."""
    value = node.value
    if isinstance(value, str):
        is_valid = "\0" not in value and _is_encodable(value)
    else:
        is_valid = value is None or MIN_INTEGER <= value < MAX_INTEGER
    if not is_valid:
        raise _invalid(f"line {node.lineno}: a constant cannot be represented in JSON")
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate
        return False
    return True


def _member(value: Any, key: Any) -> Any:
    """Return a member of a JSON object or array; attributes of Python objects are no members."""
    if isinstance(value, dict):
        return value.get(key, MISSING)
    if isinstance(value, list) and type(key) is int and 0 <= key < len(value):
        return value[key]
    return MISSING


def _path(node: nodes.Node) -> str:
    """Return the name of a variable or member as the template spells it, cut to a maximum."""
    match node:
        case nodes.Name(name=name):
            path = str(name)
        case (
            nodes.Getattr(node=parent, attr=key)
            | nodes.Getitem(node=parent, arg=nodes.Const(value=key))
        ):
            path = f"{_path(parent)}.{key}"
        case _:
            path = "..."
    return path[:MAX_REPORTED_NAME_CHARACTERS]


def _to_text(value: Any) -> str:
    """Return strings as they are and everything else as JSON."""
    return value if isinstance(value, str) else encode_json(value).decode()


def _join(texts: Iterable[str]) -> str:
    joined = []
    length = 0
    for text in texts:
        joined.append(text)
        length += len(text)
        if length > MAX_RESULT_CHARACTERS:
            raise InvalidRequest(
                f"variables: the result exceeds {MAX_RESULT_CHARACTERS:,} characters",
                "result_too_long",
            )
    return "".join(joined)


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"template: {reason}", "invalid_template")


def _unsupported(node: nodes.Node) -> InvalidRequest:
    return _invalid(
        f"line {node.lineno}: only {{{{ name }}}}, {{{{ name.member }}}}, {{{{ name[0] }}}} and"
        ' {{ name | default("...") }} are supported'
    )

"""Validation errors: pydantic's, in the words of JSON, and without the values of the caller."""

import re
from typing import Any

from pydantic import ValidationError

from llmring_server.core.time_range import INSTANT_FORM

# Pydantic names Python's types, which a caller of another language need not know.
_PYTHON_TYPES = [
    (re.compile(pattern), text)
    for pattern, text in (
        (
            "Decimal input should be an integer, float, string or Decimal object",
            "Input should be a number",
        ),
        ("Decimal input", "Input"),
        ("an instance of Decimal|a valid decimal", "a number"),
        ("a valid (list|tuple|set|frozenset)", "an array"),
        (
            "a (valid )?dictionary( or (an )?instance of [^ ]+| or object to extract fields from)?",
            "an object",
        ),
        ("a valid mapping(, error: .*)?", "an object"),
        ("should be None", "should be null"),
    )
]


# Pydantic also names which of several types it tried, and the functions that check a value:
# start_date.datetime, arguments.dict[str,any], input.function-after[check(), decimal], TieredRate.
# No field of ours has such a name.
_TRIED_FUNCTION = re.compile(r"[a-z-]+\[")
_TRIED_TYPE = re.compile(
    "([A-Z][a-z]+){2,}|date|datetime|time|decimal|str|int|float|bool|none|any|constrained-str"
)

_INSTANT_ERRORS = {
    "date_from_datetime_inexact", "date_from_datetime_parsing", "date_parsing", "date_type",
    "datetime_from_date_parsing", "datetime_object_invalid", "datetime_parsing", "datetime_type",
}  # fmt: skip


def errors_of(exc: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's list of errors, to be shown to whoever sent the input."""
    errors: list[dict[str, Any]] = []
    seen: set[tuple[Any, str]] = set()
    for error in exc.errors(include_url=False, include_context=False, include_input=False):
        loc = tuple(part for part in error["loc"] if not _is_tried_type(part))
        message = _message(error["type"], error["msg"])
        # A value that is neither a date nor a time has an error for each.
        if (loc, message) not in seen:
            seen.add((loc, message))
            errors.append({**error, "loc": loc, "msg": message})
    return errors


def _is_tried_type(part: int | str) -> bool:
    if isinstance(part, int):
        return False
    is_function = part.endswith("]") and _TRIED_FUNCTION.match(part)
    return bool(is_function or _TRIED_TYPE.fullmatch(part))


def _message(type: str, text: str) -> str:
    if type in _INSTANT_ERRORS:
        return INSTANT_FORM
    if type == "timezone_aware":
        return "add an offset, such as Z or +01:00"
    return _text(text)


def lines_of(exc: ValidationError, default: str = "request") -> list[str]:
    """Return one line for each error; `default` is the subject of those without a location."""
    return [line_of(error, default) for error in errors_of(exc)]


def line_of(error: dict[str, Any], default: str = "request") -> str:
    """Return a line for one of `errors_of`."""
    return f"{'.'.join(map(str, error['loc'])) or default}: {error['msg']}"


def _text(text: str) -> str:
    # Our own messages are the text of a ValueError or an AssertionError.
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for pattern, replacement in _PYTHON_TYPES:
        text = pattern.sub(replacement, text)
    return text

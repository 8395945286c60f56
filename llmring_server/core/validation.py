"""Validation errors: pydantic's, in the words of JSON, and without the values of the caller."""

import re
from typing import Any

from pydantic import ValidationError

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


def errors_of(exc: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's list of errors, to be shown to whoever sent the input."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    return [{**error, "msg": _text(error["msg"])} for error in errors]


def lines_of(exc: ValidationError, default: str = "request") -> list[str]:
    """Return one line for each error; `default` is the subject of those without a location."""
    return [
        f"{'.'.join(map(str, error['loc'])) or default}: {error['msg']}" for error in errors_of(exc)
    ]


def _text(text: str) -> str:
    # Our own messages are the text of a ValueError or an AssertionError.
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for pattern, replacement in _PYTHON_TYPES:
        text = pattern.sub(replacement, text)
    return text

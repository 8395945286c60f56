"""Validation errors: pydantic's, in the words of JSON, and without the values of the caller."""

from typing import Any

from pydantic import ValidationError

# Pydantic names Python's types, which a caller of another language need not know.
_TEXTS = {
    "decimal_type": "Input should be a number",
    "decimal_parsing": "Input should be a number",
    "list_type": "Input should be an array",
    "tuple_type": "Input should be an array",
    "set_type": "Input should be an array",
    "frozen_set_type": "Input should be an array",
    "dict_type": "Input should be an object",
    "mapping_type": "Input should be an object",
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "dataclass_type": "Input should be an object",
    "none_required": "Input should be null",
}


def errors_of(exc: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's list of errors, to be shown to whoever sent the input."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    return [{**error, "msg": _text(error["type"], error["msg"])} for error in errors]


def lines_of(exc: ValidationError, default: str = "request") -> list[str]:
    """Return one line for each error; `default` is the subject of those without a location."""
    return [
        f"{'.'.join(map(str, error['loc'])) or default}: {error['msg']}" for error in errors_of(exc)
    ]


def _text(kind: str, text: str) -> str:
    # Our own messages are the text of a ValueError or an AssertionError.
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.replace("Decimal input", "Input").replace("an instance of Decimal", "a number")
    return _TEXTS.get(kind) or text

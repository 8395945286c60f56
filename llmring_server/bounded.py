"""JSON in and out: bounded, so that what is small to send is small to keep; exact to the digit."""

from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import AfterValidator

from llmring_server.errors import Invalid

DEEPEST, MOST_KEYS, LONGEST_KEY, LARGEST = 32, 10_000, 1024, 2**64
_DIGITS = 30


def check(value: Any) -> Any:
    """Return `value`, or raise Invalid if it is deep, wide, huge, or holds U+0000."""
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if isinstance(each, dict):
            _check_keys(each)
            waiting += [(member, depth + 1) for member in each.values()]
        elif isinstance(each, list):
            waiting += [(member, depth + 1) for member in each]
        else:
            _check_scalar(each)
            continue
        if depth > DEEPEST:
            raise Invalid(f"body: nested more than {DEEPEST} deep")
    return value


def _check_keys(members: dict[str, Any]) -> None:
    if len(members) > MOST_KEYS:
        raise Invalid(f"body: more than {MOST_KEYS} keys in one object")
    for key in members:
        if len(key) > LONGEST_KEY:
            raise Invalid(f"body: a key is longer than {LONGEST_KEY} characters")
        _check_scalar(key)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Invalid("body: text must not contain the character U+0000")
    elif isinstance(value, int | Decimal) and not -LARGEST < value < LARGEST:
        raise Invalid("body: a number is 2^64 or larger")


# An object of the caller's own making.
Json = Annotated[dict[str, Any], AfterValidator(check)]


def plain(value: object) -> orjson.Fragment | str:
    """Write in JSON what orjson cannot: a Decimal as the number it is, exactly."""
    if isinstance(value, Decimal):
        value = value.normalize()
        # No amount of money is written so, but 1e-400 must not become 400 digits.
        return orjson.Fragment(f"{value:f}" if abs(value.adjusted()) < _DIGITS else str(value))
    if isinstance(value, UUID):
        return str(value)
    raise TypeError

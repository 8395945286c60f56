"""JSON in and out: strict and exact, and bounded, so that what is small to send stays small."""

import re
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import jiter
import orjson
from pydantic import AfterValidator

from llmring_server.errors import BadRequest, Invalid, TooLarge

DEEPEST, MOST_KEYS, LONGEST_KEY = 32, 10_000, 1024
# What can be written in 64 bits, with a sign if there is one.
SMALLEST, LARGEST = -(2**63), 2**64
MOST_VALUES = 500_000
_DIGITS = 30

_PLACE = re.compile(r" at line (\d+) column (\d+)$")


def parse(data: bytes) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, no NUL, numbers as they are written."""
    check_values(data)
    try:
        value = jiter.from_json(
            data,
            allow_inf_nan=False,
            float_mode="decimal",
            catch_duplicate_keys=True,
            cache_mode="keys",  # values seldom come again
        )
    except ValueError as exc:
        raise BadRequest(f"The body is not strict JSON: {_complaint(str(exc))}.") from exc
    # Only such a body can break a bound that neither the parser nor a model keeps.
    if b"\\u0000" in data or data.count(b"[") + data.count(b"{") > DEEPEST:
        check(value)
    return value


def check_values(data: bytes) -> None:
    """Refuse a text that would take far more memory than it is long: [] takes 60 bytes."""
    if len(data) > MOST_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise TooLarge(f"body: more than {MOST_VALUES} values")


def _complaint(text: str) -> str:
    """Repeat the parser's complaint without the caller's text in it."""
    reason = "a key occurs twice" if "duplicate key" in text else _PLACE.sub("", text)
    place = _PLACE.search(text)
    return f"{reason}, line {place[1]}, column {place[2]}" if place else reason


def check(value: Any) -> Any:
    """Return `value`, or raise Invalid if it is deep, wide, huge, or holds U+0000."""
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        members: Any = each
        if isinstance(each, dict):
            _check_keys(each)
            members = each.values()
        elif not isinstance(each, list):
            _check_scalar(each)
            continue
        if depth > DEEPEST:
            raise Invalid(f"body: nested more than {DEEPEST} deep")
        # Most members are texts without fault, and need not wait.
        waiting += [(it, depth + 1) for it in members if not isinstance(it, str) or "\0" in it]
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
    elif isinstance(value, int | Decimal) and not SMALLEST <= value < LARGEST:
        raise Invalid("body: a number is 2^64 or larger, or less than -2^63")


# An object of the caller's own making.
Json = Annotated[dict[str, Any], AfterValidator(check)]


def dumped(value: Any, what: str) -> bytes:
    """Write JSON; Invalid if `value` is not plain."""
    try:
        return orjson.dumps(value, plain)
    except TypeError as exc:
        raise Invalid(f"{what}: must be plain JSON") from exc


def written(value: Any, what: str, most: int) -> str:
    """Write JSON as it is stored; Invalid if it is not plain, or more than so many bytes."""
    data = dumped(value, what)
    if len(data) > most:
        raise Invalid(f"{what}: must be at most {most // 1024:,} KiB of JSON")
    return data.decode()


def plain(value: object) -> orjson.Fragment | str:
    """Write in JSON what orjson cannot: a Decimal as the number it is, exactly."""
    if isinstance(value, Decimal):
        value = value.normalize()
        text = str(value)
        # No amount of money is written so, but 1e-400 must not become 400 digits.
        if "E" in text and abs(value.adjusted()) < _DIGITS:
            text = f"{value:f}"
        return orjson.Fragment(text)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError

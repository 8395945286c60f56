"""Strict JSON: parsed and written exactly, within bounds of depth, width and number of values.

The bounds keep a small request from taking much memory.
"""

import re
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import jiter
import orjson
from pydantic import AfterValidator

from llmring_server.errors import BadRequest, BodyTooLarge, InvalidRequest

# A string with at least one character that is not white space. `\S` would mean one thing to
# pydantic and another in the OpenAPI document: for ECMAScript U+0085 is not white space, U+FEFF is.
NOT_BLANK = r"[^\s\x85\ufeff]"

MAX_DEPTH = 32
MAX_KEYS = 10_000
MAX_KEY_LENGTH = 1024
MAX_VALUES = 500_000
MAX_SMALL_OBJECT_BYTES = 64 * 1024
# What 64 bits hold, signed or unsigned; the maximum is exclusive.
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64
# Larger exponents are written as such, so that 1e-400 does not become 400 digits.
_MAX_PLAIN_EXPONENT = 30

_POSITION = re.compile(r" at line (\d+) column (\d+)$")


def parse_json(data: bytes) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, no NUL; numbers are exact decimals."""
    check_values(data)
    try:
        value = jiter.from_json(
            data,
            allow_inf_nan=False,
            float_mode="decimal",
            catch_duplicate_keys=True,
            cache_mode="keys",  # values are seldom repeated
        )
    except ValueError as exc:
        raise BadRequest(f"The body is not strict JSON: {_reason(str(exc))}.") from exc
    # Only such a body can exceed a bound that neither the parser nor a model enforces.
    if b"\\u0000" in data or data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        check_json(value)
    return value


def check_values(data: bytes) -> None:
    """Raise BodyTooLarge for a text that would take far more memory than its own length.

    An empty list is two bytes of JSON, and 60 in memory.
    """
    if len(data) > MAX_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise BodyTooLarge(f"body: more than {MAX_VALUES} values")


def _reason(message: str) -> str:
    """Return the parser's message without the caller's text in it."""
    reason = "a key occurs twice" if "duplicate key" in message else _POSITION.sub("", message)
    position = _POSITION.search(message)
    return f"{reason}, line {position[1]}, column {position[2]}" if position else reason


def check_json(value: Any) -> Any:
    """Return `value`; raise InvalidRequest if it is too deep, wide or large, or contains U+0000."""
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        members: Any = item
        if isinstance(item, dict):
            _check_keys(item)
            members = item.values()
        elif not isinstance(item, list):
            _check_scalar(item)
            continue
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"body: nested more than {MAX_DEPTH} deep")
        # Most members are valid text, which is checked here without being queued.
        pending += [
            (member, depth + 1)
            for member in members
            if not isinstance(member, str) or "\0" in member
        ]
    return value


def _check_keys(members: dict[str, Any]) -> None:
    if len(members) > MAX_KEYS:
        raise InvalidRequest(f"body: more than {MAX_KEYS} keys in one object")
    for key in members:
        if len(key) > MAX_KEY_LENGTH:
            raise InvalidRequest(f"body: a key is longer than {MAX_KEY_LENGTH} characters")
        _check_scalar(key)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest("body: text must not contain the character U+0000")
    elif isinstance(value, int | Decimal) and not MIN_INTEGER <= value < MAX_INTEGER:
        raise InvalidRequest("body: a number is 2^64 or larger, or less than -2^63")


# A JSON object of the caller's own making.
JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]


def dump_json(value: Any, what: str) -> bytes:
    """Write JSON; raise InvalidRequest, naming `what`, if JSON cannot express `value`."""
    try:
        return orjson.dumps(value, json_default)
    except TypeError as exc:
        raise InvalidRequest(f"{what}: must be plain JSON") from exc


def _check_small(value: dict[str, Any]) -> dict[str, Any]:
    if len(dump_json(check_json(value), "object")) > MAX_SMALL_OBJECT_BYTES:
        raise ValueError(f"must be at most {MAX_SMALL_OBJECT_BYTES // 1024} KiB of JSON")
    return value


# The same, small enough to be returned with every item of a list.
SmallJsonObject = Annotated[dict[str, Any], AfterValidator(_check_small)]


def dump_bounded_json(value: Any, what: str, max_bytes: int) -> str:
    """Write JSON to be stored; raise InvalidRequest, naming `what`, beyond `max_bytes`."""
    data = dump_json(value, what)
    if len(data) > max_bytes:
        raise InvalidRequest(f"{what}: must be at most {max_bytes // 1024:,} KiB of JSON")
    return data.decode()


def json_default(value: object) -> orjson.Fragment | str:
    """Write what orjson cannot: a Decimal as an exact JSON number, an id as text."""
    if isinstance(value, Decimal):
        value = value.normalize()
        text = str(value)
        if "E" in text and abs(value.adjusted()) < _MAX_PLAIN_EXPONENT:
            text = f"{value:f}"
        return orjson.Fragment(text)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError

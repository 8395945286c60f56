"""JSON in and out: strict and exact, and bounded, so that what is small to send stays small."""

import re
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import jiter
import orjson
from pydantic import AfterValidator

from llmring_server.errors import BadRequest, BodyTooLarge, InvalidRequest

MAX_DEPTH, MAX_KEYS, MAX_KEY_LENGTH = 32, 10_000, 1024
# What can be written in 64 bits, with a sign if there is one.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64
MAX_SMALL_OBJECT_BYTES = 64 * 1024
MAX_VALUES = 500_000
_DIGITS = 30

_PLACE = re.compile(r" at line (\d+) column (\d+)$")


def parse_json(data: bytes) -> Any:
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
    if b"\\u0000" in data or data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        check_json(value)
    return value


def check_values(data: bytes) -> None:
    """Refuse a text that would take far more memory than it is long: [] takes 60 bytes."""
    if len(data) > MAX_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise BodyTooLarge(f"body: more than {MAX_VALUES} values")


def _complaint(text: str) -> str:
    """Repeat the parser's complaint without the caller's text in it."""
    reason = "a key occurs twice" if "duplicate key" in text else _PLACE.sub("", text)
    place = _PLACE.search(text)
    return f"{reason}, line {place[1]}, column {place[2]}" if place else reason


def check_json(value: Any) -> Any:
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
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"body: nested more than {MAX_DEPTH} deep")
        # Most members are texts without fault, and need not wait.
        waiting += [(it, depth + 1) for it in members if not isinstance(it, str) or "\0" in it]
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


# An object of the caller's own making.
JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]


def dump_json(value: Any, what: str) -> bytes:
    """Write JSON; Invalid if `value` is not plain."""
    try:
        return orjson.dumps(value, json_default)
    except TypeError as exc:
        raise InvalidRequest(f"{what}: must be plain JSON") from exc


def _check_small(value: dict[str, Any]) -> dict[str, Any]:
    if len(dump_json(check_json(value), "object")) > MAX_SMALL_OBJECT_BYTES:
        raise ValueError("must be at most 64 KiB of JSON")
    return value


# The same, of a size that may stand in every row of a list.
SmallJsonObject = Annotated[dict[str, Any], AfterValidator(_check_small)]


def dump_bounded_json(value: Any, what: str, most: int) -> str:
    """Write JSON as it is stored; Invalid if it is not plain, or more than so many bytes."""
    data = dump_json(value, what)
    if len(data) > most:
        raise InvalidRequest(f"{what}: must be at most {most // 1024:,} KiB of JSON")
    return data.decode()


def json_default(value: object) -> orjson.Fragment | str:
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

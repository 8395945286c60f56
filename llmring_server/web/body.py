"""What a body may be: UTF-8 JSON, uncompressed, bounded, and meaning one thing only."""

import re
from decimal import Decimal
from typing import Any

import jiter
from starlette.requests import Request

from llmring_server.errors import BadRequest, Invalid, TooLarge, UnsupportedMedia

KIB = 1024
DEEPEST, MOST_KEYS, LONGEST_KEY, LARGEST = 32, 10_000, 1024, 2**64

JSON = "application/json"
NDJSON = "application/x-ndjson"

# Only a body with one of these can break a bound that the parser does not keep itself.
_SUSPECT = re.compile(rb"\\u0000|\d{19}|\d[eE]")
_PLACE = re.compile(r" at line (\d+) column (\d+)$")


def media_type(request: Request[Any], *allowed: str) -> str:
    """Return which of `allowed` the body is, or refuse it."""
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    encoding = request.headers.get("content-encoding", "identity").lower()
    if (
        media.strip().lower() not in allowed
        or charset not in {"", "utf-8"}
        or encoding != "identity"
    ):
        raise UnsupportedMedia
    return media.strip().lower()


async def read(request: Request[Any], cap: int) -> bytes:
    """Read a body of at most `cap` bytes; a longer one is refused before it is held."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > cap:
        raise TooLarge
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > cap:
            raise TooLarge
        chunks.append(chunk)
    return b"".join(chunks)


def parse(data: bytes) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, no NUL, numbers as they are written."""
    try:
        value = jiter.from_json(
            data, allow_inf_nan=False, float_mode="decimal", catch_duplicate_keys=True
        )
    except ValueError as exc:
        raise BadRequest(f"The body is not strict JSON: {_complaint(str(exc))}.") from exc
    if _suspect(data):
        _check(value)
    return value


def _complaint(text: str) -> str:
    """Repeat the parser's complaint without the caller's text in it."""
    reason = "a key occurs twice" if "duplicate key" in text else _PLACE.sub("", text)
    place = _PLACE.search(text)
    return f"{reason}, line {place[1]}, column {place[2]}" if place else reason


def _suspect(data: bytes) -> bool:
    return (
        len(data) > 8 * KIB
        or data.count(b"{") + data.count(b"[") > DEEPEST
        or _SUSPECT.search(data) is not None
    )


def _check(value: Any) -> None:
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if depth > DEEPEST:
            raise Invalid(f"body: nested more than {DEEPEST} deep")
        if isinstance(each, dict):
            _check_keys(each)
            waiting += [(member, depth + 1) for member in each.values()]
        elif isinstance(each, list):
            waiting += [(member, depth + 1) for member in each]
        else:
            _check_scalar(each)


def _check_keys(members: dict[str, Any]) -> None:
    if len(members) > MOST_KEYS:
        raise Invalid(f"body: more than {MOST_KEYS} keys in one object")
    for key in members:
        if len(key) > LONGEST_KEY:
            raise Invalid(f"body: a key is longer than {LONGEST_KEY} characters")
        _check_scalar(key)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str) and "\0" in value:
        raise Invalid("body: text must not contain the character U+0000")
    if isinstance(value, int | Decimal) and not -LARGEST < value < LARGEST:
        raise Invalid("body: a number is 2^64 or larger")

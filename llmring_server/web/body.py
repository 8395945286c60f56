"""What a body may be: UTF-8 JSON, uncompressed, bounded, and meaning one thing only."""

import re
from collections.abc import Mapping
from typing import Any

import jiter
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from llmring_server.bounded import DEEPEST, check
from llmring_server.errors import BadRequest, Overloaded, TooLarge, UnsupportedMedia

KIB = 1024

JSON = "application/json"
NDJSON = "application/x-ndjson"

_PLACE = re.compile(r" at line (\d+) column (\d+)$")


class _Room:
    """What bodies that come in parts may hold together: each has a cap, but there may be many."""

    left = 64 * 1024 * KIB


def media_type(headers: Mapping[bytes, bytes], *allowed: str) -> str:
    """Return which of `allowed` the body is, or refuse it."""
    given = headers.get(b"content-type", b"").decode("latin-1")
    if given in allowed and b"content-encoding" not in headers:
        return given
    media, _, parameters = given.lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if media.strip() not in allowed or charset not in {"", "utf-8"} or encoding != b"identity":
        raise UnsupportedMedia
    return media.strip()


async def read(headers: Mapping[bytes, bytes], receive: Receive, cap: int) -> bytes:
    """Read a body of at most `cap` bytes; a longer one is refused before it is held."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > cap:
        raise TooLarge
    data, more = await _part(receive)
    if more:
        return await _whole(data, receive, cap)
    if len(data) > cap:
        raise TooLarge
    return data


async def _part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _whole(part: bytes, receive: Receive, cap: int) -> bytes:
    held, more = bytearray(), True
    try:
        while True:
            held += part
            _Room.left -= len(part)
            if len(held) > cap:
                raise TooLarge
            if _Room.left < 0:
                raise Overloaded
            if not more:
                return bytes(held)
            part, more = await _part(receive)
    finally:
        _Room.left += len(held)


def parse(data: bytes) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, no NUL, numbers as they are written."""
    try:
        value = jiter.from_json(
            data, allow_inf_nan=False, float_mode="decimal", catch_duplicate_keys=True
        )
    except ValueError as exc:
        raise BadRequest(f"The body is not strict JSON: {_complaint(str(exc))}.") from exc
    # Only such a body can break a bound that neither the parser nor a model keeps.
    if b"\\u0000" in data or data.count(b"[") + data.count(b"{") > DEEPEST:
        check(value)
    return value


def _complaint(text: str) -> str:
    """Repeat the parser's complaint without the caller's text in it."""
    reason = "a key occurs twice" if "duplicate key" in text else _PLACE.sub("", text)
    place = _PLACE.search(text)
    return f"{reason}, line {place[1]}, column {place[2]}" if place else reason

"""What a body may be: UTF-8 JSON, uncompressed, bounded, and meaning one thing only."""

import re
from collections.abc import Mapping
from typing import Any

import jiter
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from llmring_server.bounded import DEEPEST, check
from llmring_server.errors import BadRequest, TooLarge, UnsupportedMedia

KIB = 1024

JSON = "application/json"
NDJSON = "application/x-ndjson"

_PLACE = re.compile(r" at line (\d+) column (\d+)$")


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
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > cap:
            raise TooLarge
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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
